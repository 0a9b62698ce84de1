"""Data sets of the `datasets` package: parquet with its card, save_to_disk, folders of pictures, detection columns."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image

from workbench.formats import parquet
from workbench.formats.card import CardTexts
from workbench.formats.hub import read_hub
from workbench.formats.parquet import examples_to_parquet

WIDTH, HEIGHT = 40, 30


def encoded(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def detection_set() -> datasets.Dataset:
    names = datasets.ClassLabel(names=["star", "owl"])
    things = {"bbox": datasets.List(datasets.List(datasets.Value("float32"))), "category": datasets.List(names)}
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("int64"), "objects": things})
    rows = [
        {"image": {"bytes": encoded()}, "image_id": 7, "objects": {"bbox": [[10, 5, 10, 10]], "category": [0]}},
        {"image": {"bytes": encoded()}, "image_id": 8, "objects": {"bbox": [], "category": []}},
    ]
    return datasets.Dataset.from_list(rows, features=features)


def test_parquet_keeps_everything(hard_set, assert_same, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "PICTURES_PER_FILE", 1)
    sets = (hard_set, replace(hard_set, name="test", examples=hard_set.examples[:1]))
    folder = examples_to_parquet(sets, tmp_path / "set", texts=CardTexts("Owls", "cc-by-4.0", "Drawn by hand."))
    assert sorted(file.name for file in (folder / "data").iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    train, test = read_hub(folder).sets
    assert (train.name, test.name) == ("train", "test")
    assert_same(hard_set, train)
    assert [example.image_id for example in train] == ["scene/one", "two"]
    one_file = read_hub(folder / "data" / "test-00000-of-00001.parquet").examples
    assert_same(hard_set[:1], one_file)


def test_the_datasets_package_reads_the_folder_by_its_card(hard_set, tmp_path):
    folder = examples_to_parquet(hard_set, tmp_path / "set", texts=CardTexts("Owls", "cc-by-4.0", "Drawn by hand."))
    card = (folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "| train | 2 | 2 | 5 | 1 | 6 | 2 |" in card and "| train | owl | 0 | 2 | 0 | 0 |" in card
    assert "Drawn by hand." in card and "# Owls" in card
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (WIDTH, HEIGHT) and loaded[0]["concepts"][0]["phrase"] == "holes & parts"
    assert "find it out before" in (examples_to_parquet(hard_set, tmp_path / "b") / "README.md").read_text("utf-8")


def test_an_export_that_fails_leaves_the_older_one(hard_set, tmp_path):
    folder = examples_to_parquet(hard_set, tmp_path / "set")
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match="different name for each"):
        examples_to_parquet((hard_set, hard_set), folder)
    with pytest.raises(ValueError, match="set 'train' has no picture"):
        examples_to_parquet(hard_set[:0], folder)
    assert (folder / "README.md").read_bytes() == before


@pytest.mark.parametrize("as_dict", [False, True])
def test_what_save_to_disk_wrote(tmp_path, as_dict):
    data = detection_set()
    (datasets.DatasetDict({"train": data}) if as_dict else data).save_to_disk(str(tmp_path / "saved"))
    first, second = read_hub(tmp_path / "saved").examples
    assert (first.image_id, second.image_id) == ("7", "8")
    assert first.concept("star").boxes_xyxy_px.tolist() == [[10, 5, 20, 15]]
    assert [concept.status for concept in second.concepts] == ["absent", "absent"]
    partial = read_hub(tmp_path / "saved", exhaustive=False, phrases={"star": "yellow star"}, limit=1).examples
    assert [concept.phrase for concept in partial[0].concepts] == ["yellow star"]


def test_a_folder_of_pictures_with_metadata(tmp_path):
    rows = [
        {"file_name": "a.jpg", "objects": [{"bbox": [1, 2, 3, 4], "category": "star", "iscrowd": 0}]},
        {"file_name": "b.jpg", "objects": [{"bbox": [1, 2, 3, 4], "category": "star", "iscrowd": 1}]},
    ]
    for row in rows:
        (tmp_path / row["file_name"]).write_bytes(encoded())
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_hub(tmp_path).examples
    assert (first.image_id, second.image_id) == ("a.jpg", "b.jpg")
    assert first.concept("star").boxes_xyxy_px.tolist() == [[1, 2, 4, 6]]
    assert second.concept("star").status == "unknown"


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    row = {"image": {"bytes": encoded(6)}, "objects": [{"bbox": [1.0, 2.0, 3.0, 30.0], "category": "star"}]}
    thing = {"bbox": datasets.List(datasets.Value("float32")), "category": datasets.Value("string")}
    features = datasets.Features({"image": datasets.Image(), "objects": datasets.List(thing)})
    datasets.Dataset.from_list([row], features=features).to_parquet(str(tmp_path / "train.parquet"))
    example = read_hub(tmp_path / "train.parquet").examples[0]
    assert (example.width, example.height) == (HEIGHT, WIDTH)


def test_other_sources_and_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="is no data set of the datasets package"):
        read_hub(tmp_path)
    datasets.Dataset.from_list([{"text": "a"}]).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match=r"has the columns \['text'\]; expected a picture"):
        read_hub(tmp_path)
    with pytest.raises(ValueError, match="limit is 0"):
        read_hub(tmp_path, limit=0)


@pytest.mark.parametrize("status", ["maybe", "absent", "positive"])
def test_contradictions_are_named(tmp_path, status):
    boxes = [] if status == "positive" else [[0.0, 0.0, 2.0, 2.0]]
    concept = {"phrase": "star", "status": status, "boxes": boxes}
    thing = {"phrase": datasets.Value("string"), "status": datasets.Value("string")}
    thing["boxes"] = datasets.List(datasets.List(datasets.Value("float32")))
    features = datasets.Features({"image": datasets.Image(), "concepts": datasets.List(thing)})
    rows = [{"image": {"bytes": encoded()}, "concepts": [concept]}]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match=rf"row 0: 'star' is '{status}' with 0 masks and {len(boxes)} boxes"):
        read_hub(Path(tmp_path))
