"""Masks as COCO run lengths (RLE) for JSON, column by column; the coding itself is in `sam3.rle`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sam3.rle import Rle


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """The mask as COCO compressed run lengths, ready for JSON.

    Args:
        mask: (H,W) bool.

    Returns:
        {"size": [H, W], "counts": text}.

    Example:
        >>> rle_of(np.eye(3, dtype=bool))
        {'size': [3, 3], 'counts': '013000'}
    """
    return Rle.of(mask).to_json()


def mask_of(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask of COCO run lengths, compressed (text) or not (list of numbers).

    Returns:
        (H,W) bool.

    Raises:
        ValueError: no run lengths, or a number of pixels that does not fit their size.

    Example:
        >>> mask_of({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
        [[False, True], [True, False]]
    """
    return Rle.from_json(rle).mask()


def fitting_mask_of(rle: Mapping[str, Any], width: int, height: int, where: str) -> np.ndarray:
    """The mask of run lengths that belong to a picture of a known size in pixels.

    Raises:
        ValueError: as `mask_of`, or the mask has another size than the picture; the message begins with `where`.
    """
    try:
        mask = mask_of(rle)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if mask.shape != (height, width):
        raise ValueError(
            f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]}, its picture {width}x{height} (width x height); "
            "expected the same size. Check that the annotation belongs to this picture."
        )
    return mask
