"""Metrics against golden cases of the reference evaluators, against COCO itself, and against counts made by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from workbench.pair_metrics import (
    Tally,
    aggregate,
    box_iou,
    counting,
    mean_hit_iou,
    mean_object_iou,
    pair_counts,
    rates,
    rle_iou,
    semantic_overlap,
)
from workbench.ranking import average_precision, precision_over_thresholds, rank_candidates

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
AP_CASES = sorted((GOLDEN / "coco_ap").glob("*.json"))
NOTHING = np.zeros((0, 0))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------------------------------------- golden
def test_golden_cases_are_all_here():
    assert len(AP_CASES) == 2


def golden_ap_columns(case: dict) -> tuple[list, list, list, list]:
    phrases, scores, ious, crowds = [], [], [], []
    for category in case["ground_truth"]["categories"]:
        for image in case["ground_truth"]["images"]:
            here = (image["id"], category["id"])
            labels = [a for a in case["ground_truth"]["annotations"] if (a["image_id"], a["category_id"]) == here]
            found = [p for p in case["predictions"] if (p["image_id"], p["category_id"]) == here]
            boxes = np.array([p["bbox"] for p in found])
            phrases.append(category["name"] if "name" in category else str(category["id"]))
            scores.append(np.array([p["score"] for p in found]))
            ious.append(box_iou(boxes, np.array([a["bbox"] for a in labels if not a["iscrowd"]])))
            crowds.append(box_iou(boxes, np.array([a["bbox"] for a in labels if a["iscrowd"]]), is_crowd=True))
    return phrases, scores, ious, crowds


@pytest.mark.parity
@pytest.mark.parametrize(("split", "positive_only"), [("AP_all", False), ("AP_positive_split", True)])
@pytest.mark.parametrize("path", AP_CASES, ids=lambda path: path.stem)
def test_average_precision_equals_the_reference(path, split, positive_only):
    case = read(path)
    expected = {name.replace("_", ""): case["expected"][split][name] for name in ("AP", "AP_50", "AP_75")}
    values = average_precision(*golden_ap_columns(case), positive_only=positive_only)
    assert values == pytest.approx(expected, abs=1e-6, rel=0)


def test_false_alarms_on_absent_categories_lower_ap_but_not_the_positive_split():
    case = read(GOLDEN / "coco_ap" / "ap02_absent_false_alarms.json")
    columns = golden_ap_columns(case)
    assert average_precision(*columns)["AP"] < average_precision(*columns, positive_only=True)["AP"]


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_coco_eval_on_random_boxes(seed):
    from faster_coco_eval import COCO, COCOeval_faster

    rng = np.random.default_rng(seed)
    images = [{"id": i + 1, "width": 200, "height": 200} for i in range(12)]
    categories = [{"id": c + 1, "name": f"c{c}"} for c in range(3)]
    annotations, predictions = [], []
    for image in images:
        for category in categories:
            for _ in range(rng.integers(0, 4)):
                box = [*rng.integers(0, 150, 2).tolist(), *rng.integers(10, 50, 2).tolist()]
                pair = {"image_id": image["id"], "category_id": category["id"]}
                is_crowd = int(rng.random() < 0.15)
                area = float(box[2] * box[3])
                annotations.append({"id": len(annotations) + 1, **pair, "bbox": box, "area": area, "iscrowd": is_crowd})
                for _ in range(rng.integers(0, 3)):
                    shifted = (np.array(box) + rng.normal(0, 3, 4)).tolist()
                    predictions.append({**pair, "bbox": shifted, "score": float(rng.random())})
            for _ in range(rng.integers(0, 2)):
                box = [*rng.uniform(0, 150, 2).tolist(), *rng.uniform(10, 50, 2).tolist()]
                predictions.append(
                    {"image_id": image["id"], "category_id": category["id"], "bbox": box, "score": float(rng.random())}
                )
    truth = {"images": images, "categories": categories, "annotations": annotations}
    coco = COCO(truth)
    evaluator = COCOeval_faster(coco, coco.loadRes(predictions), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (T, R, K), all areas, 100 candidates
    values = average_precision(*golden_ap_columns({"ground_truth": truth, "predictions": predictions}))
    assert 0.05 < values["AP"] < 0.95
    expected = {"AP": precision.mean(), "AP50": precision[0].mean(), "AP75": precision[5].mean()}
    assert values == pytest.approx(expected, abs=1e-9)


# ------------------------------------------------------------------------------------------------------ counts by hand
def test_matching_maximises_the_sum_of_iou_even_when_that_loses_a_hit():
    counts = pair_counts(np.array([[0.95, 0.49], [0.55, 0.0]]))
    assert counts.tp.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]  # 0.49 + 0.55 beats 0.95 + 0.0
    assert counts.hit_iou.tolist() == [0.55]


def test_duplicates_count_once():
    counts = pair_counts(np.array([[1.0], [0.99]]))
    assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (1, 1, 0)
    assert aggregate([counts])["positive_micro_F1"] == pytest.approx(2 / 3, abs=1e-3)


def test_a_candidate_that_hits_an_object_is_no_crowd_candidate():
    counts = pair_counts(np.array([[0.8], [0.0], [0.0]]), np.array([[1.0], [0.7], [0.1]]))
    assert counts.tp.tolist() == [1] * 7 + [0] * 3
    assert counts.fp.tolist() == [1] * 5 + [2] * 2 + [2] * 3  # above 0.8 the first one is on the crowd again
    assert (counts.num_kept, counts.num_truth, counts.is_decided) == (2, 1, True)
    assert not pair_counts(np.zeros((1, 0)), np.ones((1, 1))).is_decided


def test_false_alarms_on_absent_phrases_move_mcc_but_not_pmf1():
    hit, silent, alarm = pair_counts(np.array([[1.0]])), pair_counts(NOTHING), pair_counts(np.zeros((2, 0)))
    clean = aggregate([hit, hit, silent, silent])
    alarmed = aggregate([hit, hit, silent, alarm])
    assert alarmed["positive_micro_F1"] == clean["positive_micro_F1"]
    assert clean["IL_MCC"] == pytest.approx(1, abs=1e-5)
    assert alarmed["IL_MCC"] == pytest.approx(2 / np.sqrt(3 * 2 * 2 * 1), abs=1e-5)  # (2*1-1*0)/sqrt(3*2*2*1)
    assert alarmed["IL_FPR"] == pytest.approx(0.5, abs=1e-5)
    assert alarmed["cgF1"] == pytest.approx(alarmed["IL_MCC"] * alarmed["positive_micro_F1"])


def test_without_absent_phrases_cgf1_is_zero():
    assert aggregate([pair_counts(np.array([[1.0]]))])["cgF1"] == 0.0


def test_macro_f1_leaves_out_pairs_without_candidates_and_is_minus_one_when_undefined():
    hit, missed = pair_counts(np.array([[1.0]])), pair_counts(np.zeros((0, 3)))
    assert aggregate([hit, missed])["positive_macro_F1"] == pytest.approx(1.0, abs=1e-3)
    assert aggregate([missed])["positive_macro_F1"] == -1.0


def test_mean_hit_iou_is_over_hits_only():
    pairs = [pair_counts(np.array([[0.6]])), pair_counts(np.array([[0.8]])), pair_counts(np.array([[0.3]]))]
    assert mean_hit_iou(Tally.of(pairs).weighted(np.ones((1, 3))))[0] == pytest.approx(0.7)
    assert np.isnan(mean_hit_iou(Tally.of(pairs[2:]).weighted(np.ones((1, 1))))[0])


def test_mean_object_iou_counts_missed_objects_as_zero():
    pairs = [pair_counts(np.array([[0.6, 0.0], [0.3, 0.3]])), pair_counts(np.zeros((0, 1))), pair_counts(NOTHING)]
    total = Tally.of(pairs).weighted(np.ones((1, 3)))
    assert mean_object_iou(total)[0] == pytest.approx((0.6 + 0.3 + 0) / 3)
    assert np.isnan(mean_object_iou(Tally.of(pairs[2:]).weighted(np.ones((1, 1))))[0])


def test_counting_by_hand():
    pairs = [pair_counts(np.zeros(shape)) for shape in ((3, 2), (2, 2), (0, 1), (4, 0), (0, 0))]
    values = counting(Tally.of(pairs).weighted(np.ones((1, 5))))
    assert {name: value[0] for name, value in values.items()} == pytest.approx(
        {"count_accuracy": 2 / 5, "count_mae": (1 + 0 + 1 + 4 + 0) / 5, "count_error": 6 / 5}
    )
    absent = counting(Tally.of(pairs[3:]).weighted(np.ones((1, 2))))
    assert np.isnan(absent["count_error"][0]) and absent["count_mae"][0] == 2.0


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"iou has shape \(3,\), expected \(D, G\)"):
        pair_counts(np.zeros(3))
    with pytest.raises(ValueError, match="0 pairs were given"):
        aggregate([])


# ---------------------------------------------------------------------------------------------------------------- IoU
def test_rle_iou_equals_counting_pixels():
    from workbench.formats import rle_of

    rng = np.random.default_rng(0)
    found, true = rng.random((5, 30, 41)) < 0.4, rng.random((3, 30, 41)) < 0.6
    expected = [[(a & b).sum() / (a | b).sum() for b in true] for a in found]
    np.testing.assert_allclose(rle_iou([rle_of(m) for m in found], [rle_of(m) for m in true]), expected, rtol=1e-12)


def test_rle_iou_of_nothing_keeps_its_shape_and_other_sizes_are_refused():
    rle = {"size": [4, 4], "counts": "5163"}
    assert rle_iou([], [rle, rle]).shape == (0, 2)
    assert rle_iou([rle], []).shape == (1, 0)
    with pytest.raises(ValueError, match=r"sizes \[\(4, 4\), \(8, 8\)\]"):
        rle_iou([rle], [{"size": [8, 8], "counts": "P2"}])


def test_semantic_overlap_equals_counting_pixels():
    from workbench.formats import rle_of

    rng = np.random.default_rng(1)
    found, true = rng.random((4, 30, 41)) < 0.2, rng.random((3, 30, 41)) < 0.3
    shared, covered = found.any(0) & true.any(0), found.any(0) | true.any(0)
    rles = [[rle_of(mask) for mask in masks] for masks in (found, true)]
    assert semantic_overlap(*rles) == (shared.sum(), covered.sum())
    assert semantic_overlap(rles[0], []) == (0, found.any(0).sum())
    assert semantic_overlap([], []) == (0, 0)


def test_overlap_with_a_crowd_is_the_share_of_the_candidate():
    from workbench.formats import rle_of

    crowd, candidate = np.zeros((2, 10, 10), bool)
    crowd[:, :5], candidate[2:6, 3:7] = True, True
    assert rle_iou([rle_of(candidate)], [rle_of(crowd)], is_crowd=True)[0, 0] == 0.5


def test_box_iou_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    truth = np.array([[5, 0, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]])
    np.testing.assert_allclose(box_iou(boxes, truth), [[1 / 3, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(box_iou(boxes, truth, is_crowd=True), [[0.5, 0, 0], [0, 0, 0]])
    assert box_iou(np.zeros((0, 4)), truth).shape == (0, 3)


# ----------------------------------------------------------------------------------------------------------- resamples
def random_pairs(num: int, seed: int) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    phrases, scores, ious = [], [], []
    for _ in range(num):
        objects = int(rng.integers(0, 4)) if rng.random() < 0.7 else 0
        phrases.append(f"phrase {rng.integers(0, 3)}")
        scores.append(rng.random(int(rng.integers(0, 6))))
        ious.append(rng.random((len(scores[-1]), objects)))
    return phrases, scores, ious


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_the_same_as_repeating_pairs(seed):
    phrases, scores, ious = random_pairs(40, seed)
    weights = np.random.default_rng(seed).multinomial(40, [1 / 40] * 40, size=1)
    repeated = np.repeat(np.arange(40), weights[0])
    counts = [pair_counts(iou) for iou in ious]
    weighted = rates(Tally.of(counts).weighted(weights))
    plain = aggregate([counts[i] for i in repeated])
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(plain)
    by_weight = precision_over_thresholds(rank_candidates(phrases, scores, ious), weights)
    drawn = [[column[i] for i in repeated] for column in (phrases, scores, ious)]
    by_copy = precision_over_thresholds(rank_candidates(*drawn), np.ones((1, len(repeated))))
    np.testing.assert_allclose(by_weight, by_copy, rtol=0, atol=1e-12)
    assert 0 < by_weight[0, 0] < 1


def test_average_precision_without_objects_is_undefined_and_without_candidates_zero():
    assert np.isnan(average_precision(["cup"], [np.array([0.9])], [np.zeros((1, 0))])["AP"])
    assert average_precision(["cup"], [np.zeros(0)], [np.zeros((0, 2))])["AP"] == 0.0


def test_only_the_hundred_best_candidates_of_a_pair_count():
    scores, iou = np.linspace(0.9, 0.1, 101), np.zeros((101, 1))
    iou[100] = 1.0
    assert average_precision(["cup"], [scores], [iou])["AP"] == 0.0
    assert average_precision(["cup"], [scores[1:]], [iou[1:]])["AP"] == pytest.approx(0.01)


def test_ranking_refuses_matrices_that_do_not_fit():
    with pytest.raises(ValueError, match="2 phrases, 1 score lists"):
        rank_candidates(["a", "b"], [np.zeros(1)], [np.zeros((1, 0))])
    with pytest.raises(ValueError, match=r"pair 0 \('a'\) has 2 scores"):
        rank_candidates(["a"], [np.zeros(2)], [np.zeros((1, 3))])


def test_two_thousand_resamples_of_five_hundred_pairs_take_less_than_two_seconds():
    _, _, ious = random_pairs(500, 0)
    tally = Tally.of([pair_counts(iou) for iou in ious])
    weights = np.random.default_rng(0).multinomial(500, [1 / 500] * 500, size=2000)
    start = time.perf_counter()
    values = rates(tally.weighted(weights.astype(np.float64)))
    assert time.perf_counter() - start < 2.0
    assert values["cgF1"].shape == (2000,)
    assert values["cgF1"].std() > 0
