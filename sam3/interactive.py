"""One object cut out by clicks, a box or a mask: from prompts in pixels to masks in pixels, with the tracker's heads.

`ImagePredictor` calls this with the features of its picture; there is no memory of other frames. Paper: the promptable
segmentation task of SAM 1, which SAM 3 keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam3.masks import fill_holes
from sam3.prompts import ObjectPrompt
from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.prompt_encoder import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT, Hints
from sam3.tracker.tracker import FrameFeatures, Tracker

MASK_CONTRAST = 10.0  # logits that a mask is told with
LOGIT_LIMIT = 32.0  # of logits that are given back to be used again
MAX_HOLE_SHARE = 256 / 288**2  # of the grid of mask logits; smaller holes are filled


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of one object, best first: three when the prompt could mean several things, else one.

    Attributes:
        masks: (N, H, W) bool, small holes filled.
        iou_scores: (N,) float32 in 0..1, how well each mask is expected to fit.
        mask_logits: (N, h, w) float32 in -32..32, holes as they are; for the next `ObjectPrompt`.
        object_score: probability that there is an object at all.
    """

    masks: NDArray[np.bool_]
    iou_scores: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    object_score: float

    def __len__(self) -> int:
        return len(self.masks)


def segment_objects(
    tracker: Tracker,
    features: FrameFeatures,
    prompts: Sequence[ObjectPrompt],
    size: tuple[int, int],
    *,
    is_ambiguous: bool | None = None,
) -> list[Segmentation]:
    """Cuts objects out of one picture.

    Args:
        tracker: its prompt encoder and mask decoder are used.
        features: of the picture.
        prompts: one per object; the answers do not depend on each other.
        size: (H, W) of the picture in pixels.
        is_ambiguous: give three masks each; by default those objects get three that are shown by one click alone.

    Raises:
        ValueError: a click or box lies outside the picture.
    """
    for prompt in prompts:
        refuse_outside(prompt, size)
    groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)  # equal numbers of points share a batch
    for row, prompt in enumerate(prompts):
        points, has_mask = _num_points(prompt), prompt.mask is not None or prompt.mask_logits is not None
        is_open = (points == 1 and not has_mask) if is_ambiguous is None else is_ambiguous
        groups[points, has_mask, is_open].append(row)
    answers: dict[int, Segmentation] = {}
    for (_, _, is_open), rows in groups.items():
        hints = hints_of([prompts[row] for row in rows], size, features)
        candidates = tracker.segment(features, hints, is_ambiguous=is_open)
        answers |= {row: _segmentation(candidates, index, size) for index, row in enumerate(rows)}
    return [answers[row] for row in range(len(prompts))]


def _num_points(prompt: ObjectPrompt) -> int:
    return len(prompt.clicks) + (0 if prompt.box_xyxy_px is None else 2)


def refuse_outside(prompt: ObjectPrompt, size: tuple[int, int]) -> None:
    """Refuses a prompt whose click or box lies outside a picture of `size` (H, W).

    Raises:
        ValueError: it does.
    """
    height, width = size
    for click in prompt.clicks:
        if not (0 <= click.x_px <= width and 0 <= click.y_px <= height):
            raise ValueError(
                f"{click} lies outside the picture, which is {width} pixels wide and {height} high; give pixels of the "
                "picture, x before y"
            )
    if prompt.box_xyxy_px is not None:
        x0, y0, x1, y1 = np.asarray(prompt.box_xyxy_px).tolist()
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise ValueError(
                f"the box {[x0, y0, x1, y1]} lies outside the picture, which is {width} pixels wide and {height} high; "
                "give pixels of the picture, x before y"
            )


def hints_of(prompts: Sequence[ObjectPrompt], size: tuple[int, int], features: FrameFeatures) -> Hints:
    """Prompts with equally many points, on a picture of `size` (H, W), as the tracker takes them."""
    device = features.coarse.device
    points = np.zeros((len(prompts), _num_points(prompts[0]), 2), dtype=np.float32)
    labels = np.zeros(points.shape[:2], dtype=np.int64)
    for row, prompt in enumerate(prompts):
        corners = [] if prompt.box_xyxy_px is None else np.asarray(prompt.box_xyxy_px).reshape(2, 2).tolist()
        places = corners + [[click.x_px, click.y_px] for click in prompt.clicks]
        kinds = [TOP_LEFT, BOTTOM_RIGHT][: len(corners)]
        kinds += [POSITIVE if click.is_positive else NEGATIVE for click in prompt.clicks]
        points[row], labels[row] = np.reshape(places, (-1, 2)), kinds
    points /= np.array([size[1], size[0]], dtype=np.float32)
    masks = [_mask_logits(prompt, features) for prompt in prompts]
    rough = torch.stack([mask for mask in masks if mask is not None]) if masks[0] is not None else None
    return Hints(torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device), rough)


def _mask_logits(prompt: ObjectPrompt, features: FrameFeatures) -> Tensor | None:
    """The prompt's mask (1, 4h, 4w); None when it has none."""
    size = (features.fine.shape[-2], features.fine.shape[-1])
    if prompt.mask_logits is not None:
        logits = torch.as_tensor(prompt.mask_logits, device=features.fine.device)[None, None]
    elif prompt.mask is not None:
        inside = torch.as_tensor(prompt.mask, device=features.fine.device).float()[None, None]
        logits = (2 * inside - 1) * MASK_CONTRAST
    else:
        return None
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", antialias=True, align_corners=False)
    return logits[0]


def _segmentation(candidates: MaskCandidates, row: int, size: tuple[int, int]) -> Segmentation:
    order = candidates.iou_scores[row].argsort(descending=True, stable=True)
    logits = candidates.mask_logits[row, order]
    max_hole = round(MAX_HOLE_SHARE * logits.shape[-2] * logits.shape[-1])
    filled = fill_holes(logits, max_hole, MASK_CONTRAST)
    full = F.interpolate(filled[None], size=size, mode="bilinear", align_corners=False)[0]
    return Segmentation(
        masks=(full > 0).cpu().numpy(),
        iou_scores=candidates.iou_scores[row, order].cpu().numpy(),
        mask_logits=logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).cpu().numpy(),
        object_score=float(candidates.object_score_logits[row].sigmoid()),
    )
