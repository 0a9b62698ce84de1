"""Association of detections with masklets on 4 x 4 masks, and the reference's cases of masklets that overlap."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam3.masks import mask_iou
from sam3.video.association import (
    Association,
    CarriedMasks,
    Detections,
    associate,
    keep_detections,
    suppress_overlapping,
)
from sam3.video_config import VideoConfig

CASES = json.loads((Path(__file__).parents[2] / "golden" / "video_heuristics" / "unit_cases.json").read_text())
CONFIG, REFERENCE = VideoConfig(), VideoConfig(reference_quirks=True)


def rows(*picture: str) -> torch.Tensor:
    """(4, 4) logits from four rows; "#" is inside."""
    return torch.tensor([[3.0 if mark == "#" else -3.0 for mark in row] for row in picture])


LEFT = rows("##..", "##..", "##..", "##..")
RIGHT = rows("..##", "..##", "..##", "..##")
TOP = rows("####", "....", "....", "....")  # IoU 2 / 10 with LEFT and RIGHT
MOST = rows("###.", "###.", "###.", "###.")  # IoU 8 / 12 with LEFT, 4 / 16 with RIGHT
EMPTY = rows("....", "....", "....", "....")


def found(*pairs: tuple[float, torch.Tensor]) -> Detections:
    masks = [mask for _, mask in pairs]
    return Detections(
        torch.tensor([score for score, _ in pairs]), torch.stack(masks) if masks else torch.zeros(0, 4, 4)
    )


def carried(**masks: torch.Tensor) -> CarriedMasks:
    """Masklets named by their id: `carried(_7=LEFT)`."""
    ids = tuple(int(name[1:]) for name in masks)
    stack = torch.stack(list(masks.values())) if masks else torch.zeros(0, 4, 4)
    return CarriedMasks(ids, stack, torch.full((len(ids),), 5.0))


# ---------------------------------------------------------------------------------------------------------- detections
def test_weak_and_doubled_detections_are_dropped_and_the_order_is_kept():
    kept = keep_detections(found((0.6, RIGHT), (0.5, TOP), (0.7, MOST), (0.9, LEFT)), CONFIG)
    assert [round(score, 1) for score in kept.scores.tolist()] == [0.6, 0.9]  # MOST falls to LEFT; 0.5 is not enough
    assert torch.equal(kept.mask_logits[0], RIGHT)
    assert len(keep_detections(found(), CONFIG)) == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"scores of shape \(2,\)"):
        Detections(torch.zeros(2), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="1 ids came with mask logits of shape"):
        CarriedMasks((1,), torch.zeros(2, 4, 4), torch.zeros(2))
    with pytest.raises(ValueError, match=r"detections have masks of \(8, 8\), masklets of \(4, 4\)"):
        associate(Detections(torch.ones(1), torch.ones(1, 8, 8)), carried(_1=LEFT), CONFIG)


# --------------------------------------------------------------------------------------------------------- association
def test_while_nothing_is_tracked_every_detection_is_new():
    assert associate(found((0.51, LEFT), (0.9, RIGHT)), carried(), CONFIG) == Association(new=(0, 1))


def test_later_a_new_detection_needs_a_better_score_and_no_masklet_near_it():
    association = associate(found((0.7, RIGHT), (0.69, RIGHT), (0.99, TOP)), carried(_4=LEFT), CONFIG)
    assert association.new == (0,)  # 0.7 in float32 is the threshold itself
    assert association.matches == ((2, 4),)


def test_without_detections_masklets_with_a_mask_are_unseen():
    tracked = carried(_2=LEFT, _5=EMPTY, _9=RIGHT)
    assert associate(found(), tracked, CONFIG) == Association(unseen_ids=(2, 9))


def test_a_detection_may_match_many_masklets_and_a_masklet_many_detections():
    association = associate(found((0.6, TOP), (0.6, LEFT)), carried(_0=LEFT, _1=RIGHT, _2=LEFT, _3=EMPTY), CONFIG)
    assert association.matches == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2))
    assert association.seen_ids == (0, 2)
    assert association.unseen_ids == (1,)  # matched, but no detection shows it; the empty one is neither
    assert association.new == ()


def test_candidates_are_strong_detections_on_top_of_a_masklet():
    tracked = carried(_3=RIGHT, _8=LEFT)
    association = associate(found((0.85, LEFT), (0.75, RIGHT), (0.95, MOST)), tracked, CONFIG)
    assert association.candidates == ((8, 0),)
    assert associate(found((0.95, MOST)), tracked, replace(CONFIG, recondition_iou=0.6)).candidates == ((8, 0),)


def test_a_frame_without_a_look_counts_against_nobody_except_in_the_reference():
    tracked = carried(_1=LEFT, _2=EMPTY)
    assert associate(None, tracked, CONFIG) == Association()
    assert associate(None, tracked, REFERENCE) == Association(unseen_ids=(1,))


# --------------------------------------------------------------------------------------------------------- suppression
def occlusion_masks() -> torch.Tensor:
    masks = torch.full((4, 12, 12), -1.0)
    masks[0, 1:9, 1:9] = masks[1, 1:9, 1:10] = masks[2, 2:9, 1:9] = masks[3, :3, 9:] = 1.0
    return masks


def suppressed(case: dict, config: VideoConfig) -> list[bool]:
    frames = [None if frame == -1 else frame for frame in case["last_occluded"]]
    leaving = [frame == 100_000 for frame in case["last_occluded"]]
    return list(suppress_overlapping(occlusion_masks(), frames, leaving, config, is_backward=case["reverse"]))


@pytest.mark.parity
def test_suppressed_masklets_equal_the_reference():
    golden = CASES["recent_occlusion"]
    inside = occlusion_masks() > 0
    torch.testing.assert_close(mask_iou(inside, inside), torch.tensor(golden["iou"]), atol=5e-5, rtol=0)
    assert len(golden["cases"]) == 12
    for case in golden["cases"]:
        assert suppressed(case, REFERENCE) == case["suppress"], case
        if not case["reverse"]:
            assert suppressed(case, CONFIG) == case["suppress"], case


def test_backwards_is_forwards_with_the_clock_turned():
    for case in CASES["recent_occlusion"]["cases"]:
        mirrored = [frame if frame in (-1, 100_000) else 50 - frame for frame in case["last_occluded"]]
        backward = {"last_occluded": mirrored, "reverse": True}
        assert suppressed(backward, CONFIG) == suppressed(case | {"reverse": False}, CONFIG), case
