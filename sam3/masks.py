"""Masks of many objects at once: overlap, suppression of duplicates, small holes and specks, boxes, who owns a pixel.

A batch of K masks is one tensor (K, h, w), either bool or logits; a logit above 0 is inside. Nothing here depends on
the resolution except areas, which are in pixels of the given grid.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SUPPRESSED_LOGIT = -10.0  # what an object is set to where, or when, it is not to be seen
_MENDED_LOGIT = 0.1  # just inside; just outside with the sign turned


def mask_iou(masks: Tensor, others: Tensor) -> Tensor:
    """IoU of every mask with every other mask.

    Args:
        masks: (N, h, w) bool.
        others: (M, h, w) bool.

    Returns:
        (N, M) float32 in 0..1; 0 where both are empty.

    Example:
        >>> masks = torch.tensor([[[True, True], [False, False]], [[True, True], [True, True]]])
        >>> mask_iou(masks[:1], masks).tolist()
        [[1.0, 0.5]]
    """
    a, b = masks.flatten(1).float(), others.flatten(1).float()
    with torch.autocast(a.device.type, enabled=False):  # pixel counts do not fit into bfloat16
        shared = a @ b.T
    return shared / (a.sum(1)[:, None] + b.sum(1) - shared).clamp(min=1)


def mask_nms(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which masks stay when, best score first, each drops all later ones that overlap it too much.

    Args:
        masks: (N, h, w) bool.
        scores: (N,) any scale; of equal scores the earlier mask goes first.
        iou_threshold: masks with an IoU above this are taken for the same object.

    Returns:
        (N,) bool.

    Example:
        >>> masks = torch.ones(2, 4, 4, dtype=torch.bool)
        >>> mask_nms(masks, torch.tensor([0.6, 0.9]), 0.1).tolist()
        [False, True]
    """
    is_same = (mask_iou(masks, masks) > iou_threshold).cpu()
    is_kept = torch.zeros(len(masks), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist():
        is_kept[index] = not (is_same[index] & is_kept).any()
    return is_kept.to(masks.device)


def fill_holes(mask_logits: Tensor, max_area: int, logit: float) -> Tensor:
    """Logits without small holes; neighbours touch at corners.

    Args:
        mask_logits: (K, h, w).
        max_area: parts of the surroundings with up to this many pixels are filled.
        logit: put in their place.

    Returns:
        (K, h, w).

    Example:
        >>> ring = torch.tensor([[[1.0, 1, 1], [1, -1, 1], [1, 1, 1]]])
        >>> fill_holes(ring, 1, 10.0)[0, 1].tolist()
        [1.0, 10.0, 1.0]
    """
    if max_area <= 0 or not mask_logits.numel():
        return mask_logits
    holes = _small_parts((mask_logits <= 0).cpu().numpy(), np.full(len(mask_logits), max_area))
    return mask_logits.masked_fill(torch.from_numpy(holes).to(mask_logits.device), logit)


def mend_masks(mask_logits: Tensor, max_area: int) -> Tensor:
    """Logits without small holes and specks: holes are filled first, then specks removed; neighbours touch at corners.

    Args:
        mask_logits: (K, h, w).
        max_area: holes up to this many pixels are filled; specks up to this many pixels, and no more than half of
            their object, are removed. 0 changes nothing.

    Returns:
        (K, h, w) in which filled pixels are 0.1 and removed ones -0.1.

    Example:
        >>> ring = torch.tensor([[[1.0, 1, 1], [1, -1, 1], [1, 1, 1]]])
        >>> mend_masks(ring, 1)[0, 1].tolist()
        [1.0, 0.10000000149011612, 1.0]
    """
    if max_area <= 0 or not mask_logits.numel():
        return mask_logits
    filled = fill_holes(mask_logits, max_area, _MENDED_LOGIT)
    inside = (filled > 0).cpu().numpy()
    specks = _small_parts(inside, np.minimum(max_area, inside.sum(axis=(1, 2)) // 2))
    return filled.masked_fill(torch.from_numpy(specks).to(mask_logits.device), -_MENDED_LOGIT)


def _small_parts(masks: np.ndarray, max_areas: np.ndarray) -> np.ndarray:
    """(K, h, w) pixels of the connected parts of each mask with at most its `max_areas` (K,) pixels."""
    small = np.zeros_like(masks)
    for mask, max_area, result in zip(masks, max_areas, small, strict=True):
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        is_small = np.bincount(labels.ravel()) <= max_area
        is_small[0] = False  # the surroundings
        if is_small.any():
            result[:] = is_small[labels]
    return small


def mask_boxes(masks: Tensor) -> Tensor:
    """Smallest box around each mask.

    Args:
        masks: (K, h, w) bool.

    Returns:
        (K, 4) float32 xyxy in pixels, outer edges, so that a mask of one pixel has a box of one by one; zeros for an
        empty mask.

    Example:
        >>> mask_boxes(torch.eye(4, dtype=torch.bool)[None, 1:3]).tolist()
        [[1.0, 0.0, 3.0, 2.0]]
    """
    spans = []
    for has_pixel in (masks.any(1), masks.any(2)):  # columns, rows
        place = torch.arange(1, has_pixel.shape[1] + 1, device=masks.device) * has_pixel
        last = place.amax(1)
        first = torch.where(has_pixel, place, last[:, None]).amin(1) - 1
        spans.append((first.clamp(min=0), last))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=1).float()


def divide_pixels(masks: Tensor, scores: Tensor) -> Tensor:
    """Masks that no longer overlap: a shared pixel goes to the object with the highest score.

    Args:
        masks: (K, h, w) bool.
        scores: (K,) any scale; of equal scores the earlier object wins.

    Returns:
        (K, h, w) bool.

    Example:
        >>> divide_pixels(torch.ones(2, 1, 1, dtype=torch.bool), torch.tensor([0.4, 0.9])).flatten().tolist()
        [False, True]
    """
    if len(masks) < 2:
        return masks
    owner = torch.where(masks, scores[:, None, None], -torch.inf).max(0).indices  # ten times as fast as argmax
    return masks & (owner == torch.arange(len(masks), device=masks.device)[:, None, None])


def suppress_covered(mask_logits: Tensor, min_share: float) -> Tensor:
    """Logits in which objects that are mostly covered by others are suppressed altogether; the rest may still overlap.

    Args:
        mask_logits: (K, h, w); where objects overlap, the highest logit is in front, the first one of equal ones.
        min_share: an object with less than this share of its area in front is suppressed.

    Returns:
        (K, h, w); suppressed objects are at most -10 everywhere.

    Example:
        >>> suppress_covered(torch.tensor([[[3.0, 3.0]], [[5.0, 5.0]]]), 0.3).amax((1, 2)).tolist()
        [-10.0, 5.0]
    """
    if len(mask_logits) < 2:
        return mask_logits
    front = mask_logits.max(0).indices
    inside = mask_logits > 0
    in_front = inside & (front == torch.arange(len(mask_logits), device=mask_logits.device)[:, None, None])
    share = in_front.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    return torch.where((share < min_share)[:, None, None], mask_logits.clamp(max=SUPPRESSED_LOGIT), mask_logits)
