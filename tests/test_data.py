"""The committed picture sets are what they say they are: valid COCO, exact boxes, honest sources, no shared pixel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from faster_coco_eval.core import mask as coco_mask
from PIL import Image
from skimage import data as pictures

ROOT = Path(__file__).resolve().parents[1]
SETS = ("coins", "words", "nuclei")
SPLITS = ("train", "test")

every_file = pytest.mark.parametrize(("name", "split"), list(product(SETS, SPLITS)))
every_set = pytest.mark.parametrize("name", SETS)


def load(name: str, split: str) -> dict[str, Any]:
    return json.loads((ROOT / "data" / name / f"{split}.json").read_text(encoding="utf-8"))


def decode(annotation: dict[str, Any]) -> np.ndarray:
    return coco_mask.decode(annotation["segmentation"]).astype(bool)


def objects(coco: dict[str, Any]) -> list[dict[str, Any]]:
    return [annotation for annotation in coco["annotations"] if not annotation["iscrowd"]]


def covered(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Pixels that two source squares share; squares of different pictures share none."""
    if first["picture"] != second["picture"]:
        return 0
    right = min(first["x"] + first["width"], second["x"] + second["width"])
    bottom = min(first["y"] + first["height"], second["y"] + second["height"])
    return max(0, right - max(first["x"], second["x"])) * max(0, bottom - max(first["y"], second["y"]))


def test_covered_counts_shared_pixels() -> None:
    square = {"picture": "coins", "x": 10, "y": 20, "width": 4, "height": 4}
    assert covered(square, {**square, "x": 13, "y": 22}) == 2
    assert covered(square, {**square, "x": 14}) == 0
    assert covered(square, {**square, "picture": "page"}) == 0


@every_file
def test_ids_are_unique_and_point_somewhere(name: str, split: str) -> None:
    coco = load(name, split)
    ids = {key: [entry["id"] for entry in coco[key]] for key in ("images", "categories", "annotations", "licenses")}
    for key, values in ids.items():
        assert len(set(values)) == len(values), key
    assert {a["image_id"] for a in coco["annotations"]} <= set(ids["images"])
    assert {a["category_id"] for a in coco["annotations"]} == {1}, "the other categories are looked for and absent"
    assert {image["license"] for image in coco["images"]} == set(ids["licenses"])
    assert 5 <= len(ids["categories"]) - 1 <= 6


@every_file
def test_masks_boxes_and_areas_agree_exactly(name: str, split: str) -> None:
    coco = load(name, split)
    sizes = {image["id"]: [image["height"], image["width"]] for image in coco["images"]}
    for annotation in coco["annotations"]:
        assert annotation["segmentation"]["size"] == sizes[annotation["image_id"]]
        mask = decode(annotation)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert [x, y] == [columns.min(), rows.min()]
        assert [x + width, y + height] == [columns.max() + 1, rows.max() + 1]
        assert 0 <= x < x + width <= mask.shape[1]
        assert 0 <= y < y + height <= mask.shape[0]
        assert annotation["area"] == mask.sum() > 0


@every_file
def test_no_pixel_belongs_to_two_annotations_of_one_image(name: str, split: str) -> None:
    coco = load(name, split)
    for image in coco["images"]:
        masks = [decode(a) for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert np.sum(masks, axis=0, initial=0).max() <= 1, image["file_name"]


@every_file
def test_every_image_holds_what_a_model_can_be_asked_for(name: str, split: str) -> None:
    coco = load(name, split)
    num_objects = Counter(annotation["image_id"] for annotation in objects(coco))
    assert all(2 <= count <= 10 for count in num_objects.values())
    assert 1 <= len(coco["images"]) - len(num_objects) <= 3, "some images hold no object at all"
    ignored_only = {a["image_id"] for a in coco["annotations"]} - set(num_objects)
    assert ignored_only == set(), "an image with ignored regions alone is neither positive nor absent"
    assert len(coco["images"]) == 10 if split == "train" else 8 <= len(coco["images"]) <= 15


@every_file
def test_images_are_the_squares_they_name(name: str, split: str) -> None:
    coco = load(name, split)
    for image in coco["images"]:
        source = image["source"]
        stored = Image.open(ROOT / "data" / name / "images" / image["file_name"])
        assert stored.size == (image["width"], image["height"])
        assert source["scale"] == image["width"] / source["width"] == image["height"] / source["height"]
        picture = getattr(pictures, source["picture"])()
        top, left = source["y"], source["x"]
        square = picture[top : top + source["height"], left : left + source["width"]]
        assert square.shape[:2] == (source["height"], source["width"]), "the square leaves the picture"
        again = np.asarray(Image.fromarray(square).resize(stored.size, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(again, np.asarray(stored))


@every_set
def test_no_image_is_left_over_or_used_twice(name: str) -> None:
    used = Counter(image["file_name"] for split in SPLITS for image in load(name, split)["images"])
    assert set(used.values()) == {1}
    assert sorted(used) == sorted(path.name for path in (ROOT / "data" / name / "images").iterdir())


@every_set
def test_training_and_evaluation_share_neither_pixel_nor_object(name: str) -> None:
    train, test = load(name, "train"), load(name, "test")
    for taught, judged in product(train["images"], test["images"]):
        assert covered(taught["source"], judged["source"]) == 0, (taught["file_name"], judged["file_name"])
    assert not {a["source_object"] for a in objects(train)} & {a["source_object"] for a in objects(test)}
    assert train["categories"] == test["categories"]


@every_set
def test_evaluation_tiles_overlap_less_than_half(name: str) -> None:
    sources = [image["source"] for image in load(name, "test")["images"]]
    for first, second in combinations(sources, 2):
        shared = covered(first, second)
        assert shared / (first["width"] ** 2 + second["width"] ** 2 - shared) < 0.5


@every_file
def test_readme_states_the_counts_of_the_files(name: str, split: str) -> None:
    coco = load(name, split)
    found = objects(coco)
    positive = len({annotation["image_id"] for annotation in found})
    pairs = len(coco["images"]) * len(coco["categories"])
    ignored = len(coco["annotations"]) - len(found)
    different = len({annotation["source_object"] for annotation in found})
    expected = [len(coco["images"]), len(found), different, ignored, positive, pairs - positive]
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {name} \| {split} \|(.*)\|$", text, flags=re.MULTILINE)
    assert row is not None
    assert [int(cell) for cell in row.group(1).split("|")] == expected


@every_set
def test_recipe_finds_its_files_and_phrases(name: str) -> None:
    path = ROOT / "recipes" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert text.startswith(f"# workbench adapt recipes/{name}.yaml --out runs/{name}\n")
    assert recipe["name"] == name
    for part, split in (("learn", "train"), ("test", "test")):
        assert (path.parent / recipe[part]["annotations"]).resolve() == ROOT / "data" / name / f"{split}.json"
        assert (path.parent / recipe[part]["images"]).resolve() == ROOT / "data" / name / "images"
        assert set(recipe["phrases"]) <= {category["name"] for category in load(name, split)["categories"]}
    assert recipe["shots"] <= len(load(name, "train")["images"])


@pytest.mark.slow
def test_build_script_makes_exactly_the_committed_files() -> None:
    command = [sys.executable, str(ROOT / "data" / "build.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
