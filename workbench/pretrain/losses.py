"""The losses of the three pre-training stages.

Stage 1 asks every cell of the feature maps what object it lies on and which phrases hold there. Stage 2 is the
detector's own criterion, with two additions that teach faster: probe queries at known objects, and a coarse map of the
phrase. Stage 3 draws the outlines of what is found by then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from sam3.boxes import cxcywh_to_xyxy, matched_iou, xyxy_to_cxcywh
from sam3.config import Sam3Config
from sam3.detector.criterion import LossWeights, criterion, dice_loss, semantic_losses, sigmoid_focal
from sam3.detector.detector import LayerOutput
from sam3.detector.matcher import Matches, Targets, match_one_to_one
from sam3.image_encoder import ImageFeatures
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.domains import shapes
from workbench.pretrain.batches import SceneBatch, ask, masks_of, probes

KINDS, COLOURS = tuple(shapes.KINDS), (*shapes.COLOURS, shapes.UNNAMED_COLOUR)
ATTRIBUTES = {"kind": KINDS, "colour": COLOURS, "texture": shapes.TEXTURES, "size": shapes.SIZES}


class DenseHeads(nn.Module):
    """Per-cell predictions that exist only while the encoders learn: attributes, box, outline, phrases."""

    def __init__(self, config: Sam3Config):
        super().__init__()
        width = config.detector.width
        channels = sum(len(values) for values in ATTRIBUTES.values()) + 1 + 4
        self.cell = nn.Conv2d(width, channels, 1)
        self.patch_outline = nn.Conv2d(config.image_encoder.width, 2 * 7 * 7, 1)
        self.outline = nn.Conv2d(width, 2, 1)
        self.own_mask = nn.Conv2d(width, 16 * 16, 1)
        self.phrase = nn.Linear(width, width)
        self.fused = nn.Linear(width, 1)
        self.phrase_bias = nn.Parameter(torch.tensor(-2.0))


def cell_losses(prediction: Tensor, batch: SceneBatch) -> tuple[Tensor, dict[str, float]]:
    """Attributes and boxes of the object under each cell centre; background counts a tenth.

    Args:
        prediction: (B, channels, g, g).
        batch: the scenes.
    """
    grid, side = prediction.shape[-1], batch.instance_map.shape[-1]
    label = cell_labels(batch.instance_map, grid)
    count = max(len(s.objects) for s in batch.scenes) + 1
    table = torch.zeros(len(batch.scenes), count, len(ATTRIBUTES), dtype=torch.long)
    boxes = torch.full((len(batch.scenes), count, 4), 0.5)
    for row, (scene, boxes_px) in enumerate(zip(batch.scenes, batch.boxes_xyxy_px, strict=True)):
        for column, o in enumerate(scene.objects, start=1):
            table[row, column] = torch.tensor([values.index(getattr(o, a)) for a, values in ATTRIBUTES.items()])
        boxes[row, 1 : len(boxes_px) + 1] = torch.from_numpy(boxes_px) / side
    image = torch.arange(len(batch.scenes), device=label.device)[:, None, None].expand_as(label)
    truth, corners = table.to(label.device)[image, label], boxes.to(label.device)[image, label]
    is_object = label > 0
    parts = prediction.permute(0, 2, 3, 1).split([*(len(v) for v in ATTRIBUTES.values()), 1, 4], dim=-1)
    loss = F.binary_cross_entropy_with_logits(parts[-2].squeeze(-1), is_object.float())
    accuracy = {}
    for index, (name, weight) in enumerate({"kind": 3.0, "colour": 1.0, "texture": 1.0, "size": 0.5}.items()):
        logits, wanted = parts[index][is_object], truth[..., index][is_object]
        loss = loss + weight * F.cross_entropy(logits, wanted)
        accuracy[name] = (logits.argmax(-1) == wanted).float().mean().item()
    centres = (torch.arange(grid, device=label.device) + 0.5) / grid
    centre = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).expand(len(label), -1, -1, -1)
    reach = F.softplus(parts[-1][is_object].float() - 2.0)
    found = torch.cat([centre[is_object] - reach[:, :2], centre[is_object] + reach[:, 2:]], dim=-1)
    _, giou = matched_iou(found, corners[is_object])
    return loss + 2 * (found - corners[is_object]).abs().sum(-1).mean() + (1 - giou).mean(), accuracy


def dense_loss(
    model: Sam3, heads: DenseHeads, batch: SceneBatch, rng: np.random.Generator, *, use_fine: bool
) -> tuple[Tensor, dict[str, float]]:
    """Stage-1 loss of one batch; `use_fine` lets the finest map take part, which costs more than all the rest."""
    encoder = model.image_encoder
    trunk = encoder.trunk(batch.pixel_values)
    coarse = encoder.pyramid[2](trunk)
    loss, values = cell_losses(heads.cell(coarse), batch)
    loss = loss + 4 * patch_outline_loss(heads.patch_outline(trunk), batch.instance_map)
    loss = loss + 4 * own_mask_loss(heads.own_mask(coarse), batch.instance_map)
    if use_fine:
        loss = loss + outline_loss(heads.outline(encoder.pyramid[0](trunk)), batch.instance_map)
    phrases = [shapes.sample_phrases(rng, scene, 5, 5) for scene in batch.scenes]
    text = model.encode_text([p.text for per_scene in phrases for p in per_scene])
    pooled = (text.tokens * text.is_valid[..., None]).sum(1) / text.is_valid.sum(1, keepdim=True)
    vectors = heads.phrase(pooled)
    label = cell_labels(batch.instance_map, coarse.shape[-1])
    start, terms = 0, []
    for row, (scene, per_scene) in enumerate(zip(batch.scenes, phrases, strict=True)):
        holds = torch.tensor([[False, *(p.matches(o) for o in scene.objects)] for p in per_scene], device=label.device)
        wanted = holds[:, label[row]].float()
        logits = torch.einsum("nc,chw->nhw", vectors[start : start + len(per_scene)], coarse[row]) / 10
        terms.append(sigmoid_focal(logits + heads.phrase_bias, wanted, alpha=0.6, gamma=1.0).mean())
        start += len(per_scene)
    alignment = torch.stack(terms).mean()
    return loss + 6 * alignment, {**values, "alignment": alignment.item()}


def cell_labels(instance_map: Tensor, grid: int) -> Tensor:
    """(B, grid, grid) the object number under each cell centre, 0 for ground."""
    stride = instance_map.shape[-1] // grid
    return instance_map[:, stride // 2 :: stride, stride // 2 :: stride]


def patch_outline_loss(prediction: Tensor, labels: Tensor) -> Tensor:
    """What each patch holds, on a 7 x 7 grid of its own: foreground, and outlines of objects.

    Shapes are told by their outlines. Asking every patch for its piece, whatever the colours, teaches that sooner than
    asking for names.

    Args:
        prediction: (B, 98, g, g).
        labels: (B, H, W) number of the object at each pixel, 0 for the ground.
    """
    grid = prediction.shape[-1]
    small = labels[:, :: labels.shape[-1] // (7 * grid), :: labels.shape[-1] // (7 * grid)]
    truth = torch.stack([small > 0, outlines(small)], dim=1).float()  # (B, 2, 7g, 7g)
    truth = truth.unflatten(3, (grid, 7)).unflatten(2, (grid, 7)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    return F.binary_cross_entropy_with_logits(prediction, truth)


def own_mask_loss(prediction: Tensor, labels: Tensor) -> Tensor:
    """The mask of the object each cell lies on, in a window eight cells wide around the cell.

    To say which pixels near it belong to its object a cell has to gather the outline from its neighbours, which is what
    telling shapes, drawing masks and keeping like neighbours apart all need.

    Args:
        prediction: (B, 256, g, g).
        labels: (B, H, W) number of the object at each pixel, 0 for the ground.
    """
    grid = prediction.shape[-1]
    stride = labels.shape[-1] // (2 * grid)
    small = labels[:, stride // 2 :: stride, stride // 2 :: stride][:, : 2 * grid, : 2 * grid]
    # Cell c has its centre at sample 2 c + 0.5; its window of 16 samples begins at 2 c - 7.
    windows = F.pad(small, (7, 8, 7, 8)).unfold(1, 16, 2).unfold(2, 16, 2)  # (B, g, g, 16, 16)
    own = cell_labels(labels, grid)
    is_object = own > 0
    truth = (windows == own[..., None, None])[is_object].flatten(1).float()
    return F.binary_cross_entropy_with_logits(prediction.permute(0, 2, 3, 1)[is_object], truth)


def outlines(labels: Tensor) -> Tensor:
    """(B, h, w) bool: pixels whose upper or left neighbour has another label."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
    return edge


def outline_loss(prediction: Tensor, labels: Tensor) -> Tensor:
    """Foreground and object edges on the finest map."""
    grid = prediction.shape[-1]
    rows = ((torch.arange(grid, device=labels.device) + 0.5) * labels.shape[-1] / grid).long()
    small = labels[:, rows][:, :, rows]
    truth = torch.stack([small > 0, outlines(small)], dim=1).float()
    return F.binary_cross_entropy_with_logits(prediction, truth)


@dataclass(frozen=True)
class Questions:
    """What is asked of a batch of scenes, and what is true: P (picture, phrase) pairs with O objects in all.

    Attributes:
        prompts: one list per scene.
        image_of: the scene of each pair.
        boxes: (N, 4) corners in 0..1 of all objects of each scene.
        image, number: (O,) scene and number in it of each true object.
        targets: what the detector should answer; mask_pairs: (M,) the pairs whose masks are trained.
    """

    prompts: list[list[Prompt]]
    image_of: list[int]
    boxes: list[Tensor]
    image: Tensor
    number: Tensor
    targets: Targets
    mask_pairs: Tensor

    @classmethod
    def drawn(
        cls, batch: SceneBatch, rng: np.random.Generator, phrases: int, exemplar_share: float, num_masks: int
    ) -> Questions:
        """Half of the phrases are there, half are not; at most `num_masks` pairs train masks."""
        device, side, half = batch.pixel_values.device, batch.instance_map.shape[-1], phrases // 2
        asked = [
            [ask(scene, p, rng, exemplar_share) for p in shapes.sample_phrases(rng, scene, half, phrases - half)]
            for scene in batch.scenes
        ]
        flat = [q for per_scene in asked for q in per_scene]
        image_of = [row for row, per_scene in enumerate(asked) for _ in per_scene]
        boxes = [torch.from_numpy(xyxy) / side for xyxy in batch.boxes_xyxy_px]
        pair = torch.tensor([p for p, q in enumerate(flat) for _ in q.found], dtype=torch.long)
        number = torch.tensor([n for q in flat for n in q.found], dtype=torch.long)
        image = torch.tensor([image_of[p] for p in pair.tolist()], dtype=torch.long)
        present = [p for p, q in enumerate(flat) if q.found]
        mask_pairs = torch.tensor(sorted(rng.permutation(present)[:num_masks].tolist()), dtype=torch.long)
        truth = torch.cat([torch.zeros(0, 4), *(boxes[i][n][None] for i, n in zip(image, number, strict=True))])
        targets = Targets(
            pair=pair.to(device),
            boxes_cxcywh=xyxy_to_cxcywh(truth).to(device),
            num_pairs=len(flat),
            masks=masks_of(batch.instance_map, image.to(device), number.to(device), 2),
            has_mask=torch.isin(pair, mask_pairs).to(device),
        )
        prompts = [[q.prompt for q in per_scene] for per_scene in asked]
        return cls(prompts, image_of, boxes, image.to(device), number.to(device), targets, mask_pairs.to(device))


def full_loss(
    model: Sam3,
    heads: DenseHeads,
    batch: SceneBatch,
    rng: np.random.Generator,
    *,
    phrases: int,
    exemplar_share: float,
    weights: LossWeights,
    with_masks: bool,
    by_anchor: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """Stage-2 loss: the detector's own losses, plus probes and the coarse phrase map.

    `by_anchor` makes the query whose anchor is nearest answer for an object, not the one whose prediction fits best:
    an assignment that does not change while the predictions are still poor.
    """
    asked = Questions.drawn(batch, rng, phrases, exemplar_share, len(batch.scenes))
    targets, encoder = asked.targets, model.image_encoder
    probe_boxes, probe_truth, probe_valid = probes(asked.boxes, asked.image_of, rng)
    trunk = encoder.trunk(batch.pixel_values)
    levels = range(3) if with_masks else (2,)
    features = ImageFeatures(tuple(encoder.pyramid[level](trunk) for level in levels))
    output = model.detect(
        features,
        asked.prompts,
        with_masks=with_masks,
        mask_pairs=asked.mask_pairs,
        probe_boxes_cxcywh=probe_boxes.to(batch.pixel_values.device),
    )
    losses = criterion(output, targets, weights, assigned=nearest_anchors(model, targets) if by_anchor else None)
    probe = probe_loss(output.probes, asked, probe_truth, probe_valid)
    phrase = phrase_map_loss(heads, output.fused_tokens, asked, batch)
    wrong = (output.presence_logits.detach() > 0) != targets.is_present
    # What stage 1 taught is kept up at little cost.
    cells, _ = cell_losses(heads.cell(features.pyramid[-1]), batch)
    dense = cells + 4 * patch_outline_loss(heads.patch_outline(trunk), batch.instance_map)
    dense = dense + 4 * own_mask_loss(heads.own_mask(features.pyramid[-1]), batch.instance_map)
    return losses.total + probe + 2 * phrase + dense, {
        **losses.to_floats(),
        "probe": probe.item(),
        "phrase_map": phrase.item(),
        "dense": dense.item(),
        "presence_accuracy": 1 - wrong.float().mean().item(),
    }


def probe_loss(layers: Sequence[LayerOutput], asked: Questions, truth: Tensor, valid: Tensor) -> Tensor:
    """Probes: a query at every object of the picture, asked whether that object is what the phrase says.

    Args:
        layers: the probes' outputs. asked: the phrases and what each is true of.
        truth: (P, N, 4) true boxes. valid: (P, N) which probes there are.
    """
    device = asked.targets.pair.device
    is_found = torch.zeros(valid.shape, device=device)
    is_found[asked.targets.pair, asked.number] = 1.0
    valid, truth = valid.to(device), truth.to(device)
    loss = is_found.new_zeros(())
    for layer in layers:
        answer = F.binary_cross_entropy_with_logits(layer.pred_logits, is_found, reduction="none")
        share = torch.where(is_found.bool(), 2.0, 1.0) * valid
        predicted, wanted = layer.pred_boxes_cxcywh[valid], truth[valid]
        _, giou = matched_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        box = 5 * (predicted - wanted).abs().sum(-1).mean() + 2 * (1 - giou).mean()
        loss = loss + 3 * (answer * share).sum() / share.sum() + 0.5 * box
    return loss


def phrase_map_loss(heads: DenseHeads, fused_tokens: Tensor, asked: Questions, batch: SceneBatch) -> Tensor:
    """After fusion, each cell should know whether it belongs to what is searched."""
    grid, targets = round(math.sqrt(fused_tokens.shape[1])), asked.targets
    phrase_map = heads.fused(fused_tokens).squeeze(-1).unflatten(1, (grid, grid))
    coarse = masks_of(batch.instance_map, asked.image, asked.number, batch.instance_map.shape[-1] // grid).float()
    union = torch.zeros(targets.num_pairs, grid, grid, device=coarse.device)
    union = union.index_add(0, targets.pair, coarse).clamp(max=1)
    loss = sigmoid_focal(phrase_map, union, alpha=0.6, gamma=1.0).mean() * 10
    present_rows = union.flatten(1).any(1)
    if present_rows.any():
        loss = loss + dice_loss(phrase_map[present_rows], union[present_rows]).mean()
    return loss


def masked_parts(model: Sam3) -> list[nn.Module]:
    """What only masks are made with: the mask head and the two fine levels of the pyramid."""
    return [model.detector.mask_head, *model.image_encoder.pyramid[:2]]


def outline_stage_loss(
    model: Sam3, batch: SceneBatch, rng: np.random.Generator, *, phrases: int, exemplar_share: float
) -> tuple[Tensor, dict[str, float]]:
    """Stage-3 loss: outlines of the objects the finished queries found; only `masked_parts` get gradients."""
    asked = Questions.drawn(batch, rng, phrases, exemplar_share, phrases * len(batch.scenes))
    output = model.detect(
        model.image_encoder(batch.pixel_values), asked.prompts, with_masks=True, mask_pairs=asked.mask_pairs
    )
    last, targets = output.layers[-1], asked.targets
    matches = match_one_to_one(last.pred_logits, last.pred_boxes_cxcywh, targets)
    boxes = last.pred_boxes_cxcywh[matches.pair, matches.query]
    iou, _ = matched_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_cxcywh[matches.target]))
    near = iou > 0.3  # a query that looks elsewhere cannot know this outline
    matches = Matches(matches.pair[near], matches.query[near], matches.target[near])
    assert targets.masks is not None
    truth = targets.masks[matches.target].float()
    logits = output.masks_of(matches.pair, matches.query, last).float()
    logits = F.interpolate(logits[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    share = truth.flatten(1).mean(1).clamp(min=5e-3)  # every object counts the same, whatever its size
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(1).mean(1) / share
    dice = dice_loss(logits, truth)
    semantic, semantic_dice = semantic_losses(output, targets)
    count = max(len(dice), 1)
    loss = (0.2 * cross_entropy.sum() + dice.sum()) / count + semantic + 0.5 * semantic_dice
    return loss, {
        "outline": cross_entropy.sum().item() / count,
        "dice": dice.sum().item() / count,
        "semantic_dice": semantic_dice.item(),
    }


def nearest_anchors(model: Sam3, targets: Targets) -> Matches:
    """The assignment with the least total squared distance from objects to the centres of their queries' anchors."""
    anchors = model.detector.decoder.anchors.weight.detach().float().sigmoid()[:, :2].cpu()
    centres = targets.boxes_cxcywh[:, :2].cpu()
    pairs, queries, chosen, start = [], [], [], 0
    for pair, count in enumerate(targets.counts):
        rows, columns = linear_sum_assignment(torch.cdist(centres[start : start + count], anchors).square().numpy())
        pairs += [pair] * len(rows)
        queries += columns.tolist()
        chosen += (rows + start).tolist()
        start += count
    device = targets.pair.device
    return Matches(*(torch.tensor(values, dtype=torch.long, device=device) for values in (pairs, queries, chosen)))
