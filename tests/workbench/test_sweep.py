"""sweep() on a very small model: every value meets every seed, nothing is done twice, and the plot shows it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.plots import plot_sweep
from workbench.sweep import RETENTION, Sweep, SweepRun, sweep

FAST = ["plan={name: tokens}", "train.steps=2", "guard.replay=0", "negatives.mine=false"]


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture(scope="module")
def swept(pristine, tmp_path_factory) -> tuple[Sweep, Path]:
    out = tmp_path_factory.mktemp("sweep")
    found = sweep(pristine.recipe, "shots", [2, 4], out, seeds=(0, 1), overrides=FAST, progress=False)
    return found, out


def test_every_value_meets_every_seed_and_all_are_measured_on_the_same_pictures(swept):
    found, out = swept
    assert [(run.value, run.seed) for run in found.runs] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert (found.name, found.key, found.model) == ("discs", "shots", "small.safetensors")
    assert all(RETENTION in run.metrics for run in found.runs)
    assert (out / "shots=4" / "seed1" / "report.html").exists() and (out / "sweep.png").stat().st_size > 5000
    befores = {path.read_bytes() for path in out.glob("shots=*/seed*/before.json")}
    assert len(befores) == 1
    assert len({path.read_bytes() for path in out.glob("shots=*/seed*/adapter/*.safetensors")}) == 4
    assert Sweep.load(out / "sweep.json").points("IL_MCC") == found.points("IL_MCC")


def test_finished_runs_are_not_repeated(swept, pristine):
    found, out = swept
    written = {path: path.stat().st_mtime_ns for path in out.glob("shots=*/seed*/after.json")}
    longer = sweep(pristine.recipe, "shots", [2, 4], out, seeds=(0, 1), overrides=FAST, progress=False)
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert longer.points("cgF1") == found.points("cgF1")


def test_undefined_values_are_left_out_of_the_mean():
    runs = (SweepRun(1, 0, {"AP": math.nan}), SweepRun(1, 1, {"AP": 0.5}), SweepRun(2, 0, {}))
    one, two = Sweep("cups", "tiny", "shots", runs, {}).points("AP")
    assert (one.mean, one.spread) == (0.5, 0.0)
    assert math.isnan(two.mean)


def test_names_are_drawn_without_a_line_and_numbers_with_one(swept, tmp_path):
    found = swept[0]
    values = {"cgF1": 0.2, "pmF1": 0.3, "IL_MCC": 0.5}
    numbers = replace(found, runs=tuple(SweepRun(v, s, values) for v in (1, 5) for s in (0, 1)), before=values)
    axes = plot_sweep(numbers).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "5"]
    assert axes.get_xlabel() == "pictures learnt from" and len(axes.collections) == 3  # one band per metric
    plans = replace(numbers, key="plan.name", runs=tuple(SweepRun(v, 0, values) for v in ("tokens", "lora")))
    axes = plot_sweep(plans, save=tmp_path / "plans.png").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["tokens", "lora"]
    assert (tmp_path / "plans.png").exists()
    with pytest.raises(ValueError, match="no run of the sweep has a value for 'AP'"):
        plot_sweep(plans, ["AP"])


def test_wrong_values_are_refused_before_anything_is_computed(pristine, tmp_path):
    for key, values, options, message in (
        ("shots", [], {}, "expected at least one, and none twice"),
        ("shots", [2, 2], {}, "expected at least one, and none twice"),
        ("shots", [2], {"seeds": (1, 1)}, "expected at least one, and none twice"),
        ("score_threshold", [0.3, 0.5], {}, "cannot be varied"),
        ("test.images", ["a"], {}, "cannot be varied"),
        ("shots", [2, 0], {}, "shots"),
        ("plan.nam", ["tokens"], {}, "did you mean 'name'"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(pristine.recipe, key, values, tmp_path / "out", progress=False, **options)
        assert not (tmp_path / "out").exists()


def test_damaged_files_are_refused(tmp_path):
    for content, message in (("[]", "is no sweep"), ('{"format": "workbench-sweep-1"}', "is damaged")):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            Sweep.load(tmp_path / "sweep.json")
