"""The training losses of the detector: boxes, classification, presence, masks and the semantic map.

In: `DetectorOutput` in training mode and `Targets`. Out: `Losses`, each term by name and their weighted sum. Paper:
appendix C.2; the presence term supervises recognition, so absent concepts give no gradient to single queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sam3.boxes import cxcywh_to_xyxy, matched_iou
from sam3.detector.detector import DetectorOutput, LayerOutput
from sam3.detector.matcher import Matches, Targets, match_one_to_many, match_one_to_one

PIXELS_AT_ONCE = 2**23  # of masks; a loss needs some forty bytes for each


@dataclass(frozen=True)
class LossWeights:
    """Weight of every term; defaults are those of the released fine-tuning recipes."""

    box: float = 5.0
    giou: float = 2.0
    classification: float = 20.0
    positive: float = 10.0
    presence: float = 20.0
    mask: float = 200.0
    dice: float = 10.0
    semantic: float = 0.0
    semantic_dice: float = 0.0
    one_to_many: float = 2.0


@dataclass(frozen=True)
class Losses:
    """Unweighted terms, summed over layers, and the weighted `total`."""

    total: Tensor
    box: Tensor
    giou: Tensor
    classification: Tensor
    presence: Tensor
    mask: Tensor
    dice: Tensor
    semantic: Tensor
    semantic_dice: Tensor

    def to_floats(self) -> dict[str, float]:
        """Plain numbers, for logs."""
        return {f.name: float(getattr(self, f.name).detach()) for f in fields(self)}


@dataclass(frozen=True)
class BatchSize:
    """Over how many objects and pairs losses are averaged: those of a whole batch that is worked off in parts."""

    num_objects: int
    num_pairs: int


def criterion(
    output: DetectorOutput,
    targets: Targets,
    weights: LossWeights,
    *,
    assigned: Matches | None = None,
    whole: BatchSize | None = None,
) -> Losses:
    """All losses of one batch, over every decoder layer and both halves of the queries.

    Args:
        output: of a detector in training mode.
        targets: what its P pairs should have found.
        assigned: which query answers for which object in every one-to-one layer; default the Hungarian matching of the
            layer's own predictions, which a model that predicts nothing useful yet cannot profit from.
        whole: of the batch these pairs are part of; the losses of all parts then add up to those of the batch.

    Raises:
        ValueError: the output and the targets speak of different numbers of pairs.
    """
    if output.pred_logits.shape[0] != targets.num_pairs:
        raise ValueError(
            f"received predictions for {output.pred_logits.shape[0]} pairs and targets for {targets.num_pairs}; "
            "build both from the same prompts"
        )
    terms: dict[str, Tensor] = {f.name: output.pred_logits.new_zeros(()) for f in fields(Losses) if f.name != "total"}
    whole = whole or BatchSize(len(targets.pair), targets.num_pairs)
    normaliser, share = max(whole.num_objects, 1), targets.num_pairs / whole.num_pairs

    def add(
        layer: LayerOutput,
        match: Callable[..., Matches],
        factor: float,
        is_last: bool,
        given: Matches | None = None,
    ) -> None:
        matches = given or match(layer.pred_logits, layer.pred_boxes_cxcywh, targets)
        box, giou = box_losses(layer, targets, matches, normaliser)
        terms["box"] = terms["box"] + factor * box
        terms["giou"] = terms["giou"] + factor * giou
        classification = classification_loss(layer, targets, matches, weights.positive)
        terms["classification"] = terms["classification"] + factor * share * classification
        if is_last and output.mask_features is not None and targets.masks is not None:
            mask, dice = mask_losses(output, layer, targets, matches, normaliser)
            terms["mask"] = terms["mask"] + factor * mask
            terms["dice"] = terms["dice"] + factor * dice

    for layer in output.layers:
        add(layer, match_one_to_one, 1.0, layer is output.layers[-1], assigned)
        terms["presence"] = terms["presence"] + share * presence_loss(layer.presence_logits, targets)
    for layer in output.one_to_many:
        is_last = layer is output.one_to_many[-1]
        # Only the final layer is matched one-to-many; the earlier ones learn by the Hungarian assignment.
        add(layer, match_one_to_many if is_last else match_one_to_one, weights.one_to_many, is_last)
    if weights.semantic and output.mask_features is not None and targets.masks is not None:
        terms["semantic"], terms["semantic_dice"] = semantic_losses(output, targets)
    total = sum(
        (getattr(weights, name) * value for name, value in terms.items()), start=output.pred_logits.new_zeros(())
    )
    return Losses(total=total, **terms)


def box_losses(layer: LayerOutput, targets: Targets, matches: Matches, normaliser: float) -> tuple[Tensor, Tensor]:
    """L1 of cxcywh and 1 - GIoU, summed over matches and divided by `normaliser` (the number of objects)."""
    predicted = layer.pred_boxes_cxcywh[matches.pair, matches.query].float()
    truth = targets.boxes_cxcywh[matches.target].float()
    _, giou = matched_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth))
    return (predicted - truth).abs().sum() / normaliser, (1 - giou).sum() / normaliser


def classification_loss(
    layer: LayerOutput, targets: Targets, matches: Matches, positive_weight: float, *, with_presence: bool = True
) -> Tensor:
    """IoU-aware binary cross-entropy of the match logits.

    A matched query aims at p^0.25 IoU^0.75 (at least 0.01) and counts `positive_weight` times; an unmatched one aims at
    0 and counts p^2. Pairs without any object are left out, since presence answers for them.

    Args:
        with_presence: False keeps every pair (a model without presence supervision).
    """
    logits = layer.pred_logits.float()
    probability = logits.detach().sigmoid()
    matched = (matches.pair, matches.query)
    predicted = layer.pred_boxes_cxcywh[matched].detach().float()
    iou, _ = matched_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(targets.boxes_cxcywh[matches.target].float()))
    # Laid out over all queries, so that a query that serves several objects has one aim and one gradient.
    aim = (probability[matched] ** 0.25 * iou.clamp(min=0) ** 0.75).clamp(min=0.01)
    aims = torch.zeros_like(logits).index_put(matched, aim)
    weight = (logits.sigmoid() ** 2).index_put(matched, torch.full_like(aim, positive_weight))
    loss = F.binary_cross_entropy_with_logits(logits, aims, reduction="none") * weight
    if with_presence:
        loss = loss * targets.is_present[:, None]
    if targets.is_exhaustive is None:
        # A mean over all queries, but never over fewer than the released model has.
        return loss.sum() / (loss.shape[0] * max(loss.shape[1], 200))
    is_counted = targets.is_exhaustive[:, None].expand_as(loss).clone()
    is_counted[matched] = True
    return (loss * is_counted).sum() / is_counted.sum().clamp(min=1)


def presence_loss(presence_logits: Tensor, targets: Targets) -> Tensor:
    """Half the binary cross-entropy of "the concept is in the picture", averaged over pairs whose answer is known."""
    loss = 0.5 * F.binary_cross_entropy_with_logits(
        presence_logits.float(), targets.is_present.float(), reduction="none"
    )
    if targets.presence_weight is None:
        return loss.mean()
    return (loss * targets.presence_weight).sum() / targets.presence_weight.sum().clamp(min=1.0)


def mask_losses(
    output: DetectorOutput, layer: LayerOutput, targets: Targets, matches: Matches, normaliser: float
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of the masks of matched queries, at the size of the target masks.

    Of many large masks only some are in memory at once: each part is computed again in the backward pass.
    """
    assert targets.masks is not None
    if targets.has_mask is not None:
        kept = targets.has_mask[matches.target]
        matches = Matches(matches.pair[kept], matches.query[kept], matches.target[kept])
    if not len(matches.pair):
        return output.pred_logits.new_zeros(()), output.pred_logits.new_zeros(())
    masks = targets.masks

    def terms(pair: Tensor, query: Tensor, target: Tensor) -> Tensor:
        truth = masks[target].float()
        logits = output.masks_of(pair, query, layer).float()
        logits = F.interpolate(logits[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        focal = sigmoid_focal(logits, truth, alpha=0.25, gamma=2.0).flatten(1).mean(1).sum()
        return torch.stack([focal, dice_loss(logits, truth).sum()])

    at_once = max(PIXELS_AT_ONCE // masks[0].numel(), 1)
    if len(matches.pair) <= at_once:
        focal, dice = terms(matches.pair, matches.query, matches.target)
    else:
        couples = zip(*(part.split(at_once) for part in (matches.pair, matches.query, matches.target)), strict=True)
        parts = [checkpoint(terms, *c, use_reentrant=False, preserve_rng_state=False) for c in couples]
        focal, dice = torch.stack(parts).sum(0)
    return focal / normaliser, dice / normaliser


def semantic_losses(output: DetectorOutput, targets: Targets) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of the semantic map against the union of instance masks, over pairs that have objects.

    A pair with an object that has no mask is left out: its union is not known.
    """
    assert targets.masks is not None
    logits = output.semantic_logits[:, 0].float()
    present = targets.is_present
    if targets.has_mask is not None:
        present = present.index_put((targets.pair[~targets.has_mask],), present.new_zeros(()))
    present = present[output.mask_pairs]
    if not present.any():
        return logits.new_zeros(()), logits.new_zeros(())
    union = torch.zeros(targets.num_pairs, *targets.masks.shape[-2:], device=logits.device)
    union = union.index_add(0, targets.pair, targets.masks.float()).clamp(max=1.0)[output.mask_pairs][present]
    logits = F.interpolate(logits[present][:, None], size=union.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return sigmoid_focal(logits, union, alpha=0.6, gamma=2.0).mean(), dice_loss(logits, union).mean()


def sigmoid_focal(logits: Tensor, truth: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Elementwise focal loss of binary logits."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrongness = truth * (1 - probability) + (1 - truth) * probability
    return (truth * alpha + (1 - truth) * (1 - alpha)) * cross_entropy * wrongness**gamma


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """(N,) one minus the smoothed dice overlap of masks (N, H, W)."""
    probability, truth = logits.sigmoid().flatten(1), truth.flatten(1)
    return 1 - (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)
