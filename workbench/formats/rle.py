"""Masks as COCO run lengths (RLE), column by column; encoded and decoded here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faster_coco_eval.core.mask as coco_rle
import numpy as np


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
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; expected (H,W). Encode one mask at a time.")
    rle = coco_rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


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
    try:
        size, counts = [int(side) for side in rle["size"]], rle["counts"]
        if isinstance(counts, list | tuple):
            compressed = coco_rle.frPyObjects({"size": size, "counts": list(counts)}, *size)
        else:
            compressed = {"size": size, "counts": counts}
        return coco_rle.decode(compressed).astype(bool)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"run lengths cannot be decoded ({error}); expected size [height, width] and counts that add up to it. "
            "Export the masks anew."
        ) from error


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
