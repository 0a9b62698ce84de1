"""Box formats, overlaps and RoI-align in plain torch.

Normalised boxes run from 0 to 1 over the picture; `_xyxy` is corner form, `_cxcywh` centre form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corner form of centre-form boxes (..., 4).

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.25, 0.5])).tolist()
        [0.375, 0.25, 0.625, 0.75]
    """
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Centre form of corner-form boxes (..., 4)."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Logit of `x` clamped to 0..1, with both `x` and `1 - x` at least `eps`, as the released weights expect."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of every box of `a` (..., N, 4) with every box of `b` (..., M, 4): two tensors (..., N, M)."""
    area_a = (a_xyxy[..., 2] - a_xyxy[..., 0]) * (a_xyxy[..., 3] - a_xyxy[..., 1])
    area_b = (b_xyxy[..., 2] - b_xyxy[..., 0]) * (b_xyxy[..., 3] - b_xyxy[..., 1])
    low = torch.maximum(a_xyxy[..., :, None, :2], b_xyxy[..., None, :, :2])
    high = torch.minimum(a_xyxy[..., :, None, 2:], b_xyxy[..., None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = area_a[..., :, None] + area_b[..., None, :] - intersection
    return intersection / union.clamp(min=1e-9), union


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU (-1..1) of every pair of boxes: (..., N, M)."""
    iou, union = pairwise_iou(a_xyxy, b_xyxy)
    low = torch.minimum(a_xyxy[..., :, None, :2], b_xyxy[..., None, :, :2])
    high = torch.maximum(a_xyxy[..., :, None, 2:], b_xyxy[..., None, :, 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull.clamp(min=1e-9)


def matched_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of `a[i]` with `b[i]`: two tensors (N,)."""
    iou, _ = pairwise_iou(a_xyxy[:, None], b_xyxy[:, None])
    return iou.flatten(), pairwise_giou(a_xyxy[:, None], b_xyxy[:, None]).flatten()


def roi_align(features: Tensor, boxes_xyxy: Tensor, box_image: Tensor, size: int) -> Tensor:
    """Average of bilinear samples on a grid inside each box, the "legacy" way the released weights were trained with.

    Cell centres are not shifted by half a cell, each bin takes ceil(box side / size) samples per axis, and samples more
    than one cell outside the map count as zero.

    Args:
        features: (B, C, h, w).
        boxes_xyxy: (N, 4) in feature cells.
        box_image: (N,) long, the image each box lies in.
        size: bins per side.

    Returns:
        (N, C, size, size).
    """
    if not len(boxes_xyxy):
        return features.new_zeros(0, features.shape[1], size, size)
    height, width = features.shape[-2:]
    pooled = []
    for box, image in zip(boxes_xyxy.float(), box_image, strict=True):
        side = (box[2:] - box[:2]).clamp(min=1.0)
        weights = []
        for start, length, cells in ((box[1], side[1], height), (box[0], side[0], width)):
            samples = max(int(torch.ceil(length / size).item()), 1)
            offset = (torch.arange(size * samples, device=box.device, dtype=torch.float32) + 0.5) / samples
            position = start + offset * (length / size)
            is_inside = (position >= -1) & (position <= cells)
            position = position.clamp(0, cells - 1)
            low = position.floor().long().clamp(max=cells - 1)
            high = (low + 1).clamp(max=cells - 1)
            fraction = position - low
            weight = (
                F.one_hot(low, cells) * (1 - fraction)[:, None] + F.one_hot(high, cells) * fraction[:, None]
            ) * is_inside[:, None]
            weights.append(weight.unflatten(0, (size, samples)).mean(1))  # (size, cells)
        rows, columns = weights
        with torch.autocast(features.device.type, enabled=False):  # float32 also under autocast
            pooled.append(torch.einsum("chw,yh,xw->cyx", features[image].float(), rows, columns))
    return torch.stack(pooled).to(features.dtype)
