"""Run lengths: the same text as COCO's own tools write, and every mask comes back."""

from __future__ import annotations

import faster_coco_eval.core.mask as coco_rle
import numpy as np
import pytest

from sam3.rle import Rle


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    ring = np.zeros((41, 60), dtype=bool)
    ring[3:30, 5:40] = True
    ring[10:20, 12:30] = False  # a hole
    ring[35:, 50:] = True  # a second part, at the edge
    tall = np.zeros((1000, 700), dtype=bool)
    tall[:, 300:600] = True  # one run of 300,000 pixels
    found = [ring, tall, ~tall, ~ring, np.zeros((7, 9), bool), np.ones((7, 9), bool), np.eye(5, dtype=bool)]
    for share in (0.01, 0.3, 0.5, 0.97):
        found += [rng.random((rng.integers(1, 60), rng.integers(1, 60))) < share for _ in range(25)]
    smooth = rng.random((20, 20)) < 0.4
    return [*found, smooth.repeat(37, 0).repeat(29, 1)]


@pytest.mark.parity
def test_text_area_box_and_mask_are_those_of_coco() -> None:
    for mask in masks():
        rle = Rle.of(mask)
        theirs = coco_rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert rle.to_json() == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        assert np.array_equal(rle.mask(), mask)
        assert rle.area == mask.sum() == coco_rle.area(theirs)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        assert rle.box_xyxy_px == tight
        assert Rle.from_json(rle.to_json()) == rle


@pytest.mark.parity
def test_random_run_lengths_of_any_size() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        runs = rng.integers(0, 10 ** rng.integers(1, 7), size=rng.integers(1, 12)).tolist()
        size = (1, sum(runs))
        rle = Rle.of_runs(size, runs)
        assert rle.counts == coco_rle.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"].decode()
        expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        assert np.array_equal(rle.mask()[0], expected)
        assert rle.area == expected.sum()


def test_counts_as_a_list_of_numbers_or_bytes() -> None:
    mask = [[False, True], [True, False]]
    assert Rle.from_json({"size": [2, 2], "counts": [1, 2, 1]}).mask().tolist() == mask
    assert Rle.from_json({"size": [2, 2], "counts": b"121"}).mask().tolist() == mask


@pytest.mark.parametrize(
    "entry",
    [
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5, -2, 1]},
        {"size": [2, 2], "counts": "121121"},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "o" * 40},
        {"size": [2, 2], "counts": "1 1"},
        {"size": [2, 2], "counts": "1\u00e91"},
        {"size": [2], "counts": "121"},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": None},
        [[1, 2]],
    ],
)
def test_what_is_no_run_lengths_is_refused(entry: object) -> None:
    with pytest.raises(ValueError, match=r"cannot be decoded .*; expected size \[height, width\]"):
        Rle.from_json(entry)


def test_only_one_mask_at_a_time() -> None:
    with pytest.raises(ValueError, match="one mask at a time"):
        Rle.of(np.zeros((1, 4, 4), dtype=bool))
