"""Label maps of the demo pictures, made by classical means from the pictures that ship inside scikit-image.

A picture comes in as the array that `skimage.data` returns; a `LabelMap` four times as fine goes out. What the eye had
to decide lies in `corrections.json`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage as ndi
from skimage import draw, filters, morphology, segmentation

FINE = 4
"""Label pixels per picture pixel along each axis."""


@dataclass(frozen=True)
class LabelMap:
    """Objects of one picture, on a grid `FINE` times as fine as its pixels.

    Args:
        objects: (FINE*H, FINE*W) int32, 0 where there is none, else the object's number.
        doubtful: (FINE*H, FINE*W) bool, where the eye could not decide whether an object of this kind lies there.
    """

    objects: np.ndarray
    doubtful: np.ndarray


def enlarge(picture: np.ndarray) -> np.ndarray:
    """Return the picture enlarged `FINE` times, as float64.

    Args:
        picture: (H, W) or (H, W, 3) uint8.
    """
    height, width = picture.shape[:2]
    size = (width * FINE, height * FINE)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)).astype(float)


def label_coins(picture: np.ndarray) -> LabelMap:
    """Return one label per coin: brighter than its surroundings, with the outline moved to the steepest edge.

    Args:
        picture: (H, W) uint8 grey values.
    """
    grey = picture.astype(float)
    smooth = ndi.gaussian_filter(grey, 1.0)
    surroundings = ndi.gaussian_filter(np.kron(ndi.percentile_filter(grey[::3, ::3], 20, size=21), np.ones((3, 3))), 10)
    rough = ndi.binary_fill_holes(ndi.binary_closing(smooth - surroundings > 18, iterations=2))
    rough = ndi.binary_opening(rough, iterations=4)
    inside = ndi.binary_erosion(rough, iterations=4)
    outside = ~ndi.binary_dilation(rough, iterations=5)
    flooded = segmentation.watershed(filters.sobel(smooth), outside.astype(int) + 2 * inside)
    parts, _ = ndi.label(flooded == 2)
    coins = _keep(parts, np.bincount(parts.ravel()) >= 900)
    fine = np.zeros((grey.shape[0] * FINE, grey.shape[1] * FINE), np.int32)
    for number, (rows, columns) in enumerate(ndi.find_objects(coins), start=1):
        mask = np.kron(coins[rows, columns] == number, np.ones((FINE, FINE)))
        smooth_mask = ndi.gaussian_filter(np.pad(mask, 4 * FINE), 0.8 * FINE)[
            4 * FINE : -4 * FINE, 4 * FINE : -4 * FINE
        ]
        box = fine[rows.start * FINE : rows.stop * FINE, columns.start * FINE : columns.stop * FINE]
        box[smooth_mask > 0.5] = number
    return LabelMap(fine, np.zeros(fine.shape, bool))


def label_words(picture: np.ndarray) -> LabelMap:
    """Return one label per printed word: the convex hull of its ink, punctuation that touches it included.

    Args:
        picture: (H, W) uint8 grey values, dark ink on lighter paper.
    """
    grey = enlarge(picture)
    paper = ndi.gaussian_filter(ndi.percentile_filter(picture.astype(float), 80, size=25), 5)
    paper = np.kron(paper, np.ones((FINE, FINE)))
    ink = paper - ndi.gaussian_filter(grey, 1.5) > 0.17 * paper
    margin = 40
    joined = ndi.binary_closing(np.pad(ink, margin), structure=np.ones((9, 13)))[margin:-margin, margin:-margin]
    parts, _ = ndi.label(joined, np.ones((3, 3)))
    boxes = ndi.find_objects(parts)
    tall = [False] + [box[0].stop - box[0].start >= 8 * FINE for box in boxes]  # printed rules and specks are flatter
    words = _keep(parts, np.array(tall))
    fine = np.zeros(words.shape, np.int32)
    for number, box in enumerate(ndi.find_objects(words), start=1):
        hull = morphology.convex_hull_image(words[box] == number)
        fine[box][hull & (fine[box] == 0)] = number
    return LabelMap(fine, np.zeros(fine.shape, bool))


def label_nuclei(picture: np.ndarray, corrections: Mapping[str, Any]) -> LabelMap:
    """Return one label per nucleus that was pointed at by eye, outlined at half of its own contrast.

    Each nucleus starts from a stroke drawn along its middle; touching nuclei are parted where the stain is palest.

    Args:
        picture: (H, W, 3) uint8, blue (haematoxylin) nuclei in pale stroma.
        corrections: "strokes": name -> points [[x, y], ...] in picture pixels, with an optional share of the contrast
            in "contrast": name -> 0..1 (0.5 elsewhere); "outlines": name -> polygon that replaces what was found;
            "doubtful": polygons in picture pixels.
    """
    fine = enlarge(picture)
    red, blue = (ndi.gaussian_filter(fine[..., channel], 0.6 * FINE) for channel in (0, 2))
    dark = 235.0 - red  # haematoxylin swallows red light
    dark[blue - red < -12] = 0.0  # the brown stain does so too, but it swallows blue even more
    stroma = 20.0
    strokes: Mapping[str, Sequence[Sequence[float]]] = corrections["strokes"]
    names = list(strokes)
    seeds = np.zeros(dark.shape, np.int32)
    for number, name in enumerate(names, start=1):
        points = (np.array(strokes[name], float) * FINE).round().astype(int)
        for (x0, y0), (x1, y1) in zip(points, points[1:] if len(points) > 1 else points, strict=False):
            seeds[draw.line(y0, x0, y1, x1)] = number
    flooded = segmentation.watershed(-dark, seeds, mask=(dark > 30) | (seeds > 0))
    objects = np.zeros(dark.shape, np.int32)
    for number, (name, box) in enumerate(zip(names, ndi.find_objects(flooded), strict=True), start=1):
        if name in corrections["outlines"]:
            objects[_polygon(corrections["outlines"][name], dark.shape)] = number
            continue
        seed = seeds[box] == number
        share = corrections["contrast"].get(name, 0.5)
        floor = stroma + share * (float(np.median(dark[box][seed])) - stroma)
        mask = ndi.binary_fill_holes((flooded[box] == number) & (dark[box] > floor))
        parts, _ = ndi.label(ndi.binary_opening(np.pad(mask, FINE), morphology.disk(FINE))[FINE:-FINE, FINE:-FINE])
        objects[box][np.isin(parts, np.unique(parts[seed & (parts > 0)]))] = number
    doubtful = np.zeros(dark.shape, bool)
    for points in corrections["doubtful"]:
        doubtful |= _polygon(points, dark.shape)
    return LabelMap(objects, doubtful & (objects == 0))


def _keep(parts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Renumber the wanted parts 1..N in reading order of their first pixel and drop the others."""
    wanted = np.asarray(wanted, bool).copy()
    wanted[0] = False
    table = np.zeros(len(wanted), np.int32)
    table[wanted] = np.arange(1, wanted.sum() + 1)
    return table[parts]


def _polygon(points: Sequence[Sequence[float]], shape: tuple[int, int]) -> np.ndarray:
    corners = np.array(points, float) * FINE
    return draw.polygon2mask(shape, corners[:, ::-1])
