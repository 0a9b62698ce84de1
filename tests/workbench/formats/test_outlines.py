"""Outlines: filled again they give the mask, with every hole and part; broken polygons are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi

from workbench.formats.outlines import mask_of_polygons, outline_of


def refilled(mask: np.ndarray) -> np.ndarray:
    """The mask after its outline was written as fractions with seven digits, as a label file holds it."""
    height, width = mask.shape
    points = outline_of(mask).points_xy_px / (width, height)
    written = [[float(f"{x:.7g}") * width, float(f"{y:.7g}") * height] for x, y in points.tolist()]
    return mask_of_polygons([np.ravel(written).tolist()], width, height, "test")


@pytest.mark.parametrize("density", [0.05, 0.3, 0.6, 0.95])
def test_filling_an_outline_gives_the_mask_again(density):
    chance = np.random.default_rng(1)
    for side in (1, 2, 17, 40):
        mask = chance.random((side, side + 3)) < density
        mask[0, 0] = True
        assert (refilled(mask) == mask).all()
    smooth = ndi.gaussian_filter(chance.random((90, 120)), 4) > 0.5
    assert (refilled(smooth) == smooth).all()


def test_parts_and_holes_are_counted():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12], mask[4:6, 4:6], mask[8:10, 5:10], mask[15:18, 20:25] = True, False, False, True
    outline = outline_of(mask)
    assert (outline.num_parts, outline.num_holes) == (2, 2)
    corners = np.zeros((4, 4), bool)
    corners[1, 1] = corners[2, 2] = True  # they touch at a corner only
    assert outline_of(corners).num_parts == 2
    assert outline_of(np.ones((1, 1), bool)).points_xy_px.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]


def test_an_empty_mask_and_broken_polygons_are_refused():
    with pytest.raises(ValueError, match="no pixel"):
        outline_of(np.zeros((3, 3), bool))
    for polygons in ([[1, 2, 3, 4]], "abc", [[0, 0, 1e9, 0, 9, 9]], [[0, 0, 1, 0, 9]]):
        with pytest.raises(ValueError, match="entry 3: a polygon of segmentation is"):
            mask_of_polygons(polygons, 20, 20, "entry 3")
