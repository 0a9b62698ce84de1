"""The tracker's training objective over a window: what is asked in each frame, and what is wrong about the answers.

Losses of a frame: focal : dice : IoU : object score = 20 : 1 : 1 : 1. Of several candidates only the best one learns
its mask; all learn how good they are; nothing is learnt of a mask that is not visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.memory import MEMORY_MASK_STRIDE
from sam3.tracker.memory_bank import MemoryBank, MemoryEntry
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import FrameFeatures, Tracker, TrackerOutput
from workbench.pretrain.windows import Window, boxes_of, clicks_of, corrections, roughened

FOCAL_WEIGHT = 20.0
HIDDEN_WEIGHT = 2.0  # of the score of an object that is not visible: rare, and what a wrong one does stays in memory
MIN_MEMORY_FRAMES = 3
BY_QUALITY = 0.8  # share of windows in which memory is chosen as sessions do
LOGIT_LIMIT = 32.0  # of mask logits that are told again


@dataclass(frozen=True)
class Hinting:
    """How objects are shown.

    Attributes:
        click, box: shares of windows whose objects are shown by a click or a box; a mask in all others.
        first_correction: share of the windows with a click or box in which a second click follows at once.
        later_correction: share of the windows in which a click comes in a later frame.
    """

    click: float = 0.35
    box: float = 0.25
    first_correction: float = 0.25
    later_correction: float = 0.15


def frame_loss(candidates: MaskCandidates, masks: Tensor) -> dict[str, Tensor]:
    """The four losses of K objects in a frame, and how well the mask with the highest score fits.

    Args:
        candidates: N masks each, of any size.
        masks: (K, H, W) covered part of every pixel, 0..1, at the size at which masks are compared; empty where the
            object is not visible.

    Returns:
        "focal", "dice", "iou" and "score", each summed over the objects, and "fit", the overlap of what was answered.
    """
    logits = F.interpolate(candidates.mask_logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    is_visible = masks.flatten(1).any(1)
    score = F.binary_cross_entropy_with_logits(
        candidates.object_score_logits,
        is_visible.float(),
        weight=torch.where(is_visible, 1.0, HIDDEN_WEIGHT),
        reduction="sum",
    )
    truth = masks[:, None].expand_as(logits)
    focal = _focal(logits, truth).mean((-2, -1))  # (K, N)
    inside = logits.sigmoid()
    dice = 1 - (2 * (inside * truth).sum((-2, -1)) + 1) / (inside.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    with torch.no_grad():
        answer, hard = logits > 0, truth > 0.5
        fits = (answer & hard).sum((-2, -1)) / (answer | hard).sum((-2, -1)).clamp(min=1)
        row, chosen = torch.arange(len(masks)), candidates.iou_scores.argmax(1)
    best = (FOCAL_WEIGHT * focal + dice).argmin(1)
    return {
        "focal": FOCAL_WEIGHT * (focal[row, best] * is_visible).sum(),
        "dice": (dice[row, best] * is_visible).sum(),
        "iou": ((candidates.iou_scores - fits).abs().mean(1) * is_visible).sum(),
        "score": score,
        "fit": (fits[row, chosen] * is_visible).sum(),
    }


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss of every pixel: alpha 0.25, gamma 2."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    missing = probability + truth - 2 * probability * truth
    return (0.25 * truth + 0.75 * (1 - truth)) * missing.square() * cross_entropy


def window_loss(
    tracker: Tracker,
    pyramid: nn.ModuleList,
    windows: Sequence[Window],
    rng: np.random.Generator,
    hinting: Hinting,
    *,
    learnt: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """The mean loss of windows per object and frame, and its parts.

    Args:
        tracker: in training mode.
        pyramid: the tracker's, of the image encoder.
        windows: what is seen, equally many frames of each. Their objects are one batch and share a memory.
        rng: source of every random choice.
        hinting: how the objects are shown.
        learnt: share of the later frames that are learnt from; in the others the tracker only goes on. Frames in which
            an object comes or goes are learnt from in any case.
    """
    device = tracker.no_memory_embed.device
    trunk = torch.from_numpy(np.concatenate([window.clip.features for window in windows])).to(device).float()
    frames = tracker.prepare_from(pyramid, trunk)
    masks = np.concatenate([window.masks for window in windows])
    truth = F.avg_pool2d(torch.from_numpy(masks).float(), 2).to(device)  # (K, F, H / 2, W / 2)
    is_visible = np.asarray(masks.any((2, 3)))
    num_frames = len(is_visible[0])
    counts = torch.tensor([len(window.masks) for window in windows])
    starts = torch.repeat_interleave(torch.arange(len(windows)) * num_frames, counts).to(device)  # (K,)
    is_learnt = rng.random(num_frames) < learnt
    is_learnt[1:] |= (is_visible[:, 1:] != is_visible[:, :-1]).any(0)
    is_learnt[0] = True
    corrected = int(rng.integers(num_frames)) if rng.random() < hinting.later_correction else 0
    num_remembered = int(rng.integers(MIN_MEMORY_FRAMES, tracker.config.num_memory_frames + 1))
    bank = MemoryBank(num_remembered, by_quality=bool(rng.random() < BY_QUALITY))
    answers: list[tuple[int, dict[str, Tensor]]] = []
    for time in range(num_frames):
        features, is_hinted = frames[time if len(windows) == 1 else starts + time], time in (0, corrected)
        with torch.set_grad_enabled(bool(is_learnt[time])):
            if time == 0:
                outputs = first_outputs(tracker, features, masks[:, 0], rng, hinting)
            else:
                outputs = [tracker.step(features, memory=bank.recall(time), with_memory=False)]
                if is_hinted:
                    hints = corrected_hints(rng, outputs[0], masks[:, time], None)
                    outputs.append(tracker.step(features, hints=hints, with_memory=False))
            if is_learnt[time]:
                answers += [(time, frame_loss(output.candidates, truth[:, time])) for output in outputs]
        if time + 1 < num_frames:
            with torch.set_grad_enabled(is_hinted):
                entry = memory_of(tracker, features, outputs[-1], is_conditioning=is_hinted)
            # How to be written is learnt by what a hint shows. Through memory of memory gradients grow to several
            # times their size in eight frames, and tracking gets worse.
            bank.store(time, entry if is_hinted else entry.detached())
    return _mean_loss(answers, is_visible)


def _mean_loss(answers: list[tuple[int, dict[str, Tensor]]], is_visible: np.ndarray) -> tuple[Tensor, dict[str, float]]:
    """Losses of masks per visible object, those of the score per object."""
    times = [time for time, _ in answers]
    num_visible = max(int(is_visible[:, times].sum()), 1)
    total = {name: torch.stack([part[name] for _, part in answers]).sum() for name in answers[0][1]}
    values = {
        name: value / (len(times) * len(is_visible) if name == "score" else num_visible)
        for name, value in total.items()
    }
    loss = values["focal"] + values["dice"] + values["iou"] + values["score"]
    return loss, {name: float(value.detach()) for name, value in {**values, "loss": loss}.items()}


def first_outputs(
    tracker: Tracker, features: FrameFeatures, masks: np.ndarray, rng: np.random.Generator, hinting: Hinting
) -> list[TrackerOutput]:
    """What the first frame answers to a hint, and to a second click where there is one."""
    device, kind = features.coarse.device, rng.random()
    if kind >= hinting.click + hinting.box:
        rough = np.stack([roughened(rng, mask) for mask in masks])
        return [tracker.adopt(features, torch.from_numpy(rough).to(device), with_memory=False)]
    hints = _to(clicks_of(rng, masks) if kind < hinting.click else boxes_of(rng, masks), device)
    outputs = [tracker.step(features, hints=hints, with_memory=False)]
    if rng.random() < hinting.first_correction:
        again = corrected_hints(rng, outputs[0], masks, hints)
        outputs.append(tracker.step(features, hints=again, with_memory=False))
    return outputs


def corrected_hints(rng: np.random.Generator, output: TrackerOutput, masks: np.ndarray, earlier: Hints | None) -> Hints:
    """The earlier points and a click on what is wrong, with the logits that were answered."""
    device, logits = output.mask_logits.device, output.mask_logits.detach()[:, None]
    found = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False).squeeze(1) > 0
    points, labels = (tensor.to(device) for tensor in corrections(rng, found.cpu().numpy(), masks))
    if earlier is not None:
        points = torch.cat([earlier.points_xy, points], dim=1)
        labels = torch.cat([earlier.labels, labels], dim=1)
    return Hints(points, labels, logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))


def memory_of(
    tracker: Tracker, features: FrameFeatures, output: TrackerOutput, *, is_conditioning: bool
) -> MemoryEntry:
    """What a session stores of a frame: hinted masks as they lie, others as sure as they are."""
    size = (MEMORY_MASK_STRIDE * features.grid[0], MEMORY_MASK_STRIDE * features.grid[1])
    logits = F.interpolate(output.mask_logits[:, None], size=size, mode="bilinear", align_corners=False).squeeze(1)
    return tracker.memorise(
        features, output, is_conditioning=is_conditioning, is_binary=is_conditioning, mask_logits=logits
    )


def _to(hints: Hints, device: torch.device) -> Hints:
    return replace(hints, points_xy=hints.points_xy.to(device), labels=hints.labels.to(device))


def mean_values(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each value."""
    return {name: sum(value[name] for value in values) / len(values) for name in values[0]}
