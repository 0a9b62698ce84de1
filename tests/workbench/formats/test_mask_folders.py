"""Label maps and folders of masks: names of values, regions, two layouts, what is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.formats.mask_folders import read_label_maps, read_mask_folders
from workbench.formats.names import changes_of, read_names

WIDTH, HEIGHT = 40, 30


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def mask(x0: int, x1: int) -> np.ndarray:
    area = np.zeros((HEIGHT, WIDTH), np.uint8)
    area[4:9, x0:x1] = 255
    return area


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b_1", "c"):
        save(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "images" / f"{name}.jpg")
    return tmp_path


@pytest.fixture
def maps(folder: Path) -> Path:
    area = np.zeros((HEIGHT, WIDTH), np.uint8)
    area[2:5, 2:5], area[2:5, 10:14], area[20:25, 2:5] = 1, 1, 2
    palette = Image.fromarray(area).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    (folder / "masks").mkdir()
    palette.save(folder / "masks" / "a.png")
    save(np.full((HEIGHT, WIDTH), 300, np.uint16), folder / "masks" / "b_1_mask.png")
    (folder / "names.json").write_text(json.dumps({"0": "background", "1": "lung", "2": "heart"}))
    return folder


def test_every_value_is_one_object_or_one_per_region(maps):
    reading = read_label_maps(maps)
    first, second, third = reading.examples
    assert first.concept("lung").num_objects == 1 and first.concept("lung").masks.sum() == 21
    assert [concept.status for concept in second.concepts] == ["absent", "absent"]
    assert [concept.status for concept in third.concepts] == ["unknown", "unknown"]
    assert [finding.kind for finding in reading.findings] == ["not labelled", "ignored value"]
    assert "value 300 has no name" in str(reading.findings[1])
    regions = read_label_maps(maps, split_parts=True, phrases={"heart": None}, limit=1).examples
    assert regions.phrases == ("lung",) and len(regions) == 1
    assert regions[0].concept("lung").boxes_xyxy_px.tolist() == [[2, 2, 5, 5], [10, 2, 14, 5]]
    assert read_label_maps(maps, names={300: "sky"}).examples[1].concept("sky").masks.all()


def test_label_maps_that_do_not_fit_are_named(maps):
    save(np.zeros((9, 9), np.uint8), maps / "masks" / "a.png")
    with pytest.raises(ValueError, match="a.png is 9x9, its picture 40x30"):
        read_label_maps(maps)
    save(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), maps / "masks" / "a.png")
    with pytest.raises(ValueError, match="a.png is a coloured picture; expected one value per pixel"):
        read_label_maps(maps)
    (maps / "names.json").unlink()
    with pytest.raises(ValueError, match="has no list of names"):
        read_label_maps(maps)


@pytest.mark.parametrize("by_picture", [False, True])
def test_masks_are_found_by_phrase_or_by_picture(folder, by_picture):
    objects = {("star_fish", "a", 1): (2, 9), ("star_fish", "a", 2): (20, 25), ("owl", "b_1", 1): (0, 3)}
    for (phrase, picture, number), columns in objects.items():
        name = f"{picture}/{phrase}_{number}" if by_picture else f"{phrase}/{picture}_{number}"
        save(mask(*columns), folder / "masks" / f"{name}.png")
    data = read_mask_folders(folder).examples
    assert data.phrases == (("star fish", "owl") if by_picture else ("owl", "star fish"))
    assert data[0].concept("star fish").boxes_xyxy_px.tolist() == [[2, 4, 9, 9], [20, 4, 25, 9]]
    assert data[0].concept("owl").status == "absent" and data[1].concept("owl").num_objects == 1
    assert read_mask_folders(folder, exhaustive=False).examples[2].concepts == ()


def test_masks_without_pixels_and_without_picture(folder):
    save(mask(0, 0), folder / "masks" / "star" / "a.png")
    reading = read_mask_folders(folder, phrases={"star": "sea star"})
    assert reading.examples[0].concept("sea star").status == "unknown"
    assert [finding.kind for finding in reading.findings] == ["empty mask"]
    save(mask(0, 5), folder / "masks" / "star" / "zebra.png")
    with pytest.raises(ValueError, match="zebra.png: neither its folder 'star' nor its name belongs to one of the 3"):
        read_mask_folders(folder)


def test_folders_without_masks_are_named(folder):
    with pytest.raises(ValueError, match="has no folder masks or labels"):
        read_mask_folders(folder)
    (folder / "masks").mkdir()
    with pytest.raises(ValueError, match="holds no folder with masks"):
        read_mask_folders(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.json", '{"0": "background", "1": "liver", "2": "left kidney", "3": null}'),
        ("dataset.json", '{"name": "x", "labels": {"background": 0, "liver": 1, "left kidney": 2}}'),
        ("names.yaml", "1: liver\n2: left kidney\n"),
        ("names.json", '["background", "liver", "left kidney"]'),
        ("names.txt", "0 background\n1 liver\n\n2: left kidney\n"),
        ("names.txt", "1,liver\n2 = left kidney\n3,\n"),
    ],
)
def test_lists_of_names(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_names(tmp_path / name) == {1: "liver", 2: "left kidney"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "1 liver\nkidney\n", r"names.txt:2: received 'kidney'"),
        ("names.json", "{", "cannot be read"),
        ("names.json", '"liver"', "received liver"),
        ("names.json", '{"liver": "red"}', "expected a list of names"),
    ],
)
def test_broken_lists_of_names(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / name)


def test_changes_of_phrases():
    assert changes_of(["cls0=gold coin", "haze="]) == {"cls0": "gold coin", "haze": None}
    for text in ("coin", "=coin"):
        with pytest.raises(ValueError, match="expected OLD=NEW"):
            changes_of([text])
