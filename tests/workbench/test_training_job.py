"""Jobs in the background: what they show, how they stop and go on, and that two of them do not disturb each other."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.adapt import run_recipe
from workbench.recipe import LabelledPictures, Recipe, RenderedPictures, load_recipe, save_recipe
from workbench.run_events import RunEvent, Stopped
from workbench.training_job import JobSnapshot, TrainingJob, training_turn

pytestmark = pytest.mark.usefixtures("quick_jobs")
SECONDS = 300  # a busy machine may need them, a failure never does


def until(wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not wanted():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def weights(out: Path) -> dict[str, torch.Tensor]:
    files = sorted((out / "adapter").glob("*.safetensors"))
    return {f"{path.name} {name}": tensor for path in files for name, tensor in load_file(path).items()}


def is_same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return bool(a) and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def alone(pristine, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of the same job without a thread, and the phases it went through."""
    out, phases = tmp_path_factory.mktemp("alone") / "out", []
    run_recipe(pristine.recipe, out, progress=False, on_event=lambda event: phases.append(event.phase))
    return out, list(dict.fromkeys(phases))


def test_a_job_ends_as_run_recipe_does_and_shows_what_it_did(pristine, alone, tmp_path, capfd):
    job = TrainingJob(pristine.recipe, tmp_path / "out")
    before = job.snapshot
    assert (before.phase, before.step, before.steps, before.is_running) == ("not started", 0, 4, False)
    assert not (tmp_path / "out").exists()
    job.start()
    job.start()  # once is enough
    end = job.wait(SECONDS)
    assert (end.phase, end.step, end.is_running, end.is_finished, end.error) == ("finished", 4, False, True, None)
    assert [step for step, _ in end.losses] == [1, 2, 3, 4] and end.scores == ()
    assert is_same(tmp_path / "out", alone[0]) and before.step == 0
    assert capfd.readouterr().err == ""  # no bars
    again = TrainingJob(pristine.recipe, tmp_path / "out")
    assert replace_out(again.snapshot) == replace_out(end)
    again.start()
    assert not again.snapshot.is_running


def replace_out(snapshot: JobSnapshot) -> tuple[object, ...]:
    return (snapshot.phase, snapshot.step, snapshot.is_finished, snapshot.error)


def test_a_job_names_its_phases_in_the_order_of_the_work(alone):
    assert alone[1] == [
        "reading pictures",
        "loading the model",
        "measuring before",
        "looking for phrases to refuse",
        "preparing the training",
        "adapting",
        "measuring after",
        "measuring what was forgotten",
        "writing the report",
    ]


def test_a_stopped_job_keeps_its_steps_and_another_process_could_take_it_up(pristine, alone, tmp_path):
    job = TrainingJob(pristine.recipe, tmp_path / "out")
    reached, gate = threading.Event(), threading.Event()
    hear = job._hear

    def hold(event: RunEvent) -> None:
        if event.line and event.line["step"] == 2:
            reached.set()
            assert gate.wait(SECONDS)
        hear(event)

    job._hear = hold  # type: ignore[method-assign]
    job.start()
    assert reached.wait(SECONDS)
    job.stop()
    assert job.snapshot.phase == "stopping" and job.snapshot.is_running
    gate.set()
    end = job.wait(SECONDS)
    assert (end.phase, end.step, end.is_running, end.is_finished) == ("stopped", 2, False, False)
    assert "up to step 2" in end.note and "started again" in end.note and end.error is None
    other = TrainingJob(pristine.recipe, tmp_path / "out")
    assert other.snapshot.phase == "stopped" and other.snapshot.losses == end.losses
    other.start()
    assert other.wait(SECONDS).is_finished and is_same(tmp_path / "out", alone[0])


@pytest.mark.parametrize("phase", ["measuring before", "measuring after"])
def test_a_watcher_may_stop_a_job_in_any_phase(pristine, alone, tmp_path, phase):
    def stop(event: RunEvent) -> None:
        if event.phase == phase:
            raise Stopped

    with pytest.raises(Stopped):
        run_recipe(pristine.recipe, tmp_path / "out", progress=False, on_event=stop)
    job = TrainingJob(pristine.recipe, tmp_path / "out")
    assert not job.snapshot.is_finished
    job.start()
    assert job.wait(SECONDS).is_finished and is_same(tmp_path / "out", alone[0])


def test_two_jobs_take_turns_and_each_ends_as_if_alone(pristine, alone, tmp_path):
    jobs = [TrainingJob(pristine.recipe, tmp_path / name) for name in ("a", "b")]
    for job in jobs:
        job.start()
    assert all(job.wait(SECONDS).is_finished for job in jobs)
    assert all(is_same(tmp_path / name, alone[0]) for name in ("a", "b"))


def test_a_job_that_waits_for_its_turn_can_be_stopped(pristine, tmp_path):
    job = TrainingJob(pristine.recipe, tmp_path / "out")
    with training_turn(lambda: False):
        job.start()
        assert job.snapshot.phase == "waiting for its turn" and job.snapshot.is_running
        job.stop()
        until(lambda: not job.snapshot.is_running)
    assert job.snapshot.phase == "stopped" and not (tmp_path / "out").exists()


def test_errors_become_words(project, tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        TrainingJob(tmp_path / "nowhere.yaml", tmp_path / "out")
    project.write(phrases={"disc": None, "bar": None})
    job = TrainingJob(load_recipe(project.recipe), tmp_path / "out")
    job.start()
    end = job.wait(SECONDS)
    assert end.phase == "failed" and not end.is_running and "learn.json" in str(end.error)
    project.write()

    def fail(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("the device went away")

    job = TrainingJob(project.recipe, tmp_path / "other", run=fail)
    job.start()
    assert asyncio.run(job.ended()).error == "RuntimeError: the device went away"


def test_a_folder_of_other_settings_does_not_show_as_finished(pristine, alone, tmp_path):
    """A notebook whose settings were changed, and whose folder was not: it must not say that all is done."""
    out = tmp_path / "out"
    shutil.copytree(alone[0], out)
    assert TrainingJob(pristine.recipe, out).snapshot.is_finished
    job = TrainingJob(load_recipe(pristine.recipe, ["train.steps=6"]), out)
    assert (job.snapshot.phase, job.snapshot.step, job.snapshot.losses) == ("not started", 0, ())
    job.start()
    end = job.wait(SECONDS)
    assert end.phase == "failed" and "train.steps is 4 there and 6 here" in (end.error or "")
    assert "Choose a new folder" in (end.error or "") and is_same(out, alone[0])


def is_finished(recipe: Recipe, out: Path) -> bool:
    return TrainingJob(recipe, out).snapshot.is_finished


def test_a_finished_folder_is_known_however_its_weights_are_written(pristine, alone, monkeypatch):
    recipe = load_recipe(pristine.recipe)
    place = Path(recipe.model).resolve()
    monkeypatch.chdir(place.parent)
    for written in (str(place), f"./{place.name}", f"../{place.parent.name}/{place.name}"):
        assert is_finished(recipe.model_copy(update={"model": written}), alone[0]), written
    assert not is_finished(recipe.model_copy(update={"model": "tiny"}), alone[0])
    shutil.copyfile(place, other := alone[0].parent / "other.safetensors")
    assert not is_finished(recipe.model_copy(update={"model": str(other)}), alone[0])


def test_other_pictures_are_another_job(pristine, alone, tmp_path):
    recipe = load_recipe(pristine.recipe)
    labels, images = Path(recipe.test.annotations), Path(recipe.test.images)
    twin = LabelledPictures(annotations=labels.parent / ".." / labels.parent.name / labels.name, images=images)
    assert is_finished(recipe.model_copy(update={"test": twin}), alone[0])
    for changed in (recipe.learn, LabelledPictures(annotations=tmp_path / "other.json", images=images)):
        assert not is_finished(recipe.model_copy(update={"test": changed}), alone[0]), changed
    seeds = [RenderedPictures(rendered="shapes", pictures=12, seed=seed) for seed in range(3)]
    drawn = recipe.model_copy(update={"learn": seeds[0], "test": seeds[1]})
    out = tmp_path / "drawn"
    shutil.copytree(alone[0], out)
    save_recipe(drawn, out / "recipe.yaml")
    assert is_finished(drawn, out)
    assert not is_finished(drawn.model_copy(update={"learn": seeds[2]}), out)
    assert not is_finished(drawn.model_copy(update={"test": recipe.test}), out)
    moved = recipe.model_copy(update={"test": LabelledPictures(annotations=tmp_path / labels.name, images=images)})
    save_recipe(moved, out / "recipe.yaml")  # where its labels lay there is nothing now
    assert is_finished(recipe, out)


@pytest.mark.parametrize("content", ["name: [", "name: mine\nplans: {}\n", None])
def test_a_folder_whose_recipe_cannot_be_read_is_not_taken_for_ours(pristine, alone, tmp_path, content):
    shutil.copytree(alone[0], out := tmp_path / "out")
    (out / "recipe.yaml").unlink()
    if content is not None:
        (out / "recipe.yaml").write_text(content, "utf-8")
    assert TrainingJob(pristine.recipe, out).snapshot.phase == "not started"
