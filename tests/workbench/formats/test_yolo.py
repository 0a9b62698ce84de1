"""YOLO in and out: its layouts, what an absent or empty label file means, what the form cannot hold."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.examples import Concept, Example, ExampleSet
from workbench.formats.yolo import read_yolo
from workbench.formats.yolo_writer import examples_to_yolo

BOX = "0 0.5 0.5 0.25 0.2\n"
OUTLINE = "1 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6\n"


def write(root: Path, files: dict[str, str]) -> Path:
    """Text files by name; an empty text for a picture's name draws the picture."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            Image.new("RGB", (40, 30)).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    return root


def roboflow(root: Path, label: str = BOX + OUTLINE) -> Path:
    yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['star', 'ring']\n"
    files = {"data.yaml": yaml, "train/images/a.jpg": "", "train/labels/a.txt": label}
    files |= {"valid/images/b.jpg": "", "valid/labels/b.txt": "", "test/images/c.jpg": ""}
    return write(root, files)


def test_boxes_and_outlines_are_read_from_a_roboflow_export(tmp_path):
    train, val, test = read_yolo(roboflow(tmp_path)).sets
    star, ring = train[0].concept("star"), train[0].concept("ring")
    assert np.allclose(star.boxes_xyxy_px, [[15, 12, 25, 18]], atol=1e-5) and not star.has_masks
    assert ring.boxes_xyxy_px.tolist() == [[10, 6, 20, 18]] and ring.masks.sum() == 120
    assert [(data.name, data[0].image_id) for data in (train, val, test)] == [
        ("train", "train/images/a.jpg"),
        ("val", "valid/images/b.jpg"),
        ("test", "test/images/c.jpg"),
    ]


def test_an_empty_label_file_means_absent_and_none_means_unknown(tmp_path):
    reading = read_yolo(roboflow(tmp_path))
    _, val, test = reading.sets
    assert [concept.status for concept in val[0].concepts] == ["absent", "absent"]
    assert [concept.status for concept in test[0].concepts] == ["unknown", "unknown"]
    assert [finding.kind for finding in reading.findings] == ["not labelled"]
    assert [concept.status for concept in read_yolo(tmp_path, exhaustive=False).sets[1][0].concepts] == []


def test_other_layouts(tmp_path):
    flat = write(tmp_path / "flat", {"classes.txt": "star\nring\n", "a.jpg": "", "a.txt": BOX, "b.jpg": ""})
    assert [example.image_id for example in read_yolo(flat).examples] == ["a.jpg", "b.jpg"]
    folders = write(tmp_path / "two", {"classes.txt": "star\nring\n", "images/a.jpg": "", "labels/a.txt": OUTLINE})
    assert read_yolo(folders).examples[0].concept("ring").has_masks
    yaml = "path: data\ntrain: train.txt\nval: images/val\nnames:\n  0: star\n  1: ring\n"
    listed = {"data.yaml": yaml, "train.txt": "./images/train/a.jpg\n", "images/train/a.jpg": ""}
    listed |= {"labels/train/a.txt": OUTLINE, "images/val/b.jpg": "", "labels/val/b.txt": BOX}
    train, val = read_yolo(write(tmp_path / "listed", listed), phrases={"star": "yellow star", "ring": None}).sets
    assert train.phrases == ("yellow star",) and train[0].concept("yellow star").status == "absent"
    assert val[0].concept("yellow star").num_objects == 1


def test_key_points_are_read_as_boxes_and_a_limit_is_kept(tmp_path):
    yaml = "train: images\nkpt_shape: [2, 3]\nnames: [star]\n"
    files = {"data.yaml": yaml, "images/b.jpg": "", "images/a.jpg": ""}
    files["labels/a.txt"] = "0 0.5 0.5 0.25 0.2 0.1 0.1 2 0.2 0.2 2\n"
    data = read_yolo(write(tmp_path, files), limit=1).examples
    assert len(data) == 1 and data[0].concept("star").num_objects == 1 and not data[0].concept("star").has_masks


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2 0.9", r"a.txt:1: 5 numbers after the class.*remove the score"),
        ("0 0.5 0.5", "2 numbers after the class"),
        ("0 15 12 25 18", r"received \['15', '12', '25', '18'\]; expected fractions.*divide"),
        ("7 0.5 0.5 0.2 0.2", "class 7 has no name in .*data.yaml"),
        ("star 0.5 0.5 0.2 0.2", "expected a class number"),
        ("0 0.5 0.5 0.2 nan", "expected fractions"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_yolo(roboflow(tmp_path, line))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "names is None"),
        ("names: [star]\n", "names no split"),
        ("train: [\n", "no valid YAML"),
        ("train: /etc\nnames: [star]\n", "'/etc' was not found"),
        ("train: ../../etc\nnames: [star]\n", "was not found"),
        ("train: sub/../../out\nnames: [star]\n", "leads outside"),
        ("train: !!python/object/apply:os.getcwd []\nnames: [star]\n", "no valid YAML"),
    ],
)
def test_wrong_yaml_is_named(tmp_path, yaml, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "sub").mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        read_yolo(write(tmp_path / "in", {"data.yaml": yaml}))
    with pytest.raises(ValueError, match="no data.yaml and no classes.txt"):
        read_yolo(tmp_path / "out")


def without(data: ExampleSet, *phrases: str) -> ExampleSet:
    kept = [
        replace(example, concepts=tuple(concept for concept in example.concepts if concept.phrase not in phrases))
        for example in data
    ]
    return replace(data, examples=tuple(kept))


def test_holes_and_parts_come_back_exactly_and_are_counted(hard_set, tmp_path):
    data = without(hard_set, "haze", "boxed")
    with pytest.warns(UserWarning, match=r"\d+ holes and \d+ further parts .*one pixel along each"):
        file = examples_to_yolo(data, tmp_path / "yolo")
    read = read_yolo(file.parent).examples
    assert read.name == "train"
    for old, new in zip(data, read, strict=True):
        assert {c.phrase: c.status for c in old.concepts} == {c.phrase: c.status for c in new.concepts}
        assert (old.load_image() == new.load_image()).all()
    assert (read[0].concept("holes & parts").masks == data[0].concept("holes & parts").masks).all()


def test_plain_objects_are_written_without_a_warning(tmp_path):
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 3:9, 2:20] = True
    example = Example("a", np.zeros((30, 40, 3), np.uint8), 40, 30, (Concept("star", masks=mask),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples_to_yolo(ExampleSet("demo", (example,)), tmp_path / "yolo")
    assert (
        tmp_path / "yolo" / "labels" / "train" / "00001_a.txt"
    ).read_text() == "0 0.05 0.1 0.5 0.1 0.5 0.3 0.05 0.3\n"


def test_boxes_stay_boxes(hard_set, tmp_path):
    data = without(hard_set, "haze", "holes & parts")
    with pytest.warns(UserWarning, match="2 objects are boxes only"):
        file = examples_to_yolo(data, tmp_path / "yolo")
    boxed = read_yolo(file.parent).examples[0].concept("boxed")
    assert not boxed.has_masks and np.abs(boxed.boxes_xyxy_px - data[0].concept("boxed").boxes_xyxy_px).max() < 1e-4


def test_unknown_is_never_passed_on_as_absent(hard_set, tmp_path):
    with pytest.warns(UserWarning, match="1 pictures are left out, because a phrase is unknown"):
        file = examples_to_yolo(hard_set, tmp_path / "yolo")
    read = read_yolo(file.parent).examples
    assert [example.image_id for example in read] == ["images/train/00002_two.png"]
    with pytest.raises(ValueError, match="in each of the 1 pictures some phrase is unknown"):
        examples_to_yolo(hard_set[:1], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_splits_get_the_keys_yolo_knows(hard_set, tmp_path):
    second = hard_set[1:]
    sets = (replace(second, name="train"), replace(second, name="valid"))
    file = examples_to_yolo(sets, tmp_path / "yolo")
    assert [data.name for data in read_yolo(file).sets] == ["train", "val"]
    with pytest.raises(ValueError, match="different name for each"):
        examples_to_yolo((second, second), tmp_path / "again")
