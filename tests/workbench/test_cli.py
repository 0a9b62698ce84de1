"""The command line: its help, what each command writes and says, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3.checkpoint import load_sam3
from sam3.predictor import ImagePredictor
from sam3.prompts import Prompt
from workbench.adapters import PLANS, Plan, add_adapter
from workbench.evaluate import Evaluation
from workbench.examples import ExampleSet
from workbench.formats import mask_of
from workbench.guard import Retention

COMMANDS = (
    "adapt",
    "plans",
    "doctor",
    "predict",
    "evaluate",
    "compare",
    "pretrain",
    "pretrain-tracker",
    "import",
    "export",
    "merge",
)

pytestmark = pytest.mark.usefixtures("quick_jobs")


def subprocess_environment() -> dict[str, str]:
    return os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


# --- help
def test_the_module_answers_help_without_loading_torch(repo_root):
    code = (
        "import sys\nsys.argv = ['workbench', '--help']\nimport runpy\n"
        "try:\n    runpy.run_module('workbench', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo_root,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert all(command in answer.stdout for command in COMMANDS)
    assert answer.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_a_line_to_copy(command, succeed):
    lines = [line.strip() for line in succeed(command, "--help").splitlines()]
    assert any(line.startswith(f"workbench {command} ") for line in lines)


def test_the_public_names_are_functions_whatever_was_imported_before():
    import workbench

    for name in workbench.__all__:
        assert callable(getattr(workbench, name)), name
        assert name in dir(workbench)
    code = (
        "import workbench.evaluate, workbench.finetune, workbench.compare\n"
        "from workbench import evaluate, finetune, compare\n"
        "assert [f.__name__ for f in (evaluate, finetune, compare)] == ['evaluate', 'finetune', 'compare']\n"
        "from workbench.evaluate import Evaluation"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(workbench.__file__).parents[1], check=True, timeout=120)
    with pytest.raises(AttributeError, match="its public names are Annotator, Example, ExampleSet"):
        workbench.nothing  # noqa: B018


# --- adapt
def test_adapt_prints_the_result_and_where_it_lies(project, tmp_path, succeed):
    out = tmp_path / "out"
    text = succeed("adapt", project.recipe, "--out", out, "--set", "train.steps=2", "--seed", 5)
    assert "small.safetensors against small.safetensors + discs: 5 pictures, 15 questions" in text
    row = next(line for line in text.splitlines() if "cgF1" in line)
    metric = json.loads((out / "comparison.json").read_text("utf-8"))["metrics"]["cgF1"]
    low, high = metric["ci95"]
    assert f"{100 * metric['before']:.1f}" in row and f"{100 * metric['after']:.1f}" in row
    assert f"{100 * metric['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" in row
    assert f"Report: {out / 'report.html'}" in text and " s in all" in text
    recipe = (out / "recipe.yaml").read_text("utf-8")
    assert "seed: 5" in recipe and "steps: 2" in recipe


def test_adapt_refuses_in_one_message_and_shows_more_only_when_asked(project, tmp_path, invoke, fail):
    project.write(shots=50)
    text = fail("adapt", project.recipe, "--out", tmp_path / "out")
    assert text.startswith("Error: ") and "50 shots asked from 6 pictures" in text
    shown = invoke("adapt", project.recipe, "--out", tmp_path / "out", "--debug")
    assert isinstance(shown.exception, ValueError)


def test_adapt_names_the_recipe_and_the_key_of_a_typing_error(project, tmp_path, fail):
    text = fail("adapt", project.recipe, "--out", tmp_path / "out", "--set", "train.step=60")
    assert f"Error: {project.recipe}: train.step is no setting; did you mean 'steps'?" in text


def test_adapt_says_what_is_kept_when_it_is_stopped(project, tmp_path, repo_root):
    """A real process and a real Ctrl-C in the middle of the training; then the same command goes on."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "workbench", "adapt", str(project.recipe), "--out", str(out)]
    settings = ["--set", "train.steps=400", "--set", "train.checkpoint_every=1"]
    process = subprocess.Popen(
        [*command, *settings],
        cwd=repo_root,
        env=subprocess_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background of a shell, the tests ignore Ctrl-C, and what they start would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not (out / "adapter_best").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr and "report" not in stdout.lower()
    assert "Stopped." in stderr and f"{out} keeps before.json, negatives.json, log.jsonl, adapter" in stderr
    steps = len((out / "log.jsonl").read_text("utf-8").splitlines())
    assert 1 <= steps < 400 and f"training up to step {steps}" in stderr


# --- predict
def test_predict_writes_an_overlay_per_phrase_and_a_file_that_can_be_learnt_from(
    project, small_weights, tmp_path, succeed
):
    image = project.folder / "images" / "test_01.png"
    out = tmp_path / "out"
    text = succeed(
        "predict", image, "--phrase", "red disc", "--phrase", "bar / stick", "--model", small_weights,
        "--threshold", 0.1, "--out", out,
    )  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["01_red_disc.png", "02_bar_stick.png", "predictions.json"]
    predictor = ImagePredictor(load_sam3(small_weights), 0.1)
    predictor.set_image(image)
    expected = predictor.predict(["red disc", "bar / stick"])
    assert sum(map(len, expected)) > 0
    content = json.loads((out / "predictions.json").read_text("utf-8"))
    assert [category["name"] for category in content["categories"]] == ["red disc", "bar / stick"]
    for number, answer in enumerate(expected, start=1):
        found = [a for a in content["annotations"] if a["category_id"] == number]
        assert f"{answer.phrase}: {len(answer)} found, presence {answer.presence_score:.2f}" in text
        assert np.array_equal([mask_of(a["segmentation"]) for a in found], answer.masks)
        assert [a["score"] for a in found] == pytest.approx(answer.scores.tolist(), abs=1e-4)
        for a, (x0, y0, x1, y1) in zip(found, answer.boxes_xyxy_px.tolist(), strict=True):
            assert a["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.01)
        with Image.open(out / f"{number:02d}_{'red_disc' if number == 1 else 'bar_stick'}.png") as overlay:
            assert overlay.size == (40, 40)
            changed = (np.asarray(overlay) != np.asarray(Image.open(image).convert("RGB"))).any()
            assert changed == bool(answer.masks.any())
    examples = ExampleSet.from_coco(out / "predictions.json", project.folder / "images")
    assert [e.image_id for e in examples] == ["test_01.png"]


def test_predict_takes_example_boxes_and_points(project, small_weights, tmp_path, succeed):
    image = project.folder / "images" / "test_02.png"
    text = succeed(
        "predict", image, "--box", "4,4,20,20", "--box", "1,2,9.5,8", "--negative-box", "0,25,20,39", "--point", "8,8",
        "--negative-point", "30,30", "--model", small_weights, "--threshold", 0, "--out", tmp_path,
    )  # fmt: skip
    predictor = ImagePredictor(load_sam3(small_weights), 0.0)
    predictor.set_image(image)
    expected = predictor.predict(
        Prompt(
            None,
            exemplar_boxes_xyxy_px=[[4, 4, 20, 20], [1, 2, 9.5, 8], [0, 25, 20, 39]],
            exemplar_labels=[1, 1, 0],
            exemplar_points_xy_px=[[8, 8], [30, 30]],
            exemplar_point_labels=[1, 0],
        )
    )
    content = json.loads((tmp_path / "predictions.json").read_text("utf-8"))
    assert content["categories"][0]["name"] == "visual" and (tmp_path / "01_visual.png").exists()
    assert [a["score"] for a in content["annotations"]] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    assert f"like the examples: {len(expected)} found" in text


def test_predict_asks_the_phrases_of_an_adapter(project, small_weights, tmp_path, succeed):
    folder = add_adapter(load_sam3(small_weights), Plan("decoder", rank=1), ("red disc", "bar")).save(
        tmp_path / "adapter"
    )
    image = project.folder / "images" / "test_02.png"
    text = succeed("predict", image, "--model", small_weights, "--adapter", folder, "--out", tmp_path / "out")
    assert "red disc: " in text and "bar: " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is asked; expected --phrase, --box, --point"),
        (["--box", "1,2,3"], "--box received '1,2,3'; expected x0,y0,x1,y1 in pixels"),
        (["--negative-point", "1,y"], "--negative-point received '1,y'; expected x,y in pixels"),
        (["--box", "9,9,4,20"], "exemplar box [9.0, 9.0, 4.0, 20.0] has no area"),
        (["--box", "4,4,20,90"], "[20.0, 90.0] lies outside of the picture; expected pixels within 0..40 (x)"),
        (["--box", "4,4,20,20", "--phrase", "a", "--phrase", "b"], "2 phrases came with examples"),
        (["--phrase", " "], "expected a short noun phrase"),
        (["--phrase", "very " * 30], "tokens; at most 12 can be read"),
        (["--phrase", "disc", "--threshold", "1.5"], "score_threshold=1.5; expected a number from 0 to 1"),
        (["--phrase", "disc", "--adapter", "nowhere"], "nowhere holds no adapter of this workbench"),
    ],
)
def test_predict_refuses_what_it_cannot_ask(project, small_weights, tmp_path, arguments, message, fail):
    image = project.folder / "images" / "test_02.png"
    assert message in fail("predict", image, *arguments, "--model", small_weights, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predict_names_a_picture_that_is_none(small_weights, tmp_path, fail):
    (tmp_path / "notes.png").write_text("no picture")
    text = fail("predict", tmp_path / "notes.png", "--phrase", "a", "--model", small_weights, "--out", tmp_path / "out")
    assert "notes.png cannot be read" in text
    text = fail("predict", tmp_path / "gone.png", "--phrase", "a", "--model", small_weights, "--out", tmp_path / "out")
    assert "gone.png does not exist" in text


# --- evaluate, compare
def test_evaluate_and_compare_measure_with_and_without_an_adapter(project, small_weights, tmp_path, succeed):
    adapter = add_adapter(load_sam3(small_weights), Plan("decoder", rank=1), ("red disc",)).save(tmp_path / "adapter")
    data = ["--annotations", project.folder / "test.json", "--images", project.folder / "images"]
    asked = ["--model", small_weights, "--phrase", "disc=red disc", "--absent", "green star", "--threshold", 0.2]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    text = succeed("evaluate", *data, *asked, "--out", before)
    assert "small.safetensors on test, 15 questions" in text and "cgF1" in text
    succeed("evaluate", *data, *asked, "--adapter", adapter, "--out", after)
    old, new = Evaluation.load(before), Evaluation.load(after)
    assert {record.phrase for record in old.records} == {"red disc", "bar", "green star"}
    assert old.records == new.records  # an adapter that has not been trained
    text = succeed("compare", before, after, "--out", tmp_path / "comparison.json")
    assert "+0.0 [+0.0, +0.0]" in text and "0 of 15 questions are answered worse" in text
    written = json.loads((tmp_path / "comparison.json").read_text("utf-8"))
    assert written["metrics"]["cgF1"]["delta"] == 0


def test_evaluate_and_compare_refuse_with_a_message(project, small_weights, tmp_path, fail):
    data = ["--annotations", project.folder / "test.json", "--images", project.folder / "images"]
    out = ["--model", small_weights, "--out", tmp_path / "a.json"]
    assert "--phrase received 'disc'; expected CATEGORY=PHRASE" in fail("evaluate", *data, *out, "--phrase", "disc")
    assert "no categories of the file" in fail("evaluate", *data, *out, "--phrase", "disk=red disc")
    assert "no evaluation at" in fail("compare", tmp_path / "x.json", tmp_path / "y.json", "--out", tmp_path / "z.json")
    (tmp_path / "x.json").write_text("{}")
    assert "has the format None" in fail("compare", tmp_path / "x.json", tmp_path / "x.json", "--out", tmp_path / "z")


def test_warnings_about_the_labels_are_one_line(project, small_weights, tmp_path, invoke):
    content = project.labels("test")
    content["categories"].append({"id": 3, "name": "7"})
    project.write_labels("test", content)
    result = invoke(
        "evaluate", "--annotations", project.folder / "test.json", "--images", project.folder / "images",
        "--model", small_weights, "--out", tmp_path / "a.json",
    )  # fmt: skip
    assert result.exit_code == 0
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 1 and "the name '7' says nothing to the model" in notes[0]
    assert "UserWarning" not in result.stderr


def test_weights_that_are_missing_are_a_message(project, tmp_path, fail):
    image = project.folder / "images" / "test_02.png"
    text = fail("predict", image, "--phrase", "a", "--model", tmp_path / "none.pt", "--out", tmp_path / "out")
    assert text.startswith("Error: nothing at ") and "expected a weight file" in text


# --- pretrain
def test_pretrain_hands_its_settings_on(tmp_path, monkeypatch, succeed):
    """Training itself takes long and is tested elsewhere."""
    import workbench.pretrain

    calls = []

    def note(out, config, device, start):
        calls.append((out, config, device))
        assert start is None
        return out / "model.safetensors"

    monkeypatch.setattr(workbench.pretrain, "pretrain", note)
    text = succeed("pretrain", "--out", tmp_path, "--dense-steps", 3, "--seed", 4, "--device", "cpu")
    ((out, config, device),) = calls
    assert (out, config.dense_steps, config.seed, device) == (tmp_path, 3, 4, "cpu")
    assert config.full_steps == workbench.pretrain.PretrainConfig().full_steps
    assert f"Weights: {tmp_path / 'model.safetensors'}" in text


def test_pretrain_tracker_hands_its_settings_on(tmp_path, monkeypatch, succeed):
    import workbench.pretrain

    calls = []

    def note(out, config, start, go_on, device):
        calls.append((config, start, go_on, device))
        return out / "model.safetensors"

    monkeypatch.setattr(workbench.pretrain, "pretrain_tracker", note)
    text = succeed("pretrain-tracker", "--out", tmp_path, "--start", "base.pt", "--clips", 7, "--steps", 40)
    ((config, start, go_on, device),) = calls
    usual = workbench.pretrain.TrackingConfig()
    assert (start, go_on, device, config.clips, config.seed, config.rate) == ("base.pt", False, None, 7, 0, usual.rate)
    assert abs(config.steps - 40) <= len(config.stages) == len(usual.stages)
    succeed("pretrain-tracker", "--out", tmp_path, "--go-on", "--steps", 40)
    config, start, go_on, _ = calls[1]
    assert (start, go_on, len(config.stages), config.steps) == ("tiny", True, 1, 40)
    assert config.stages[0].cycle > 0  # at the lower rate
    assert f"Weights: {tmp_path / 'model.safetensors'}" in text


def test_plans_compares_all_five(project, succeed):
    text = succeed("plans", project.recipe)
    rows = [line.split()[0] for line in text.splitlines() if line and line.split()[0] in PLANS]
    assert rows == list(PLANS)
    assert "4 pictures, 4 steps of 2 pictures" in text and "repairs refusal" in text


def test_doctor_is_content_here_and_complains_about_missing_weights(tmp_path, invoke, succeed):
    assert "tiny: 7.9 million parameters" in succeed("doctor", "--out", tmp_path)
    result = invoke("doctor", "--model", tmp_path / "none.safetensors")
    assert result.exit_code == 1 and "BAD  weights" in result.stdout


def test_a_model_that_forgot_ends_with_a_code_of_its_own(project, tmp_path, monkeypatch, invoke):
    lost = Retention("rendered scenes", 8, 0.5, 0.2, 0.9, 0.9, 0.05, 0.05)
    monkeypatch.setattr("workbench.adapt.measure_retention", lambda *_, **__: lost)
    result = invoke("adapt", project.recipe, "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert (
        "cgF1 on rendered scenes fell from 0.500 to 0.200" in result.stderr and "train.replay_weight" in result.stderr
    )
    assert (tmp_path / "out" / "report.html").exists()
    assert invoke("adapt", project.recipe, "--out", tmp_path / "out").exit_code == 3
