"""Which candidates count as hits, and the share of hits per step of score, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.evaluate import PairRecord
from workbench.reliability import is_hit, reliability

RLE = {"size": [4, 4], "counts": "5163"}


def test_a_second_candidate_on_an_object_is_no_hit():
    record = PairRecord(
        "a", "cup", "positive", 0.9, (0.9, 0.8, 0.7), ((0.7,), (0.9,), (0.2,)), ((0.7,), (0.9,), (0.2,)), 1, (RLE,) * 3
    )
    assert is_hit(record).tolist() == [True, False, False]


def test_reliability_counts_hits_per_score():
    rows = ((0.9, 0.0), (0.1, 0.0), (0.0, 0.8))
    record = PairRecord("a", "cup", "positive", 0.9, (0.95, 0.92, 0.31), rows, rows, 2, (RLE,) * 3)
    low, high = reliability([record])
    assert (low.low, low.high, low.count, low.mean_score, low.hit_share) == pytest.approx((0.3, 0.4, 1, 0.31, 1.0))
    assert (high.count, high.mean_score, high.hit_share) == pytest.approx((2, 0.935, 0.5))
    assert reliability([replace(record, scores=(), mask_iou=(), box_iou=(), mask_rles=())]) == ()
