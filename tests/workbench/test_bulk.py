"""A folder is labelled: the same answers as one by one, stopped and gone on, by parts, bad files, other settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import workbench.bulk as bulk
from sam3 import ImagePredictor, load_sam3
from sam3.model import Sam3
from sam3.rle import Rle
from workbench.__main__ import app
from workbench.adapters import Plan, add_adapter
from workbench.bulk import BulkConfig, label_folder
from workbench.domains import shapes
from workbench.examples import ExampleSet

PHRASES = ("circle", "star", "square")


@pytest.fixture(scope="module")
def model() -> Sam3:
    return load_sam3("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, one of them in a subfolder, a damaged one and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for number, example in enumerate(shapes.held_out_set(5, 3)):
        name = "more/é.png" if number == 4 else f"{number}.png"
        Image.fromarray(example.load_image()).save(folder / name)
    (folder / "damaged.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture either")
    return folder


def label(model: Sam3, folder: Path, out: Path, **options: object) -> bulk.BulkResult:
    config = BulkConfig(PHRASES, 0.3, **options)  # type: ignore[arg-type]
    return label_folder(model, folder, out, config, model_name="tiny", progress=False)


def test_labels_are_what_the_predictor_answers(model: Sam3, folder: Path, tmp_path: Path) -> None:
    done = label(model, folder, tmp_path / "out", shard_size=2)
    assert done.labels is not None and (done.num_pictures, done.num_new, done.missing_shards) == (5, 6, 0)
    assert [name for name, _ in done.unreadable] == ["damaged.jpg"]
    content = json.loads(done.labels.read_text("utf-8"))
    assert [image["file_name"] for image in content["images"]] == ["0.png", "1.png", "2.png", "3.png", "more/é.png"]
    assert [category["name"] for category in content["categories"]] == list(PHRASES)
    predictor, num_objects = ImagePredictor(model, 0.3), 0
    for image in content["images"]:
        predictor.set_image(folder / image["file_name"])
        answers = predictor.predict(list(PHRASES))
        np.testing.assert_allclose(image["presence_scores"], [a.presence_score for a in answers], atol=1e-3)
        for category, answer in enumerate(answers, start=1):
            mine = [a for a in content["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
            np.testing.assert_allclose([a["score"] for a in mine], answer.scores, atol=1e-3)
            for annotation, mask in zip(mine, answer.masks, strict=True):
                rle = annotation["segmentation"]
                assert (Rle(tuple(rle["size"]), rle["counts"]).mask() != mask).mean() < 1e-3
            num_objects += len(answer)
    assert num_objects == len(content["annotations"]) == done.num_objects > 0
    assert "not by a person" in content["info"]["description"]
    read = ExampleSet.from_coco(done.labels, folder)
    assert len(read) == 5 and set(read.phrases) <= set(PHRASES)


def test_a_stopped_job_goes_on_with_the_shards_that_are_missing(
    model: Sam3, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label(model, folder, tmp_path / "whole", shard_size=2).labels
    asked, read = [], bulk.read_picture

    def interrupted(path: Path) -> np.ndarray:
        asked.append(path.name)
        if path.name == "2.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(bulk, "read_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label(model, folder, tmp_path / "out", shard_size=2)
    kept = sorted(path.name for path in (tmp_path / "out" / "shards").iterdir())
    assert kept == ["000000.json"] and not (tmp_path / "out" / "labels.json").exists()
    asked.clear()
    monkeypatch.setattr(bulk, "read_picture", lambda path: (asked.append(path.name), read(path))[1])
    done = label(model, folder, tmp_path / "out", shard_size=2)
    assert done.num_new == 4 and "0.png" not in asked
    assert whole is not None and done.labels is not None and done.labels.read_text() == whole.read_text()
    again = label(model, folder, tmp_path / "out", shard_size=2)
    assert again.num_new == 0 and again.num_objects == done.num_objects


def test_parts_make_one_file_together(model: Sam3, folder: Path, tmp_path: Path) -> None:
    first = label(model, folder, tmp_path, shard_size=2, part=(1, 2))
    assert (first.labels, first.num_new, first.missing_shards) == (None, 4, 1)
    second = label(model, folder, tmp_path, shard_size=2, part=(2, 2))
    assert second.labels is not None and (second.num_new, second.num_pictures) == (2, 5)


def test_an_adapter_answers_with_its_own_words(folder: Path, tmp_path: Path) -> None:
    model = load_sam3("tiny")
    adapter = add_adapter(model, Plan("tokens"), ["circle"])
    plain = label_folder(adapter, folder, tmp_path / "a", BulkConfig(("circle",), 0.3), model_name="a", progress=False)
    adapter.parameters["detector.text_encoder.token_embed.offsets"].data.normal_(0, 3)
    other = label_folder(adapter, folder, tmp_path / "b", BulkConfig(("circle",), 0.3), model_name="a", progress=False)
    assert plain.labels is not None and other.labels is not None
    assert plain.labels.read_text() != other.labels.read_text()
    with pytest.raises(ValueError, match="other settings .weights."):
        label_folder(adapter, folder, tmp_path / "a", BulkConfig(("circle",), 0.3), model_name="a", progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phrases": ()}, "at least one"),
        ({"phrases": ("cat", " ")}, "none of them empty"),
        ({"phrases": ("cat", "cat")}, "each one once"),
        ({"shard_size": 0}, "at least 1 picture"),
        ({"part": (3, 2)}, "part 3 of 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BulkConfig(**{"phrases": ("cat",), **settings})


def test_bad_folders_and_other_labels_are_refused(model: Sam3, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        label(model, tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        label(model, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match="already holds something else"):
        label(model, folder, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_the_command_writes_labels_and_another_form(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    command = ["label", str(folder), "--phrase", "circle", "--phrase", "star", "--out", str(out), "--to", "yolo"]
    result = CliRunner().invoke(app, [*command, "--score-threshold", "0.3", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "6 pictures labelled by tiny" in result.output and "Left out: damaged.jpg" in result.output
    assert (out / "labels.json").is_file() and list((out / "yolo").rglob("*.txt"))
    refused = CliRunner().invoke(app, [*command, "--score-threshold", "0.9", "--device", "cpu"])
    assert refused.exit_code == 2 and "other settings (score_threshold)" in refused.output


def test_the_command_labels_in_eight_bits_and_says_so(folder: Path, tmp_path: Path) -> None:
    command = ["label", str(folder), "--phrase", "disc", "--out", str(tmp_path), "--score-threshold", "0.3"]
    result = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert result.exit_code == 0 and "labelled by tiny in int8" in result.output
    other = CliRunner().invoke(app, command)  # the same folder is not gone on with in another precision
    assert other.exit_code == 2 and "other settings (model" in other.output
    refused = CliRunner().invoke(app, [*command, "--precision", "int4"])
    assert refused.exit_code == 2 and "expected one of fp32, bf16, fp16, int8" in refused.output
