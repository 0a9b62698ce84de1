"""The programs in benchmarks/: they explain themselves, and a very small run of each gives sensible numbers."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

PROGRAMS = {
    "app_load": "--visitors",
    "costs": "--steps",
    "full_size": "--steps",
    "image": "--task",
    "precision": "--scenes",
    "video": "--objects",
    "video_memory": "--frames",
}


def run(repo_root: Path, program: str, *arguments: object) -> str:
    known = {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}
    answer = subprocess.run(
        [sys.executable, repo_root / "benchmarks" / f"{program}.py", *map(str, arguments)],
        env=os.environ | known,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_every_option(program, repo_root, monkeypatch):
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    app = typer.Typer()
    app.command()(importlib.import_module(program).main)
    text = CliRunner().invoke(app, ["--help"], env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}).stdout
    assert "Usage" in text and "--out" in text and PROGRAMS[program] in text
    readme = (repo_root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert f"python benchmarks/{program}.py" in readme


def test_costs_sets_an_estimate_beside_a_run(repo_root, tmp_path):
    text = run(repo_root, "costs", "--only", 1, "--steps", 2, "--out", tmp_path / "costs.json")
    (case,) = json.loads((tmp_path / "costs.json").read_text(encoding="utf-8"))["cases"]
    assert case["case"] in text and case["steps"] == 2
    assert 0.2 < case["found"]["gb"] < 3 and abs(case["off"]["gb"]) < 0.3
    assert case["found"]["seconds"] > 0 and case["told"]["seconds"] > 0


def test_full_size_measures_a_plan_with_the_tiny_model(repo_root, tmp_path):
    arguments = ["--size", "tiny", "--pictures", 2, "--measured-steps", 2, "--plan", "tokens"]
    text = run(repo_root, "full_size", *arguments, "--out", tmp_path / "full_size.json")
    content = json.loads((tmp_path / "full_size.json").read_text(encoding="utf-8"))
    (plan,) = content["plans"]
    assert plan["plan"] == "tokens" and "tokens" in text
    assert plan["view_mb"] == pytest.approx(2.064, abs=0.001) and 6e6 < plan["parameters"] < 9e6
    assert 0.2 < plan["peak_gb"] < plan["whole"]["gb"] < 3
    assert plan["seconds_per_step"] > 0 and plan["whole"]["minutes"] > 0


def test_image_sets_our_answers_beside_those_of_transformers(repo_root, tmp_path):
    """The program stops if either side hands out another number of masks than was asked for."""
    arguments = ["--size", "small", "--repeats", 1, "--threads", 1, "--found", 3, "--side", "int8", "--side", "ours"]
    text = run(repo_root, "image", *arguments, "--side", "theirs", "--out", tmp_path / "image.json")
    content = json.loads((tmp_path / "image.json").read_text(encoding="utf-8"))
    tasks = {task["task"]: task for task in content["tasks"]}
    assert (
        list(tasks) == ["phrase", "further", "phrases8", "phrases32", "pictures4", "exemplars"] and "phrases8" in text
    )
    for task in tasks.values():
        assert {"int8", "ours"} <= set(task["sides"]) and all(side["seconds"] > 0 for side in task["sides"].values())
    stages = tasks["further"]["sides"]["ours"]["stages"]
    assert stages["vision transformer"] == 0 and stages["fusion encoder"] > 0
    assert tasks["phrases8"]["ratio"]["ours"] < 1.2


def test_precision_measures_answers_and_quality(repo_root, tmp_path):
    run(repo_root, "precision", "--size", "small", "--scenes", 2, "--out", tmp_path / "precision.json")
    rows = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))["precisions"]
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "int8"]
    assert rows[0]["mask_iou"] == 1 and all(0.5 < row["mask_iou"] <= 1 for row in rows[1:])
    assert all(0 <= row["cgf1"] <= 1 for row in rows)


def test_video_sets_our_session_beside_that_of_transformers(repo_root, tmp_path):
    """The program stops if either follows another number of objects than was asked for."""
    arguments = ["--size", "small", "--objects", 3, "--frames", 38, "--out", tmp_path / "video.json"]
    text = run(repo_root, "video", *arguments)
    (case,) = json.loads((tmp_path / "video.json").read_text(encoding="utf-8"))["runs"]
    assert "3 objects" in text and case["objects"] == 3
    assert len(case["frames"]["ours"]) == len(case["frames"]["theirs"]) == 38
    assert case["ours"]["seconds"] > 0 and case["theirs"]["seconds"] > 0
    assert abs(case["ours"]["state_mb_per_frame"]) < 0.1 * case["theirs"]["state_mb_per_frame"]


def test_video_memory_marks_four_places(repo_root, tmp_path):
    text = run(repo_root, "video_memory", "--frames", 8, "--objects", 2, "--out", tmp_path / "memory.json")
    content = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    assert [mark["frame"] for mark in content["marks"]] == [2, 4, 6, 8] and "CPU time x" in text
    assert all(0.2e3 < mark["rss_mb"] <= mark["peak_mb"] + 1 for mark in content["marks"])
    assert content["growth"]["peak_mb"] >= 1
