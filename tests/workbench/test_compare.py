"""compare() on records made by hand: intervals against a bootstrap spelt out, order of regressions, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.compare import PhraseChange, compare
from workbench.evaluate import Evaluation, PairRecord, metrics_of
from workbench.record_metrics import METRIC_NAMES, RecordStatistics

RLE = {"size": [4, 4], "counts": "5163"}


def record(image: str, phrase: str, num_truth: int, *candidates: tuple[float, list[float]]) -> PairRecord:
    """Candidates are (score, overlaps with each object)."""
    rows = tuple(tuple(overlaps) for _, overlaps in candidates)
    scores = tuple(score for score, _ in candidates)
    status = "positive" if num_truth else "absent"
    presence = max(scores, default=0.1)
    truth = RLE if num_truth else None
    return PairRecord(
        image, phrase, status, presence, scores, rows, rows, num_truth, (RLE,) * len(rows), truth_rle=truth
    )


def evaluation(*records: PairRecord, model: str = "model", threshold: float = 0.5) -> Evaluation:
    return Evaluation(model, "shapes", threshold, tuple(records), metrics_of(records, threshold), 1.5)


def random_evaluation(model: str, skill: float, seed: int, num_images: int = 12) -> Evaluation:
    labels, rng = np.random.default_rng(99), np.random.default_rng(seed)
    records = []
    for image in range(num_images):
        for phrase in ("cup", "star"):
            objects = int(labels.integers(0, 3))
            scores = np.sort(rng.random(int(rng.integers(0, 4))) * 0.9 + 0.1)[::-1].tolist()
            iou = rng.random((len(scores), objects)) ** (1 - skill)
            candidates = zip(scores, iou.tolist(), strict=True)
            records.append(record(f"image {image:02}", phrase, objects, *candidates))
    return evaluation(*records, model=model)


def test_an_evaluation_compared_with_itself_does_not_change():
    before = random_evaluation("same", 0.5, 0)
    comparison = compare(before, before)
    assert set(comparison.metrics) == set(METRIC_NAMES)
    for delta in comparison.metrics.values():
        assert delta.delta == 0
        assert delta.ci95 == (0, 0)
        assert not delta.is_certain
    assert {pair.event for pair in comparison.pairs} == {"same"}
    assert comparison.regressions == ()


def test_metrics_are_those_of_the_evaluations():
    before, after = random_evaluation("before", 0.2, 1), random_evaluation("after", 0.8, 2)
    comparison = compare(before, after, num_resamples=50)
    assert {name: d.before for name, d in comparison.metrics.items()} == pytest.approx(before.metrics)
    assert {name: d.after for name, d in comparison.metrics.items()} == pytest.approx(after.metrics)
    for delta in comparison.metrics.values():
        assert delta.delta == pytest.approx(delta.after - delta.before)


def test_intervals_equal_a_bootstrap_spelt_out_over_images():
    before, after = random_evaluation("before", 0.2, 1), random_evaluation("after", 0.8, 2)
    images = sorted({r.image_id for r in before.records})
    draws = np.random.default_rng(7).multinomial(len(images), [1 / len(images)] * len(images), size=25)
    changes: dict[str, list[float]] = {name: [] for name in METRIC_NAMES}
    for draw in draws:
        times = dict(zip(images, draw, strict=True))
        old, new = (metrics_of([r for r in side.records for _ in range(times[r.image_id])]) for side in (before, after))
        for name in METRIC_NAMES:
            changes[name].append(new[name] - old[name])
    comparison = compare(before, after, num_resamples=25, seed=7)
    for name, values in changes.items():
        assert np.isfinite(values).all(), name
        # twelve images: 1.08 and 98.92, Student's t with 11 degrees of freedom, widened by sqrt(12 / 11)
        expected = np.percentile(values, [1.07566, 98.92434])
        assert comparison.metrics[name].ci95 == pytest.approx(expected, abs=1e-6), name


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    before, after = random_evaluation("before", 0.2, 1), random_evaluation("after", 0.8, 2)
    first, again, other = (compare(before, after, num_resamples=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.metrics["pmF1"].ci95 != other.metrics["pmF1"].ci95


def test_the_bootstrap_is_paired_so_that_hard_images_cancel_out():
    # half the images are hopeless for both models; elsewhere "after" finds one more of four objects
    eye = np.eye(4).tolist()
    hopeless = [record(f"hard {i}", "cup", 4, (0.9, [0.0] * 4)) for i in range(10)]
    old = [record(f"easy {i}", "cup", 4, *[(0.9, row) for row in eye[:2]]) for i in range(10)]
    new = [record(f"easy {i}", "cup", 4, *[(0.9, row) for row in eye[:3]]) for i in range(10)]
    before, after = evaluation(*hopeless, *old), evaluation(*hopeless, *new)
    delta = compare(before, after).metrics["pmF1"]
    assert delta.is_certain
    draws = np.random.default_rng(0).multinomial(20, [1 / 20] * 20, size=(2, 2000)).astype(float)
    sides = (RecordStatistics.of(side.records, 0.5) for side in (before, after))
    old_values, new_values = (side.values(draw)["pmF1"] for side, draw in zip(sides, draws, strict=True))
    low, high = np.percentile(new_values - old_values, [2.5, 97.5])
    assert low < 0, "two separate draws would leave the change uncertain"
    assert delta.ci95[1] - delta.ci95[0] < (high - low) / 2


def test_regressions_come_first_and_false_alarms_before_misses():
    hit = (0.9, [0.9])
    before = evaluation(
        record("a", "cup", 1, hit),
        record("a", "star", 0),
        record("b", "cup", 1, hit),
        record("b", "star", 0, (0.8, [])),
        record("c", "cup", 1),
        record("c", "star", 0),
        record("d", "cup", 2, (0.9, [0.9, 0.0])),
    )
    after = evaluation(
        record("a", "cup", 1),
        record("a", "star", 0, (0.7, [])),
        record("b", "cup", 1, hit),
        record("b", "star", 0),
        record("c", "cup", 1, hit),
        record("c", "star", 0, (0.7, []), (0.6, [])),
        record("d", "cup", 2, (0.9, [0.9, 0.0]), (0.8, [0.0, 0.1])),
    )
    comparison = compare(before, after, num_resamples=10)
    assert [(pair.image_id, pair.phrase, pair.event, round(pair.delta, 3)) for pair in comparison.pairs] == [
        ("c", "star", "false alarm appeared", -1.0),  # two false alarms before one
        ("a", "star", "false alarm appeared", -1.0),
        ("a", "cup", "miss appeared", -1.0),
        ("d", "cup", "worse", round(2 / 4 - 2 / 3, 3)),
        ("b", "cup", "same", 0.0),
        ("b", "star", "false alarm gone", 1.0),
        ("c", "cup", "miss gone", 1.0),
    ]
    assert [(pair.image_id, pair.phrase) for pair in comparison.regressions] == [
        ("c", "star"),
        ("a", "star"),
        ("a", "cup"),
        ("d", "cup"),
    ]
    miss = comparison.pairs[2]
    assert (miss.missed_before, miss.missed_after, miss.f1_before, miss.f1_after) == (0, 1, 1.0, 0.0)
    assert (miss.presence_before, miss.presence_after) == (0.9, 0.1)


def test_phrases_are_summed_up_with_the_largest_loss_first():
    hit = (0.9, [0.9])
    before = evaluation(
        record("a", "cup", 1, hit),
        record("b", "cup", 2, (0.9, [0.9, 0.0])),
        record("a", "star", 0),
        record("b", "star", 0, (0.8, [])),
        record("c", "star", 1, hit),
        record("a", "fork", 1),
    )
    after = evaluation(
        record("a", "cup", 1),
        record("b", "cup", 2, (0.9, [0.9, 0.0]), (0.8, [0.0, 0.0])),
        record("a", "star", 0),
        record("b", "star", 0),
        record("c", "star", 1, hit),
        record("a", "fork", 1, hit),
    )
    comparison = compare(before, after, num_resamples=10)
    cup, star, fork = comparison.phrases
    assert cup == PhraseChange("cup", 2, 0, 3, 2, 1, 0, 1, 0, 0, pytest.approx((-1 + 0.5 - 2 / 3) / 2), 2)
    assert star == PhraseChange("star", 1, 2, 1, 1, 1, 1, 0, 1, 0, pytest.approx(1 / 3), 0)
    assert (fork.found_before, fork.found_after, fork.delta) == (0, 1, 1.0)
    assert [phrase["phrase"] for phrase in comparison.to_dict()["phrases"]] == ["cup", "star", "fork"]
    assert all(phrase.delta == 0 == phrase.num_worse for phrase in compare(after, after, num_resamples=1).phrases)


def test_more_false_alarms_on_a_phrase_that_had_one_already_count_as_worse():
    rest = [record(image, "cup", 1, (0.9, [0.9])) for image in "bcd"]
    before = evaluation(record("a", "star", 0, (0.8, [])), *rest)
    after = evaluation(record("a", "star", 0, (0.8, []), (0.7, [])), *rest)
    worst = compare(before, after, num_resamples=10).pairs[0]
    assert (worst.image_id, worst.event, worst.delta) == ("a", "worse", 0.0)


def test_box_only_pairs_are_judged_by_boxes():
    def boxes(pair: PairRecord) -> PairRecord:
        return replace(pair, mask_iou=(), has_masks=False)

    before = evaluation(*(boxes(record(i, "cup", 1, (0.9, [0.9]))) for i in "abc"))
    after = evaluation(*(boxes(record(i, "cup", 1, (0.9, [0.9 if i == "a" else 0.1]))) for i in "abc"))
    comparison = compare(before, after, num_resamples=20)
    assert [pair.event for pair in comparison.pairs] == ["miss appeared", "miss appeared", "same"]
    assert math.isnan(comparison.metrics["cgF1"].delta)
    assert comparison.metrics["cgF1"].ci95 is None
    assert comparison.metrics["box_pmF1"].delta < 0
    assert "boxes only" in comparison.note


def test_each_side_keeps_its_own_score_threshold_and_the_note_says_so():
    pairs = [record(i, "cup", 1, (0.4, [0.9])) for i in "abc"]
    comparison = compare(evaluation(*pairs), evaluation(*pairs, threshold=0.3), num_resamples=10)
    assert comparison.metrics["pmF1"].before == 0
    assert comparison.metrics["pmF1"].after == pytest.approx(0.9, abs=0.11)
    assert "score thresholds differ: 0.5 before, 0.3 after" in comparison.note


def test_the_order_of_records_does_not_matter():
    before, after = random_evaluation("before", 0.2, 1), random_evaluation("after", 0.8, 2)
    shuffled = replace(after, records=after.records[::-1])
    assert compare(before, shuffled, num_resamples=50) == compare(before, after, num_resamples=50)


def test_two_images_give_no_interval_and_few_images_a_warning():
    two = compare(random_evaluation("a", 0.2, 1, num_images=2), random_evaluation("b", 0.8, 2, num_images=2))
    assert all(delta.ci95 is None for delta in two.metrics.values())
    assert two.num_resamples == 0
    assert two.note.startswith("2 images: too few for intervals")
    twelve = compare(random_evaluation("a", 0.2, 1), random_evaluation("b", 0.8, 2), num_resamples=10)
    assert twelve.note.startswith("Only 12 images: the intervals are rough")
    many = [random_evaluation(name, 0.5, seed, num_images=20) for seed, name in enumerate("ab")]
    assert compare(*many, num_resamples=10).note == ""


def test_different_pairs_are_refused_and_the_first_differences_named():
    pairs = [record(f"image {i}", "cup", 1, (0.9, [0.9])) for i in range(9)]
    with pytest.raises(
        ValueError, match=r"differ in 7 pairs: image 'image 2', phrase 'cup' only in 'before'.* and 2 more"
    ):
        compare(evaluation(*pairs), evaluation(*pairs[:2]))
    with pytest.raises(ValueError, match="image 'image 8', phrase 'cup' only in 'after'"):
        compare(evaluation(*pairs[:8]), evaluation(*pairs))
    relabelled = record("image 0", "cup", 2, (0.9, [0.9, 0.0]))
    with pytest.raises(ValueError, match="has 1 outlines in 'before', 2 outlines in 'after'"):
        compare(evaluation(*pairs), evaluation(relabelled, *pairs[1:]))
    with pytest.raises(ValueError, match="'after' holds image 'image 0', phrase 'cup' twice"):
        compare(evaluation(*pairs), evaluation(*pairs, pairs[0]))
    with pytest.raises(ValueError, match="num_resamples is 0"):
        compare(evaluation(*pairs), evaluation(*pairs), num_resamples=0)


def test_the_file_holds_what_readers_of_comparisons_expect(tmp_path: Path):
    before, after = random_evaluation("before", 0.2, 1), random_evaluation("after", 0.8, 2)
    comparison = compare(before, after, num_resamples=100)
    comparison.save(tmp_path / "comparison.json")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content == comparison.to_dict()
    assert content["before"] == {"model": "before", "data": "shapes", "score_threshold": 0.5, "seconds": 1.5}
    assert content["after"]["model"] == "after"
    cgf1 = content["metrics"]["cgF1"]
    assert set(cgf1) == {"before", "after", "delta", "ci95"}
    assert cgf1["ci95"][0] <= cgf1["delta"] <= cgf1["ci95"][1]
    assert [pair["delta"] for pair in content["pairs"]] == sorted(pair["delta"] for pair in content["pairs"])
    assert content["num_pairs"] == len(before.records) == len(content["pairs"])


def test_undefined_metrics_are_null_in_the_file(tmp_path: Path):
    silent = evaluation(*(record(i, "cup", 0) for i in "abc"))
    compare(silent, silent, num_resamples=10).save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["metrics"]["AP"] == {"before": None, "after": None, "delta": None, "ci95": None}


def test_people_get_a_table_in_per_cent():
    eye = np.eye(2).tolist()
    before = evaluation(*(record(i, "cup", 2, (0.9, eye[0])) for i in "abc"), record("d", "cup", 0))
    after = evaluation(*(record(i, "cup", 2, (0.9, eye[0]), (0.8, eye[1])) for i in "abc"), record("d", "cup", 0))
    lines = str(compare(before, after, num_resamples=100)).splitlines()
    row = next(line for line in lines if line.startswith("pmF1"))
    assert row.split() == ["pmF1", "66.7", "100.0", "+33.3", "+33.3", "..", "+33.3"]
    assert lines[-1].startswith("0 of 4 pairs got worse.")
