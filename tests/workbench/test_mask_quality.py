"""J, F and the overlap with the smaller mask, against the reference and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.formats import mask_of
from workbench.mask_quality import boundary_f, mask_quality

CASES = json.loads((Path(__file__).parents[1] / "golden" / "metrics" / "jf" / "jf_cases.json").read_text())["cases"]


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_region_and_boundary_equal_the_reference(case):
    quality = mask_quality(mask_of(case["pred"]), mask_of(case["gt"]), case["square_kernel"] // 2)
    assert (quality.region, quality.boundary, quality.mean) == (case["J"], case["F"], case["JF"])
    assert quality.smaller == pytest.approx(case["IoM"], abs=1e-7)  # the reference divides in float32


def test_default_tolerance_grows_with_the_picture():
    for side, tolerance in ((48, 1), (250, 3)):  # 0.8 % of the diagonal, rounded up
        truth = np.zeros((side, side), dtype=bool)
        truth[side // 4 : side // 2, side // 4 : side // 2] = True
        near, far = (np.roll(truth, shift, axis=0) for shift in (tolerance, tolerance + 1))
        assert boundary_f(near, truth) == 1.0
        assert boundary_f(far, truth) < 1.0


def test_object_at_the_border_has_no_outline_there():
    mask = np.ones((6, 6), dtype=bool)
    assert boundary_f(mask, np.zeros((6, 6), dtype=bool)) == 1.0  # neither has an outline
    assert mask_quality(mask, np.zeros((6, 6), dtype=bool)).region == 0.0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(4, 4\) and \(4, 5\)"):
        mask_quality(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
