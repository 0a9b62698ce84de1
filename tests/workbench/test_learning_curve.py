"""learning_curve() with a function that answers at once: order of runs, means, the file, and its plot."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from workbench.evaluate import Evaluation, PairRecord
from workbench.learning_curve import CurveRun, LearningCurve, learning_curve
from workbench.plots import plot_learning_curve


def evaluation(value: float, images: int = 2) -> Evaluation:
    records = tuple(PairRecord(f"image {i}", "cup", "absent", 0.1, (), (), (), 0, ()) for i in range(images))
    return Evaluation("model", "cups", 0.5, records, {"cgF1": value, "AP": math.nan}, 1.0)


def adapt(shots: int, seed: int) -> Evaluation:
    return evaluation(0.1 * shots + 0.01 * seed)


def test_every_number_of_pictures_meets_every_seed():
    curve = learning_curve(adapt, shots=(5, 1), seeds=(0, 1, 2), before=evaluation(0.05), progress=False)
    assert [(run.shots, run.seed) for run in curve.runs] == [(1, 0), (1, 1), (1, 2), (5, 0), (5, 1), (5, 2)]
    one, five = curve.points("cgF1")
    assert one.values == pytest.approx((0.1, 0.11, 0.12))
    assert (one.mean, one.spread) == pytest.approx((0.11, 0.01))
    assert (five.shots, five.mean) == (5, pytest.approx(0.51))
    assert curve.before["cgF1"] == 0.05


def test_undefined_values_are_left_out_of_the_mean():
    curve = LearningCurve((CurveRun(1, 0, {"AP": math.nan}), CurveRun(1, 1, {"AP": 0.5}), CurveRun(2, 0, {})))
    one, two = curve.points("AP")
    assert (one.mean, one.spread) == (0.5, 0.0)
    assert math.isnan(two.mean)


def test_json_round_trip(tmp_path: Path):
    curve = learning_curve(adapt, shots=(1, 2), seeds=(3,), before=evaluation(0.0), progress=False)
    curve.save(tmp_path / "curve.json")
    again = LearningCurve.load(tmp_path / "curve.json")
    assert again.points("cgF1") == curve.points("cgF1")
    assert math.isnan(again.runs[0].metrics["AP"]) and math.isnan(again.before["AP"])
    LearningCurve(curve.runs).save(tmp_path / "curve.json")
    assert LearningCurve.load(tmp_path / "curve.json").before is None
    for content, message in (
        ("[]", "is no learning curve"),
        ('{"format": "workbench-learning-curve-1"}', "is damaged"),
    ):
        (tmp_path / "curve.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            LearningCurve.load(tmp_path / "curve.json")


def test_wrong_numbers_and_changing_test_sets_are_refused():
    for options in ({"shots": ()}, {"shots": (0, 1)}, {"seeds": (1, 1)}):
        with pytest.raises(ValueError, match="expected at least one number, none twice"):
            learning_curve(adapt, progress=False, **options)
    with pytest.raises(ValueError, match="2 shots and seed 0 was measured on 3 pairs, others on 2"):
        learning_curve(lambda shots, seed: evaluation(0.1, 1 + shots), shots=(1, 2), seeds=(0,), progress=False)


def test_the_plot_shows_runs_means_and_the_start(tmp_path: Path):
    curve = learning_curve(adapt, shots=(1, 10), seeds=(0, 1), before=evaluation(0.05), progress=False)
    axes = plot_learning_curve(curve, save=tmp_path / "curve.png").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([10.5, 100.5])
    assert [text.get_text() for text in axes.texts] == ["before adaptation"]
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no run of the learning curve has a value for 'AP'"):
        plot_learning_curve(curve, "AP")
