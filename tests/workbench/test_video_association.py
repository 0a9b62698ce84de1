"""HOTA against TrackEval on moving boxes, and the parts of TETA and HOTA by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from workbench.pair_metrics import box_iou
from workbench.video_association import MaskletOverlap, hota_sums, hota_values, sum_of, teta_sums, teta_values

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics" / "hota" / "random_boxes.json"


def overlap_of(sequence: dict) -> MaskletOverlap:
    """Overlap of boxes given per masklet and frame, null where absent."""
    num_frames = len((sequence["true"] or sequence["found"])[0])
    found, true = (
        np.array([[box or [0, 0, 0, 0] for box in boxes] for boxes in sequence[side]], dtype=float).reshape(
            -1, num_frames, 4
        )
        for side in ("found", "true")
    )
    areas = [boxes[..., 2:].prod(axis=-1).T for boxes in (found, true)]
    shares = [box_iou(found[:, frame], true[:, frame], is_crowd=True) for frame in range(num_frames)]
    return MaskletOverlap(np.stack(shares) * areas[0][:, :, None], *areas)


@pytest.mark.parity
def test_hota_equals_trackeval_on_moving_boxes():
    golden = json.loads(GOLDEN.read_text())
    sums = [hota_sums(overlap_of(sequence)) for sequence in golden["sequences"]]
    assert 0.2 < golden["expected"]["HOTA"] < 0.4
    assert hota_values(sums) == pytest.approx(golden["expected"], abs=1e-12, rel=0)
    for entry, expected in zip(sums, golden["expected_per_sequence"], strict=True):
        assert hota_values([entry]) == pytest.approx(expected, abs=1e-12, rel=0)


def blocks(found: ArrayLike, true: ArrayLike) -> MaskletOverlap:
    """Masklets that are at a place (any number, 0 for absent) on each frame: same place, same mask."""
    found_at, true_at = np.array(found, dtype=int).T, np.array(true, dtype=int).T
    shared = (found_at[:, :, None] == true_at[:, None]) & (true_at[:, None] > 0)
    return MaskletOverlap(shared.astype(float), (found_at > 0).astype(float), (true_at > 0).astype(float))


def test_masklet_iou_adds_up_frames_and_counts_absence():
    overlap = blocks([[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 0]])
    assert overlap.masklet_iou.tolist() == [[2 / 3, 0.0], [0.0, 1.0]]
    assert overlap.frame_iou[:, 0, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_masklet_that_takes_over_halfway_halves_association():
    values = hota_values([hota_sums(blocks([[1, 1, 0, 0], [0, 0, 1, 1]], [[1, 1, 1, 1]]))])
    assert (values["DetA"], values["AssA"], values["AssPr"]) == (1.0, 0.5, 1.0)
    assert values["HOTA"] == pytest.approx(np.sqrt(0.5))


def test_only_alarms_and_only_misses():
    alarms, misses = (
        hota_sums(blocks([[1, 1], [2, 2]], np.zeros((0, 2)))),
        hota_sums(blocks(np.zeros((0, 2)), [[1, 1]])),
    )
    assert (alarms.fp[0], alarms.fn[0], misses.fp[0], misses.fn[0]) == (4, 0, 0, 2)
    total = sum_of([alarms, misses])
    assert (total.tp[0], total.fp[0], total.fn[0]) == (0, 4, 2)
    assert hota_values([alarms])["LocA"] == 1.0  # the evaluator's convention


def test_a_return_to_the_first_masklet_is_a_second_switch_and_a_gap_is_none():
    assert hota_sums(blocks([[1, 0, 1, 0], [0, 1, 0, 0]], [[1, 1, 1, 1]])).switches.tolist() == [2]
    assert hota_sums(blocks([[1, 0, 0, 1]], [[1, 1, 1, 1]])).switches.tolist() == [0]


def test_teta_counts_every_class_alike():
    often = blocks([[1, 1, 1, 1]], [[1, 1, 1, 1], [2, 2, 2, 2]])
    sums = teta_sums(often, np.array([7]), np.array([7, 8]), [7, 8])
    values = teta_values([sums])
    assert (values["loc_a"], values["assoc_a"], values["cls_a"]) == (50.0, 50.0, 50.0)


def test_teta_leaves_out_frames_without_any_object():
    going_on = teta_sums(blocks([[1, 1, 1, 1]], [[1, 1, 0, 0]]), np.array([7]), np.array([7]), [7])
    assert teta_values([going_on])["teta"] == 100.0
    other_there = teta_sums(blocks([[1, 1, 1, 1]], [[1, 1, 0, 0], [0, 0, 2, 2]]), np.array([7]), np.array([7, 8]), [7])
    values = teta_values([other_there])
    assert values["loc_a"] == 100.0  # only frames with an object of the class
    assert values["assoc_a"] == 50.0  # over all frames with an object
    assert values["cls_pr"] == 50.0  # as a claim about the class, the last two frames are wrong


def test_a_wrong_class_counts_against_both_classes():
    overlap = blocks([[1, 1], [2, 2]], [[1, 1], [2, 2]])
    sums = teta_sums(overlap, np.array([7, 7]), np.array([7, 8]), [7, 8])
    assert (sums[7].class_tp[0], sums[7].class_fn[0]) == (2, 0)
    assert (sums[8].class_tp[0], sums[8].class_fn[0]) == (0, 2)
    assert sums[8].tp.tolist() == [2.0] * 20
    assert sums[7].class_fp.tolist() == [4.0] * 10  # twice: as a stray one, and as the wrong claim on the other object


def test_nothing_to_add_up_is_refused():
    with pytest.raises(ValueError, match="0 pairs were given"):
        hota_values([])
