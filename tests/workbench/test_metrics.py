"""The SA-Co metrics of file contents against golden cases of the reference evaluator, and where it gives up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.metrics import saco_crowd_metrics, saco_image_metrics, saco_pair_counts
from workbench.pair_metrics import Tally, aggregate

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
CASES = sorted((GOLDEN / "image_cgf1").glob("*.json"))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_golden_cases_are_all_here():
    assert len(CASES) == 22


@pytest.mark.parity
@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_saco_image_metrics_equal_the_reference(path, iou_type):
    case = read(path)
    expected = case["expected_cgf1"][iou_type]
    values = saco_image_metrics(case["ground_truths"], case["predictions"], iou_type, case["score_threshold"])
    assert list(values) == list(expected)
    assert len(values) == 26
    assert values == pytest.approx(expected, abs=1e-6, rel=0)


@pytest.mark.parity
@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_saco_counts_equal_the_reference(path, iou_type):
    case = read(path)
    expected = case["expected_counts"][iou_type]
    counts = saco_pair_counts(case["ground_truths"], case["predictions"], iou_type, case["score_threshold"])
    assert sorted(counts) == sorted(expected["evaluated_image_ids"])
    total = Tally.of(list(counts.values())).weighted(np.ones((1, len(counts))))
    for name, values in (
        ("TP", total.tp),
        ("FP", total.fp),
        ("FN", total.fn),
        ("FP_on_positive_images", total.fp_positive),
    ):
        assert values[0].tolist() == expected[name], name
    kinds = [total.image_tp, total.image_fp, total.image_tn, total.image_fn]
    assert [int(kind[0]) for kind in kinds] == [expected[f"IL_{name}"] for name in ("TP", "FP", "TN", "FN")]
    exact = expected["exact_no_eps"]  # the paper's formula, which the small epsilons must not move far
    assert aggregate(list(counts.values()))["cgF1"] == pytest.approx(exact["cgF1"], abs=1e-3)


# ---------------------------------------------------------------------------------- where the reference gives up
def saco_case() -> tuple[list[dict], list[dict]]:
    case = read(GOLDEN / "image_cgf1" / "02_perfect_multi.json")
    return case["ground_truths"], case["predictions"]


def test_no_prediction_at_all_counts_every_object_as_missed():
    truths, _ = saco_case()
    counts = saco_pair_counts(truths, [])
    assert sum(pair.num_truth for pair in counts.values()) == sum(int(pair.fn[0]) for pair in counts.values()) > 0
    assert saco_image_metrics(truths, [])["IL_recall"] == 0.0


def test_missing_iscrowd_means_no_crowd():
    truths, predictions = saco_case()
    expected = saco_image_metrics(truths, predictions)
    for annotation in truths[0]["annotations"]:
        del annotation["iscrowd"]
    assert saco_image_metrics(truths, predictions) == expected


def test_unusable_saco_files_are_refused_with_the_reason():
    truths, predictions = saco_case()
    with pytest.raises(ValueError, match="iou_type 'mask'"):
        saco_image_metrics(truths, predictions, "mask")  # type: ignore[arg-type]
    without_masks = [{k: v for k, v in p.items() if k != "segmentation"} for p in predictions]
    with pytest.raises(ValueError, match="expected 'segmentation' among"):
        saco_image_metrics(truths, without_masks)
    assert saco_image_metrics(truths, without_masks, "bbox")["cgF1"] != 0
    for image in truths[0]["images"]:
        image["is_instance_exhaustive"] = 0
    with pytest.raises(ValueError, match="none is marked is_instance_exhaustive"):
        saco_image_metrics(truths, predictions)


# -------------------------------------------------------------------------------------------------------------- crowds
def crowd_case() -> tuple[list[dict], list[dict]]:
    """1: an object, a crowd, and candidates on the object, on the crowd and beside both. 2: a crowd alone, claimed.
    3: nothing, silent. 4: nothing, claimed."""
    crowd = {"bbox": [0.5, 0.5, 0.5, 0.5], "iscrowd": 1}
    annotations = [
        {"image_id": 1, "bbox": [0, 0, 0.2, 0.2], "iscrowd": 0},
        {"image_id": 1, **crowd},
        {"image_id": 2, **crowd},
    ]
    boxes = [(1, [0, 0, 0.2, 0.2]), (1, [0.6, 0.6, 0.1, 0.1]), (1, [0.3, 0, 0.1, 0.1])]
    boxes += [(2, [0.7, 0.7, 0.1, 0.1]), (4, [0, 0, 0.1, 0.1])]
    truth = {"images": [{"id": number} for number in (1, 2, 3, 4)], "categories": [{"id": 1}]}
    truth["annotations"] = [{"category_id": 1, **annotation} for annotation in annotations]
    return [truth], [{"image_id": i, "category_id": 1, "score": 0.9, "bbox": box} for i, box in boxes]


def test_crowds_are_ignored_as_in_coco_under_names_of_their_own():
    case = crowd_case()
    dropped, ignored = saco_image_metrics(*case, "bbox"), saco_crowd_metrics(*case, "bbox")
    assert list(ignored) == [f"{name}_crowds_ignored" for name in dropped]
    assert dropped["precision"] == pytest.approx(1 / 5, abs=1e-4)
    assert ignored["precision_crowds_ignored"] == pytest.approx(1 / 3, abs=1e-4)
    assert dropped["positive_micro_precision"] == pytest.approx(1 / 3, abs=1e-4)
    assert ignored["positive_micro_precision_crowds_ignored"] == pytest.approx(1 / 2, abs=1e-4)
    assert dropped["IL_FPR"] == pytest.approx(2 / 3, abs=1e-4)
    assert ignored["IL_FPR_crowds_ignored"] == pytest.approx(1 / 2, abs=1e-4)
    assert ignored["recall_crowds_ignored"] == dropped["recall"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("path", CASES[::5], ids=lambda path: path.stem)
def test_without_crowds_both_manners_agree(path):
    case = read(path)
    for truth in case["ground_truths"]:
        truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    arguments = case["ground_truths"], case["predictions"], "segm", case["score_threshold"]
    assert list(saco_crowd_metrics(*arguments).values()) == list(saco_image_metrics(*arguments).values())
