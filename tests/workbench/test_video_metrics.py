"""Video metrics against golden cases of the reference evaluators, and against counts made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from workbench.formats import rle_of
from workbench.video_metrics import saco_video_metrics, saco_video_pair_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
CASES = sorted((GOLDEN / "video").glob("*.json"))
OWN = {"video_mask_J", "video_mask_F", "video_mask_JF"} | {
    f"video_{kind}_id_{what}"
    for kind in ("bbox", "mask")
    for what in ("switches", "returns", "returns_seen", "returns_kept")
}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def key_of(row: dict) -> tuple[int, int]:
    return row["video_id"], row["category_id"]


# ------------------------------------------------------------------------------------------------------------- golden
def test_golden_cases_are_all_here():
    assert len(CASES) == 7


@pytest.mark.parity
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_data_set_values_equal_the_reference(path):
    case = read(path)
    expected = case["expected"]
    values = saco_video_metrics(case["ground_truth"], case["predictions"])
    assert set(values) == set(expected) | OWN
    for name, number in expected.items():
        if number is None:
            assert math.isnan(values[name]), name
        elif name.split("_")[2] in ("teta", "loc", "assoc", "cls"):
            assert float(f"{values[name]:.5g}") == number, name  # the evaluator prints five digits
        elif name.split("_")[2] in ("all", "demo"):
            assert values[name] == number, name
        else:
            assert values[name] == pytest.approx(number, abs=1e-15, rel=0), name


@pytest.mark.parity
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_values_of_every_pair_equal_the_reference(path):
    case = read(path)
    rows = sorted(saco_video_pair_metrics(case["ground_truth"], case["predictions"]), key=key_of)
    expected = sorted(case["expected_per_pair"], key=key_of)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, numbers in zip(rows, expected, strict=True):
        assert row == pytest.approx(numbers, abs=1e-15, rel=0)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_without_predictions_everything_is_zero(path):
    truth = read(path)["ground_truth"]
    values = saco_video_metrics(truth, [])
    assert len(values) == 54 + len(OWN)
    assert set(values.values()) == {0.0}
    assert all(row.get("mask_HOTA", 0.0) == 0.0 for row in saco_video_pair_metrics(truth, []))


# ------------------------------------------------------------------------------------------------------------ by hand
def masklet(video: int, category: int, boxes: list, score: float | None = None, size: int = 24) -> dict:
    """A masklet of filled rectangles, given per frame as left, top, width, height or None."""
    rles = []
    for box in boxes:
        mask = np.zeros((size, size), dtype=bool)
        if box is not None:
            left, top, width, height = box
            mask[top : top + height, left : left + width] = True
        rles.append(None if box is None else rle_of(mask))
    entry = {"video_id": video, "category_id": category, "segmentations": rles}
    return entry if score is None else entry | {"score": score}


def truth_of(masklets: list[dict], absent: list[tuple[int, int]] = (), num_videos: int = 1) -> dict:
    pairs = {key_of(entry) for entry in masklets} | set(absent)
    length = len(masklets[0]["segmentations"])
    return {
        "videos": [{"id": number + 1, "length": length} for number in range(num_videos)],
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
        "annotations": masklets,
        "video_np_pairs": [{"video_id": video, "category_id": category} for video, category in sorted(pairs)],
    }


STILL = [[2, 2, 6, 6]] * 4
FAR = [[14, 14, 6, 6]] * 4


def test_boxes_are_derived_from_the_masks_when_they_are_not_given():
    truth = truth_of([masklet(1, 1, STILL)], absent=[(1, 2)])
    values = saco_video_metrics(truth, [masklet(1, 1, [[2, 2, 6, 4], *STILL[1:]], 0.9)])
    assert values["video_bbox_all_phrase_LocA"] == values["video_mask_all_phrase_LocA"] > 0.9
    with_boxes = masklet(1, 1, STILL, 0.9) | {"bboxes": FAR}
    assert saco_video_metrics(truth, [with_boxes])["video_bbox_all_phrase_HOTA"] == 0.0
    assert saco_video_metrics(truth, [with_boxes])["video_mask_all_phrase_HOTA"] == 1.0


def test_an_object_that_is_not_followed_counts_as_zero_in_j_and_f():
    truth = truth_of([masklet(1, 1, STILL), masklet(1, 1, FAR)])
    half = [[2, 2, 6, 3], *STILL[1:3], None]
    values = saco_video_metrics(truth, [masklet(1, 1, half, 0.9)])
    assert values["video_mask_J"] == pytest.approx(((0.5 + 1 + 1 + 0) / 4 + 0) / 2)
    assert values["video_mask_JF"] == pytest.approx((values["video_mask_J"] + values["video_mask_F"]) / 2)


def test_frames_on_which_both_are_absent_do_not_count_in_j():
    gap = [STILL[0], None, None, STILL[0]]
    truth = truth_of([masklet(1, 1, gap)])
    assert saco_video_metrics(truth, [masklet(1, 1, [STILL[0], None, None, None], 0.9)])["video_mask_J"] == 0.5


def test_identity_switches_count_changes_of_the_masklet_on_an_object():
    truth = truth_of([masklet(1, 1, STILL), masklet(1, 1, FAR)])
    crossing = [
        masklet(1, 1, [STILL[0], FAR[0], None, STILL[0]], 0.9),
        masklet(1, 1, [FAR[0], STILL[0], FAR[0], FAR[0]], 0.8),
    ]
    assert saco_video_metrics(truth, crossing)["video_mask_id_switches"] == 4.0  # each object goes over and back
    steady = [masklet(1, 1, STILL, 0.9), masklet(1, 1, FAR, 0.8)]
    assert saco_video_metrics(truth, steady)["video_mask_id_switches"] == 0.0


def returns_of(true: list[list], found: list[list]) -> list[float]:
    truth = truth_of([masklet(1, 1, boxes) for boxes in true])
    values = saco_video_metrics(truth, [masklet(1, 1, boxes, 0.9) for boxes in found])
    return [values[f"video_mask_id_returns{ending}"] for ending in ("", "_seen", "_kept")]


def test_an_object_that_was_away_must_come_back_as_the_same_masklet():
    here, there, gap, no = [STILL[0]] * 2, [FAR[0]] * 2, [None] * 8, [None] * 2
    true = [here + gap + here]
    assert returns_of(true, [here + gap + here]) == [1, 1, 1]
    assert returns_of(true, [here + gap + no, no + gap + here]) == [1, 1, 0]  # another number
    assert returns_of(true, [here + gap + there]) == [1, 0, 0]  # what was taken up elsewhere is not the object
    assert returns_of(true, [no + gap + here]) == [1, 0, 0]
    assert returns_of(true, []) == [1, 0, 0]
    assert returns_of([here + gap[1:] + here], [here + gap[1:] + here]) == [0, 0, 0]  # not away for long
    twice = here + gap + here + gap + there
    assert returns_of([twice], [here + gap + here + gap + no, no + gap + no + gap + there]) == [2, 2, 1]


def test_wrong_phrase_is_right_place_and_wrong_class_for_teta():
    truth = truth_of([masklet(1, 1, STILL), masklet(1, 2, FAR)])
    swapped = [masklet(1, 2, STILL, 0.9), masklet(1, 1, FAR, 0.9)]
    values = saco_video_metrics(truth, swapped)
    names = ("teta", "loc_a", "assoc_a", "cls_a")
    assert [values[f"video_mask_{name}"] for name in names] == pytest.approx([200 / 3, 100, 100, 0])
    assert values["video_mask_all_phrase_HOTA"] == 0.0


def test_stray_masklet_of_a_labelled_phrase_lowers_class_precision_but_not_localisation():
    truth = truth_of([masklet(1, 1, STILL)])
    values = saco_video_metrics(truth, [masklet(1, 1, STILL, 0.9), masklet(1, 1, FAR, 0.9)])
    assert values["video_mask_loc_a"] == pytest.approx(100)
    assert values["video_mask_cls_pr"] == values["video_mask_cls_a"] == pytest.approx(50)
    assert values["video_mask_all_phrase_DetPr"] == 0.5


def test_masklet_near_an_object_is_no_surplus_of_another_phrase_on_the_same_frame():
    truth = truth_of([masklet(1, 1, [[2, 2, 6, 6]] * 4), masklet(1, 2, [[2, 2, 6, 8]] * 4)])
    values = saco_video_metrics(truth, [masklet(1, 1, [[2, 2, 6, 6]] * 4, 0.9), masklet(1, 2, [[2, 2, 6, 8]] * 4, 0.9)])
    assert values["video_mask_teta"] == pytest.approx(100)


def test_values_over_two_videos_pool_their_masks():
    masklets = [masklet(1, 1, STILL), masklet(2, 1, STILL)]
    truth = truth_of(masklets, absent=[(1, 2), (2, 2)], num_videos=2)
    values = saco_video_metrics(truth, [masklet(2, 1, STILL, 0.9)])
    assert values["video_mask_all_phrase_DetRe"] == 0.5
    assert values["video_mask_demo_ilmcc_50_95"] == pytest.approx((1 * 2 - 0) / math.sqrt(1 * 2 * 2 * 3), abs=1e-5)
    assert values["video_mask_mAP_50_95"] == pytest.approx(51 / 101)


def test_without_named_pairs_f1_is_known_and_mcc_is_not():
    truth = truth_of([masklet(1, 1, STILL)])
    del truth["video_np_pairs"]
    values = saco_video_metrics(truth, [masklet(1, 1, STILL, 0.9)])
    assert values["video_mask_demo_positive_micro_f1_50"] == pytest.approx(1, abs=1e-3)
    assert all(math.isnan(values[f"video_mask_demo_{name}_50_95"]) for name in ("cgf1_micro", "ilmcc"))


def test_crowds_and_unknown_phrases_are_left_out():
    truth = truth_of([masklet(1, 1, STILL), masklet(1, 1, FAR) | {"iscrowd": 1}], absent=[(1, 2)])
    found = [masklet(1, 1, STILL, 0.9), masklet(1, 77, FAR, 0.9)]
    values = saco_video_metrics(truth, found)
    assert values["video_mask_demo_cgf1_micro_50_95"] == pytest.approx(1, abs=1e-3)
    assert values["video_mask_all_phrase_HOTA"] == 1.0


def test_unusable_files_are_refused_with_the_reason():
    truth = truth_of([masklet(1, 1, STILL)])
    with pytest.raises(ValueError, match="prediction names video_id 9, expected one of"):
        saco_video_metrics(truth, [masklet(9, 1, STILL, 0.9)])
    with pytest.raises(ValueError, match="has 3 segmentations, expected 4"):
        saco_video_metrics(truth, [masklet(1, 1, STILL[:3], 0.9)])
    with pytest.raises(ValueError, match="prediction for video 1 has no segmentations"):
        saco_video_metrics(truth, [{"video_id": 1, "category_id": 1, "score": 0.9, "bboxes": STILL}])
    with pytest.raises(ValueError, match=r"0 \(video, phrase\) pairs"):
        saco_video_metrics(truth | {"annotations": [], "video_np_pairs": []}, [])
