"""Mask operations against the reference's cases, and by hand on small grids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sam3.masks import SUPPRESSED_LOGIT, divide_pixels, mask_boxes, mask_iou, mask_nms, mend_masks, suppress_covered

CASES = json.loads((Path(__file__).parents[1] / "golden" / "video_heuristics" / "unit_cases.json").read_text())


def rectangles(size: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """(K, size, size) bool masks of boxes x0, y0, x1, y1, ends left out."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


COVERING = (1, 1, 8, 8), (3, 1, 9, 8), (2, 2, 4, 4)  # of the reference's two cases on who is in front


# ---------------------------------------------------------------------------------------------------------- reference
@pytest.mark.parity
@pytest.mark.parametrize("case", CASES["fill_holes_in_mask_scores"], ids=lambda case: str(case["max_area"]))
def test_mended_masks_equal_the_reference(case):
    logits, expected = torch.tensor(case["in"]), torch.tensor(case["out"])
    assert not torch.equal(logits, expected)
    both = torch.stack([logits, -logits])
    assert torch.equal(mend_masks(both, case["max_area"])[0], expected)
    assert torch.equal(mend_masks(both[1:], case["max_area"]), mend_masks(both, case["max_area"])[1:])


@pytest.mark.parity
def test_suppressed_duplicates_equal_the_reference():
    case = CASES["mask_nms"]
    boxes = [(left, top, left + case["box_side"], top + case["box_side"]) for top, left in case["top_left_rc"]]
    masks, scores = rectangles(case["canvas"], *boxes), torch.tensor(case["probs"])
    is_sure = scores > case["prob_thr"]
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[is_sure] = mask_nms(masks[is_sure], scores[is_sure], case["iou_thr"])
    assert kept.tolist() == case["keep"]


@pytest.mark.parity
def test_boxes_equal_the_reference_up_to_the_outer_edge():
    box = mask_boxes(rectangles(12, (3, 2, 10, 6)))[0]
    assert (box - torch.tensor([0, 0, 1, 1])).tolist() == CASES["masks_to_boxes"]["xyxy"]


@pytest.mark.parity
def test_covered_objects_equal_the_reference():
    case = CASES["area_shrinkage"]
    masks = rectangles(10, *COVERING)
    logits = torch.where(masks, torch.tensor(case["in_max"])[:, None, None], -5.0)
    suppressed = suppress_covered(logits, 0.3)
    assert [mask.unique().tolist() for mask in suppressed] == case["out_unique"]
    assert (suppressed > 0).flatten(1).any(1).tolist() == case["kept"]


@pytest.mark.parity
def test_divided_pixels_equal_the_reference():
    case = CASES["objectwise_non_overlap"]
    masks = rectangles(10, *COVERING)
    assert masks.sum((1, 2)).tolist() == case["areas_in"]
    assert divide_pixels(masks, torch.tensor(case["scores"])).sum((1, 2)).tolist() == case["areas_out"]


# ------------------------------------------------------------------------------------------------------------ by hand
def test_iou_is_exact_also_under_autocast():
    masks = rectangles(300, (0, 0, 300, 299), (0, 0, 299, 300), (0, 0, 0, 0))
    expected = [[1.0, 299 * 299 / (2 * 299 * 300 - 299 * 299), 0.0]]
    assert mask_iou(masks[:1], masks).tolist() == [pytest.approx(expected[0])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mask_iou(masks, masks), mask_iou(masks, masks).float())
        assert mask_iou(masks[:1], masks).tolist() == [pytest.approx(expected[0])]
    assert mask_iou(masks[:0], masks).shape == (0, 3)
    assert mask_iou(masks[2:], masks[2:]).item() == 0.0


def test_a_dropped_mask_drops_no_other():
    chain = rectangles(12, (0, 0, 6, 2), (3, 0, 9, 2), (6, 0, 12, 2))
    assert mask_nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.1).tolist() == [True, False, True]
    assert mask_nms(chain, torch.tensor([0.8, 0.9, 0.7]), 0.1).tolist() == [False, True, False]
    assert mask_nms(chain[:2], torch.tensor([0.5, 0.5]), 0.1).tolist() == [True, False]
    assert mask_nms(chain[:0], torch.zeros(0), 0.1).tolist() == []


def test_a_small_object_is_no_speck_of_itself():
    logits = torch.where(rectangles(8, (1, 1, 3, 3), (1, 1, 7, 7)), 2.0, -2.0)
    logits[1, 0, 7] = 2.0
    mended = mend_masks(logits, 4)
    assert torch.equal(mended[0], logits[0])
    assert mended[1, 0, 7].item() == 2.0  # joined to its object at a corner
    logits[1, 1, 6] = -2.0
    assert mend_masks(logits, 4)[1, 0, 7].item() == pytest.approx(-0.1)


def test_mending_keeps_planes_apart_and_takes_nothing():
    holes = torch.where(rectangles(5, (0, 0, 5, 5), (0, 0, 5, 5)), 1.0, -1.0)
    holes[:, 2, 2] = -1.0
    assert (mend_masks(holes, 1) > 0).all()
    assert mend_masks(holes, 0) is holes
    assert mend_masks(holes[:0], 4).shape == (0, 5, 5)


def test_boxes_of_nothing_and_of_one_pixel():
    masks = rectangles(4, (0, 0, 0, 0), (3, 2, 4, 3), (0, 0, 4, 4))
    assert mask_boxes(masks).tolist() == [[0, 0, 0, 0], [3, 2, 4, 3], [0, 0, 4, 4]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_pixels_of_one_object_stay_with_it_whatever_its_score():
    masks = rectangles(4, (0, 0, 4, 2), (0, 1, 4, 4))
    divided = divide_pixels(masks, torch.tensor([-3.0, -9.0]))
    assert divided.sum((1, 2)).tolist() == [8, 8]
    assert not (divided[0] & divided[1]).any()


def test_overlap_in_part_is_left_as_it_is():
    logits = torch.where(rectangles(4, (0, 0, 4, 2), (0, 1, 4, 3)), torch.tensor([[[2.0]], [[3.0]]]), -1.0)
    assert torch.equal(suppress_covered(logits, 0.3), logits)
    assert suppress_covered(logits, 0.6)[0].unique().tolist() == [SUPPRESSED_LOGIT]
    assert torch.equal(suppress_covered(logits[:1], 1.0), logits[:1])
