"""The main job from recipe to report: what it writes, how it goes on, and what it refuses before any work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sam3.checkpoint import load_sam3
from workbench.adapt import read_pictures, run_recipe
from workbench.adapters import load_adapter
from workbench.compare import Comparison
from workbench.evaluate import Evaluation
from workbench.recipe import Recipe, load_recipe
from workbench.record_metrics import METRIC_NAMES
from workbench.run_folder import OUTPUTS, what_is_kept

WRITTEN = set(OUTPUTS) - {"calibration.json", "folds"}  # those come from `workbench calibrate`
METRIC_KEYS = {"before", "after", "delta", "ci95"}

pytestmark = pytest.mark.usefixtures("quick_jobs")


def refusal(project, out, **arguments) -> str:
    """The message with which a job is refused; nothing may have been computed."""
    with pytest.raises(ValueError) as caught:
        run_recipe(project.recipe, out, progress=False, **arguments)
    assert not (out / "before.json").exists()
    return str(caught.value)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, pristine):
    """The folder of a finished job, not to be changed, and what it gave."""
    out = tmp_path_factory.mktemp("reference") / "out"
    return out, run_recipe(pristine.recipe, out, progress=False).comparison


@pytest.fixture
def finished(reference, tmp_path):
    """A copy of that folder, and what the job gave."""
    return Path(shutil.copytree(reference[0], tmp_path / "runs" / "discs")), reference[1]


def test_the_job_leaves_everything_its_folder_promises(pristine, reference):
    out, comparison = reference
    assert sorted(path.name for path in out.iterdir()) == sorted(WRITTEN)
    written = json.loads((out / "comparison.json").read_text("utf-8"))
    assert written == comparison.to_dict()
    assert set(written["metrics"]) == set(METRIC_NAMES)
    assert all(set(metric) == METRIC_KEYS for metric in written["metrics"].values())
    assert len(written["metrics"]["cgF1"]["ci95"]) == 2
    assert written["before"]["model"] == "small.safetensors"
    assert written["after"]["model"] == "small.safetensors + discs"
    before, after = Evaluation.load(out / "before.json"), Evaluation.load(out / "after.json")
    assert {record.phrase for record in before.records} == {"red disc", "bar", "green star"}
    assert len(before.records) == len(after.records) == 15 and before.score_threshold == 0.2
    assert [r.scores for r in before.records] != [r.scores for r in after.records]
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text("utf-8").splitlines()] == [1, 2, 3, 4]
    report = (out / "report.html").read_text("utf-8")
    assert report.startswith("<!DOCTYPE html>") and report.rstrip().endswith("</html>")
    assert "On 5 unseen pictures with 15 questions" in report and "lora: both encoders too" in report
    assert load_recipe(out / "recipe.yaml") == load_recipe(pristine.recipe)
    retention = json.loads((out / "retention.json").read_text("utf-8"))
    assert retention["pairs"] == 8 and retention["complaints"] == []
    mined = json.loads((out / "negatives.json").read_text("utf-8"))
    assert mined["num_asked"] >= 4 * 2


def test_two_processes_share_a_job_and_one_of_them_writes_and_speaks(pristine, reference, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "workbench", "adapt"]
    arguments = [str(pristine.recipe), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *arguments], env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.count("Report:") == 1
    alone, shared = reference[0], tmp_path / "out"
    assert sorted(path.name for path in shared.iterdir()) == sorted(path.name for path in alone.iterdir())
    before = [Evaluation.load(folder / "before.json").metrics["cgF1"] for folder in (alone, shared)]
    assert before[0] == pytest.approx(before[1], abs=1e-6)
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text("utf-8").splitlines()] for f in (alone, shared)]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys() and (one["present"], one["absent"]) == (two["present"], two["absent"])
        for name in one.keys() - {"seconds", "step"}:
            # The first step is the same; what rounding changed in it, AdamW and the replay make larger.
            rel = 1e-4 if one["step"] == 1 else 0.06 if name in ("replay", "loss", "gradient") else 5e-3
            assert two[name] == pytest.approx(one[name], rel=rel, abs=3e-5), name


def test_the_adapter_of_the_job_gives_the_answers_that_were_measured(project, finished, small_weights):
    from workbench.evaluate import evaluate
    from workbench.examples import ExampleSet

    out, _ = finished
    model = load_sam3(small_weights)
    adapter = load_adapter(model, out / "adapter")
    assert adapter.phrases == ("red disc", "bar")
    assert adapter.facts["steps"] == 4 and len(adapter.facts["pictures"]) == 4
    test = ExampleSet.from_coco(
        project.folder / "test.json", project.folder / "images", phrases={"disc": "red disc"}
    ).with_absent(["green star"])
    after = Evaluation.load(out / "after.json")
    again = evaluate(model, test, score_threshold=0.2, model_name=after.model, progress=False)
    assert again.records == after.records
    with adapter.disabled():
        base = evaluate(model, test, score_threshold=0.2, model_name="small.safetensors", progress=False)
    assert base.records == Evaluation.load(out / "before.json").records
    load_adapter(load_sam3(small_weights), out / "adapter_best")


def test_a_finished_job_is_not_repeated(project, finished, monkeypatch):
    out, comparison = finished
    kept = {name: content for name, content in contents(out).items() if name not in ("report.html", "comparison.json")}

    def forbidden(*_, **__):
        raise AssertionError("measured or trained again")

    module = sys.modules["workbench.adapt"]
    monkeypatch.setattr(module, "evaluate", forbidden)
    monkeypatch.setattr(module, "finetune", forbidden)
    (out / "report.html").unlink()
    again = run_recipe(project.recipe, out, progress=False).comparison
    assert again.to_dict() == comparison.to_dict()
    assert kept.items() <= contents(out).items() and (out / "report.html").exists()
    monkeypatch.setattr(module, "write_report", forbidden)
    assert run_recipe(project.recipe, out, progress=False).comparison.to_dict() == comparison.to_dict()


@pytest.mark.parametrize("place", ["before", "training", "after", "report"])
def test_a_job_stopped_anywhere_goes_on_to_the_same_result(project, reference, tmp_path, monkeypatch, place):
    whole, _ = reference
    out, module = tmp_path / "parted", sys.modules["workbench.adapt"]
    real = {name: getattr(module, name) for name in ("evaluate", "finetune", "write_report")}
    measured: list[str] = []

    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    def evaluate(*arguments, model_name, **keywords):
        if place == ("after" if "+" in model_name else "before"):
            stop()
        measured.append(model_name)
        return real["evaluate"](*arguments, model_name=model_name, **keywords)

    def finetune(*arguments, **keywords):
        def stop_early(line):
            if line["step"] == 2:
                stop()

        return real["finetune"](*arguments, **{**keywords, "on_step": stop_early if place == "training" else None})

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "finetune", finetune)
    if place == "report":
        monkeypatch.setattr(module, "write_report", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_recipe(project.recipe, out, progress=False)
    monkeypatch.undo()
    (note,) = caught.value.__notes__
    assert {
        "before": "Nothing was finished yet in",
        "training": "keeps before.json, negatives.json, log.jsonl, adapter, adapter_best (training up to step 2);",
        "after": "(training up to step 4)",
        "report": "keeps before.json, after.json, negatives.json, retention.json, log.jsonl, adapter",
    }[place] in note
    monkeypatch.setattr(module, "evaluate", evaluate)
    place, done = "", len(measured)
    run_recipe(project.recipe, out, progress=False)
    assert len(measured) == 2 and done == len(measured) - len(measured[done:])  # nothing measured twice
    for name in ("adapter", "adapter_best"):
        weights = [(folder / name / "adapter_model.safetensors").read_bytes() for folder in (whole, out)]
        assert weights[0] == weights[1]
    results = [Evaluation.load(folder / "after.json").records for folder in (whole, out)]
    assert results[0] == results[1]


def test_files_may_move_between_two_runs(project, finished, tmp_path):
    out, _ = finished
    shutil.move(project.folder, tmp_path / "elsewhere")
    run_recipe(tmp_path / "elsewhere" / "recipe.yaml", out, progress=False)


def test_another_recipe_in_the_folder_is_refused_with_advice(project, finished):
    out, _ = finished
    recipe = load_recipe(project.recipe, ["train.steps=5", "plan.rank=3", "phrases.bar=blue bar"])
    before = contents(out)
    with pytest.raises(ValueError) as caught:
        run_recipe(recipe, out, progress=False)
    message = str(caught.value)
    assert "train.steps is 4 there and 5 here" in message and "plan.rank is 2 there and 3 here" in message
    assert "Choose a new folder, or delete" in message and "--restart" in message
    assert contents(out) == before
    assert isinstance(run_recipe(recipe, out, progress=False, resume=False).comparison, Comparison)
    assert len((out / "log.jsonl").read_text("utf-8").splitlines()) == 5


def test_other_labels_or_weights_in_the_folder_are_refused(project, finished):
    out, _ = finished
    content = project.labels("test")
    content["annotations"].pop()
    project.write_labels("test", content)
    with pytest.raises(ValueError, match="holds another job: the pictures to measure on differ"):
        run_recipe(project.recipe, out, progress=False)


def test_a_folder_with_files_of_others_is_refused(project, tmp_path):
    text = refusal(project, project.folder)
    assert "holds recipe.yaml, which no job of this workbench wrote there" in text
    assert yaml_is_untouched(project)


def yaml_is_untouched(project) -> bool:
    return load_recipe(project.recipe).name == "discs" and "# A complete recipe" not in project.recipe.read_text(
        "utf-8"
    )


def test_a_full_disk_is_explained_and_what_is_finished_stays(project, tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sys.modules["workbench.run_state"], "write_atomically", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run_recipe(project.recipe, tmp_path / "out", progress=False)
    assert caught.value.__notes__ == [
        f"The disk of {tmp_path / 'out'} is full: make room and run the same again.",
        f"{tmp_path / 'out'} keeps before.json, negatives.json; the same command goes on from there.",
    ]
    monkeypatch.undo()
    run_recipe(project.recipe, tmp_path / "out", progress=False)


def test_a_loss_that_is_not_finite_says_what_is_kept(project, tmp_path):
    project.write(train={**project.settings["train"], "rate": 1e30, "warmup": 1, "checkpoint_every": 1})
    with pytest.raises(
        FloatingPointError, match="not finite in 4 attempts.* with a lower rate in a new folder"
    ) as caught:
        run_recipe(project.recipe, tmp_path / "out", progress=False)
    assert "keeps before.json, negatives.json, log.jsonl" in caught.value.__notes__[0]


def test_what_is_kept_says_so_for_an_empty_folder(tmp_path):
    assert what_is_kept(tmp_path) == f"Nothing was finished yet in {tmp_path}; the same command starts again."


# --- refused at the door
def test_fewer_pictures_than_shots(project, tmp_path):
    project.write(shots=7)
    assert "learn.json, shots: set 'learn': 7 shots asked from 6 pictures; expected 1..6" in refusal(project, tmp_path)


def test_no_object_to_learn_from(project, tmp_path):
    project.write_labels("learn", {**project.labels("learn"), "annotations": []})
    assert "no phrase is positive in any of its 6 pictures" in refusal(project, tmp_path)


def test_no_object_to_measure_on(project, tmp_path):
    project.write_labels("test", {**project.labels("test"), "annotations": []})
    assert "test.json: no object of any phrase is labelled in its 5 pictures" in refusal(project, tmp_path)


def test_a_phrase_that_is_too_long_to_read(project, tmp_path):
    project.write(phrases={"disc": "a very " * 20 + "red disc"})
    assert "tokens; at most 12 can be read: use a short noun phrase" in refusal(project, tmp_path)


def test_a_category_that_the_file_does_not_have(project, tmp_path):
    project.write(phrases={"disk": "red disc"})
    text = refusal(project, tmp_path)
    assert text.startswith("learn: ") and "['disk'], which are no categories of the file" in text


def test_an_absent_phrase_that_is_labelled(project, tmp_path):
    project.write(absent_phrases=["bar"])
    assert "'bar' was stated to be absent but is labelled in image 'learn_02.png'" in refusal(project, tmp_path)


def test_a_learning_picture_that_is_also_measured_on(project, tmp_path):
    images = project.folder / "images"
    project.write(shots=6)
    shutil.copy(images / "learn_03.png", images / "test_02.png")
    text = refusal(project, tmp_path)
    assert "the picture 'test_02.png'" in text and "also learnt from (there it is 'learn_03.png')" in text


def test_one_name_for_two_pictures(project, tmp_path):
    (project.folder / "other").mkdir()
    for number in range(1, 6):
        shutil.copy(
            project.folder / "images" / f"test_{number:02d}.png", project.folder / "other" / f"learn_0{number}.png"
        )
    content = project.labels("test")
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("test", "learn")
    project.write_labels("test", content)
    project.write(test={"annotations": "test.json", "images": "other"})
    assert "names one picture of" in refusal(project, tmp_path)
    for image in content["images"]:
        image["image_id"] = f"test {image['id']}"
    project.write_labels("test", content)
    pictures = read_pictures(load_recipe(project.recipe), progress=False)
    assert [example.image_id for example in pictures.test] == [f"test {number}" for number in range(1, 6)]


def test_a_picture_that_breaks_off(project, tmp_path):
    path = project.folder / "images" / "test_04.png"
    path.write_bytes(path.read_bytes()[:-400])
    text = refusal(project, tmp_path)
    assert "test_04.png cannot be read" in text


def test_a_picture_that_is_missing(project, tmp_path):
    (project.folder / "images" / "learn_01.png").unlink()
    assert "learn_01.png does not exist" in refusal(project, tmp_path)


def test_a_picture_of_another_size_than_the_labels_say(project, tmp_path):
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(project.folder / "images" / "learn_02.png")
    assert "is 50x30 as shown, but the labels say 40x40" in refusal(project, tmp_path)


def test_an_annotation_file_that_is_broken(project, tmp_path):
    (project.folder / "test.json").write_text('{"images": [')
    assert "test.json is no valid JSON" in refusal(project, tmp_path)
    (project.folder / "test.json").unlink()
    assert refusal(project, tmp_path).startswith("test: ")


def test_weights_that_are_not_there(project, tmp_path):
    project.write(model="none.safetensors")
    assert "none.safetensors; expected a weight file" in refusal(project, tmp_path)


def test_a_folder_that_cannot_be_written(project, tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    text = refusal(project, tmp_path / "file" / "out")
    assert "file/out cannot be written" in text and "choose another one" in text


# --- rendered pictures
@pytest.fixture
def streets(project):
    """The project with drawn streets in place of its files."""
    learn, test = ({"rendered": "roads", "pictures": count, "seed": seed} for count, seed in ((5, 7), (3, 8)))
    project.write(learn=learn, test=test, phrases={"pedestrian": "person"}, train={"steps": 2, "images": 2})
    return project


def test_rendered_pictures_go_all_the_way_to_the_report_and_on(streets, tmp_path):
    out = tmp_path / "out"
    comparison = run_recipe(streets.recipe, out, progress=False).comparison
    assert sorted(path.name for path in out.iterdir()) == sorted(WRITTEN)
    records = Evaluation.load(out / "after.json").records
    assert {r.image_id for r in records} == {f"roads-8-{number:04d}" for number in range(3)}
    assert {r.phrase for r in records} == {"car", "truck", "bus", "traffic light", "person", "green star"}
    assert load_recipe(out / "recipe.yaml") == load_recipe(streets.recipe)
    again = run_recipe(out / "recipe.yaml", out, progress=False).comparison
    assert again.to_dict() == comparison.to_dict()
    with pytest.raises(ValueError, match="holds another job: the pictures to measure on differ"):
        run_recipe(load_recipe(streets.recipe, ["test.seed=9"]), out, progress=False)


def test_rendered_pictures_that_do_not_fit_are_refused_by_name(streets, tmp_path):
    settings = yaml.safe_load(streets.recipe.read_text("utf-8"))
    streets.write(**settings | {"shots": 6})
    assert "rendered roads, seed 7, shots: set 'roads-7': 6 shots asked from 5 pictures" in refusal(streets, tmp_path)
    streets.write(**settings | {"phrases": {"pedestrain": "person"}})
    assert "learn: phrases names 'pedestrain', which is not drawn in roads; did you mean 'pedestrian'?" in refusal(
        streets, tmp_path
    )
    streets.write(**settings | {"absent_phrases": ["car"]})
    assert "learn: 'car' was stated to be absent but is labelled in image 'roads-7-" in refusal(streets, tmp_path)


# --- the packaged model
def test_the_packaged_model_adapts_to_coins(repo_root, tmp_path):
    overrides = ["train.steps=3", "train.images=2", "guard.scenes=1", "guard.replay=1"]
    recipe = load_recipe(repo_root / "recipes" / "coins.yaml", overrides)
    assert isinstance(recipe, Recipe)
    comparison = run_recipe(recipe, tmp_path / "coins", progress=False).comparison
    assert comparison.before["model"] == "tiny" and comparison.num_images == 13
    before, after = (Evaluation.load(tmp_path / "coins" / f"{name}.json").records for name in ("before", "after"))
    assert [record.presence_score for record in before] != [record.presence_score for record in after]
    model = load_sam3("tiny")
    assert load_adapter(model, tmp_path / "coins" / "adapter").phrases == ("coin",)
