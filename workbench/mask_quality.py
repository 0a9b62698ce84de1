"""Quality of one mask against one true mask: region overlap J, boundary agreement F, and overlap with the smaller one.

J and F are the two measures of video object segmentation; their mean is written J&F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

_DAVIS_TOLERANCE = 0.008  # of the diagonal


@dataclass(frozen=True)
class MaskQuality:
    """Agreement of two masks.

    Args:
        region: J, intersection over union, 0..1; 1 when both masks are empty.
        boundary: F, how far the two outlines lie on each other, 0..1; 1 when both masks are empty.
        smaller: intersection over the area of the smaller mask, 0..1; 0 when either mask is empty.
    """

    region: float
    boundary: float
    smaller: float

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.boundary) / 2


def mask_quality(mask: np.ndarray, truth: np.ndarray, tolerance_px: int | None = None) -> MaskQuality:
    """J, F and the overlap with the smaller mask.

    Args:
        mask: (H, W) bool.
        truth: (H, W) bool.
        tolerance_px: how far two boundary pixels may lie apart, along each axis; None for the rule of DAVIS,
            0.8 % of the diagonal, rounded up.

    Returns:
        The three measures.

    Raises:
        ValueError: the two masks differ in shape.

    Example:
        >>> truth = np.zeros((8, 8), bool)
        >>> truth[2:6, 2:6] = True
        >>> quality = mask_quality(np.roll(truth, 1, axis=1), truth)
        >>> quality.region, quality.boundary, quality.smaller
        (0.6, 1.0, 0.75)
    """
    mask, truth = np.asarray(mask, dtype=bool), np.asarray(truth, dtype=bool)
    if mask.shape != truth.shape or mask.ndim != 2:
        raise ValueError(
            f"masks of shapes {mask.shape} and {truth.shape} were given, expected one (H, W); resize first"
        )
    shared, either = int((mask & truth).sum()), int((mask | truth).sum())
    smaller = min(int(mask.sum()), int(truth.sum()))
    return MaskQuality(
        region=shared / either if either else 1.0,
        boundary=boundary_f(mask, truth, tolerance_px),
        smaller=shared / smaller if smaller else 0.0,
    )


def boundary_f(mask: np.ndarray, truth: np.ndarray, tolerance_px: int | None = None) -> float:
    """F alone: harmonic mean of the shares of each outline that lie on the other; arguments as `mask_quality`."""
    if tolerance_px is None:
        tolerance_px = math.ceil(_DAVIS_TOLERANCE * math.hypot(*mask.shape))
    found, true = _outline(mask), _outline(truth)
    num_found, num_true = int(found.sum()), int(true.sum())
    if not num_found or not num_true:
        return float(num_found == num_true)
    precision = (found & _grown(true, tolerance_px)).sum() / num_found
    recall = (true & _grown(found, tolerance_px)).sum() / num_true
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the neighbour to the right, below, or below and to the right."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")  # beyond the border the picture goes on as it is
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _grown(mask: np.ndarray, radius_px: int) -> np.ndarray:
    return maximum_filter(mask, size=2 * radius_px + 1, mode="constant")
