"""Masks as outlines and back. A mask's outline runs along the edges of its pixels, so that filling it gives the same
mask again; holes and further parts are joined to it by cuts that have no width."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import faster_coco_eval.core.mask as coco_rle
import numpy as np
from scipy.spatial import KDTree

_TURNS = {(1, 0): 0, (0, 1): 1, (-1, 0): 2, (0, -1): 3}  # right, down, left, up


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed line around a mask.

    Args:
        points_xy_px: (N,2) float64 corner coordinates in pixels.
        num_parts: separate parts of the mask (pixels that only touch at a corner are separate).
        num_holes: holes in them. With `num_parts + num_holes > 1` the line contains cuts without width.
    """

    points_xy_px: np.ndarray
    num_parts: int
    num_holes: int


def mask_of_polygons(polygons: Any, width: int, height: int, where: str) -> np.ndarray:
    """The area covered by polygons, filled as COCO fills them.

    Args:
        polygons: list of [x0, y0, x1, y1, ...] in pixels, three or more points each.
        width, height: of the picture.
        where: the entry, for the message.

    Returns:
        (H,W) bool; without pixels when the polygons have almost no area.

    Raises:
        ValueError: fewer than three points, or coordinates that are no pixels of such a picture.

    Example:
        >>> int(mask_of_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], 8, 8, "a").sum())
        6
    """
    low, high = -max(width, height), 2 * max(width, height)
    parts: list[Any] = polygons if isinstance(polygons, list) else [polygons]
    for part in parts:
        is_polygon = isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
        if not is_polygon or not all(is_number(value) and low <= value <= high for value in part):
            raise ValueError(
                f"{where}: a polygon of segmentation is {str(part)[:80]}; expected three or more points x, y in pixels "
                f"of the {width}x{height} picture, as [[x1, y1, x2, y2, x3, y3, ...], ...]. Correct or remove it."
            )
    return coco_rle.decode(coco_rle.merge(coco_rle.frPyObjects(parts, height, width))).astype(bool)


def is_number(value: Any) -> bool:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def outline_of(mask: np.ndarray) -> Outline:
    """One line around a mask which, filled by `mask_of_polygons`, gives the mask again.

    Args:
        mask: (H,W) bool with at least one pixel.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> mask = np.zeros((4, 5), bool); mask[1:3, 1:4] = True
        >>> outline_of(mask).points_xy_px.tolist()
        [[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]]
    """
    rings = _rings(mask)
    if not rings:
        raise ValueError("the mask has no pixel; expected at least one. Leave the object out.")
    areas = [_signed_area(ring) for ring in rings]
    line, *others = [rings[number] for number in np.argsort([-abs(area) for area in areas], kind="stable")]
    for ring in others:
        here, there = _nearest(line, ring)
        turned = np.roll(ring, -there, axis=0)
        line = np.concatenate([line[: here + 1], turned, turned[:1], line[here:]])
    return Outline(line.astype(np.float64), sum(area > 0 for area in areas), sum(area < 0 for area in areas))


def _rings(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines of corners (N,2) along pixel edges, the mask to their right: around parts and around holes."""
    padded = np.pad(np.asarray(mask, bool), 1)
    ends: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    # Each edge between a pixel inside and one outside, directed so that the inside lies to the right (y grows down).
    for (dy, dx), start, step in (
        ((-1, 0), (0, 0), (1, 0)),  # outside above: along the top edge, to the right
        ((0, 1), (1, 0), (0, 1)),  # outside at the right: down
        ((1, 0), (1, 1), (-1, 0)),  # outside below: to the left
        ((0, -1), (0, 1), (0, -1)),  # outside at the left: up
    ):
        rows, columns = np.nonzero(padded & ~np.roll(padded, (-dy, -dx), (0, 1)))
        for x, y in zip((columns - 1 + start[0]).tolist(), (rows - 1 + start[1]).tolist(), strict=True):
            ends[x, y].append((x + step[0], y + step[1]))
    rings = []
    while ends:
        first = here = next(iter(ends))
        direction, corners = None, []
        while here in ends:
            there, heading = _onward(here, ends[here], direction)
            if here == first and direction is not None and heading != (direction + 1) % 4:
                break  # what is left here belongs to a neighbour that touches this corner
            ends[here].remove(there)
            if not ends[here]:
                del ends[here]
            if heading != direction:
                corners.append(here)
            here, direction = there, heading
        if corners[0] == first and len(corners) > 1 and direction == _heading(first, corners[1]):
            corners.pop(0)  # the walk began in the middle of a straight side
        rings.append(np.array(corners))
    return rings


def _heading(here: tuple[int, int], there: tuple[int, int]) -> int:
    return _TURNS[int(np.sign(there[0] - here[0])), int(np.sign(there[1] - here[1]))]


def _onward(here: tuple[int, int], ways: list[tuple[int, int]], direction: int | None) -> tuple[tuple[int, int], int]:
    """The next corner; where two pixels touch at a corner the line turns right and stays with its own pixel."""
    headed = [(way, _heading(here, way)) for way in ways]
    if direction is None or len(headed) == 1:
        return headed[0]
    return next(way for way in headed if way[1] == (direction + 1) % 4)


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _nearest(line: np.ndarray, ring: np.ndarray) -> tuple[int, int]:
    """The places in line and ring of their two closest corners."""
    distances, places = KDTree(line).query(ring)
    there = int(np.argmin(distances))
    return int(places[there]), there
