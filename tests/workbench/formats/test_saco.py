"""SA-Co in and out: pairs become pictures, annotators stay apart, statuses and masks survive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.formats.rle import rle_of
from workbench.formats.saco import annotator_of, examples_to_saco, read_saco, read_saco_annotators

WIDTH, HEIGHT = 40, 30


def pair(number: int, phrase: str, file_name: str = "a.png", **more) -> dict:
    entry = {"id": number, "file_name": file_name, "text_input": phrase, "width": WIDTH, "height": HEIGHT}
    return entry | {"queried_category": str(number), "is_instance_exhaustive": 1, "is_pixel_exhaustive": 1} | more


def thing(pair_id: int, columns: int = 10, **more) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 10 : 10 + columns] = True
    box = [10 / WIDTH, 5 / HEIGHT, columns / WIDTH, 10 / HEIGHT]
    entry = {"id": 1, "image_id": pair_id, "bbox": box, "area": 0.1, "segmentation": rle_of(mask), "category_id": 1}
    return entry | {"iscrowd": 0, "source": "manual"} | more


def write(root: Path, name: str, pairs: list[dict], things: list[dict]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for picture in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / picture)
    content = {"images": pairs, "annotations": things, "categories": [{"id": 1, "name": "object"}]}
    (root / name).write_text(json.dumps(content))
    return root / name


def test_pairs_of_one_picture_become_one_example(tmp_path):
    pairs = [pair(1, "star"), pair(2, "owl"), pair(3, "fog", is_instance_exhaustive=0), pair(4, "star", "b.png")]
    pairs.append(pair(5, "flock", "b.png"))
    boxed = {key: value for key, value in thing(4).items() if key != "segmentation"}
    file = write(tmp_path, "labels.json", pairs, [thing(1), thing(3), boxed, thing(5, iscrowd=1)])
    first, second = read_saco(file).examples
    assert {c.phrase: c.status for c in first.concepts} == {"star": "positive", "owl": "absent", "fog": "unknown"}
    assert {c.phrase: c.status for c in second.concepts} == {"star": "positive", "flock": "unknown"}
    assert first.concept("star").masks.sum() == 100
    assert second.concept("star").boxes_xyxy_px.tolist() == [[10, 5, 20, 15]]
    assert len(read_saco(file, limit=1).examples) == 1
    renamed = read_saco(file, phrases={"star": "yellow star", "owl": None}).examples
    assert renamed[0].concept("owl") is None and renamed[1].concept("yellow star") is not None


def test_annotators_are_never_joined(tmp_path):
    for columns, letter in ((3, "a"), (5, "b"), (7, "c")):
        write(tmp_path, f"gold_crowded_merged_{letter}_release_test.json", [pair(1, "star")], [thing(1, columns)])

    def width(reading) -> float:
        assert reading.examples[0].concept("star").num_objects == 1
        return float(np.diff(reading.examples[0].concept("star").boxes_xyxy_px[0, ::2])[0])

    assert width(read_saco(tmp_path)) == 3
    assert width(read_saco(tmp_path, annotator="b")) == 5
    assert width(read_saco(tmp_path / "gold_crowded_merged_c_release_test.json")) == 7
    assert [width(reading) for reading in read_saco_annotators(tmp_path)] == [3, 5, 7]
    with pytest.raises(ValueError, match=r"annotator 'd' was asked for; expected one of \['a', 'b', 'c'\]"):
        read_saco(tmp_path, annotator="d")
    assert annotator_of(Path("silver_sav_merged_test.json")) is None


def test_a_phrase_asked_twice_counts_once(tmp_path):
    file = write(tmp_path, "labels.json", [pair(1, "star"), pair(2, "Star")], [thing(1), thing(2, 3)])
    reading = read_saco(file)
    assert reading.examples[0].concept("star").num_objects == 1
    assert "asked a second time of a.png; the first answer counts" in str(reading.findings[0])


@pytest.mark.parametrize(
    ("pairs", "things", "message"),
    [
        ([{"id": 1, "file_name": "a.png"}], [], "have no text_input.*read it as coco"),
        ([pair(1, " ")], [], r"images\[0\] is"),
        ([pair(1, "star"), pair(1, "owl")], [], r"images\[1\]: id 1 occurs twice"),
        ([pair(1, "star")], [thing(9)], r"annotations\[0\]: image_id is 9"),
        ([pair(1, "star")], [thing(1, segmentation=None, bbox=[10, 5, 10, 10])], "as fractions of the picture"),
        ([pair(1, "star")], [thing(1, segmentation={"size": [3, 3], "counts": [9]})], "mask is 3x3, its picture 40x30"),
        ([pair(1, "star", "../labels.json")], [], "leads outside the folder"),
        ([pair(1, "star", width=50)], [], "labels say 50x30"),
    ],
)
def test_wrong_entries_are_named(tmp_path, pairs, things, message):
    with pytest.raises(ValueError, match=message):
        read_saco(write(tmp_path, "labels.json", pairs, things))


def test_writing_and_reading_back_changes_nothing(hard_set, assert_same, tmp_path):
    file = examples_to_saco(hard_set, tmp_path / "labels.json", images=tmp_path / "images")
    content = json.loads(file.read_text())
    assert all(max(entry["bbox"]) <= 1 for entry in content["annotations"])
    read = read_saco(file).examples
    assert [example.image_id for example in read] == ["scene/one", "two"]
    assert_same(hard_set, read)
    with pytest.raises(ValueError, match="has no phrase"):
        examples_to_saco(hard_set[:0], tmp_path / "none.json")
