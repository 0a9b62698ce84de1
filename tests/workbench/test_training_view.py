"""A notebook's view of a training: it follows a real job, and its buttons stop it and let it go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.recipe import load_recipe
from workbench.training_job import JobSnapshot, TrainingJob
from workbench.training_view import TrainingView, describe

pytestmark = pytest.mark.usefixtures("quick_jobs")
SECONDS = 300
IDLE = JobSnapshot("not started", 0, 40, (), (), None, False, False, None, Path("out"))


def until(wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not wanted():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def view(pristine, tmp_path) -> Iterator[TrainingView]:
    recipe = load_recipe(pristine.recipe, ["train.steps=40", "guard={scenes: 0, replay: 0}", "negatives.mine=false"])
    view = TrainingView(TrainingJob(recipe, tmp_path / "out"))
    yield view
    view.close()
    view.job.stop()
    view.job.wait(SECONDS)


def test_the_buttons_start_stop_and_go_on(view: TrainingView) -> None:
    (go, stop, bar), words, curve = view.widget.children[0].children, *view.widget.children[1:]
    assert (go.description, go.disabled, stop.disabled, bar.value, bar.max) == ("Start", False, True, 0, 40)
    assert curve.value == b"" and "not started" in words.value
    go.click()
    until(lambda: view.job.snapshot.step >= 2)
    until(lambda: go.disabled and not stop.disabled and bar.value >= 2)
    stop.click()
    end = view.job.wait(SECONDS)
    assert end.phase == "stopped" and 2 <= end.step < 40
    until(lambda: bar.value == end.step and go.description == "Go on" and not go.disabled and stop.disabled)
    until(lambda: bytes(curve.value).startswith(b"\x89PNG") and curve.layout.display is None)
    assert f"stopped: step {end.step} of 40, loss" in words.value
    before = bytes(curve.value)
    go.click()
    until(lambda: view.job.snapshot.step > end.step)
    assert [step for step, _ in view.job.snapshot.losses[: end.step]] == list(range(1, end.step + 1))
    view.job.stop()
    view.job.wait(SECONDS)
    until(lambda: bytes(curve.value) != before)


def test_a_view_needs_no_browser_and_is_one_widget(view: TrainingView) -> None:
    assert view.text.startswith("not started") and not view.job.out.exists()
    assert view.widget is view.widget
    assert "application/vnd.jupyter.widget-view+json" in view._repr_mimebundle_()


def test_a_failure_is_told_in_the_view(pristine, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.jsonl").write_text("mine", "utf-8")
    view = TrainingView(TrainingJob(pristine.recipe, tmp_path / "out"))
    _, words, _ = view.widget.children
    view.job.start()
    view.job.wait(SECONDS)
    until(lambda: "failed: " in words.value)
    assert "choose a new folder" in words.value
    view.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "not started: step 0 of 40"),
        ({"phase": "reading pictures", "steps": 0, "is_running": True}, "reading pictures"),
        (
            {
                "phase": "adapting",
                "step": 2,
                "losses": ((1, 9.0), (2, 7.125)),
                "seconds_left": 300.0,
                "is_running": True,
            },
            "adapting: step 2 of 40, loss 7.12, about 5 min left",
        ),
        ({"scores": ((25, 0.5),), "step": 30}, "not started: step 30 of 40, cgF1 50.0 at step 25"),
        ({"seconds_left": 12.4, "is_running": True}, "not started: step 0 of 40, about 12 s left"),
        ({"seconds_left": 9000.0, "is_running": True}, "not started: step 0 of 40, about 2.5 h left"),
        ({"phase": "failed", "error": "the disk is full"}, "failed: the disk is full"),
    ],
)
def test_a_snapshot_in_one_line(changes: dict, words: str) -> None:
    assert describe(replace(IDLE, **changes)) == words
