"""COCO in and out: every kind of segmentation, what becomes unknown, what is refused and by which words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.examples import Concept, Example, ExampleSet
from workbench.formats import examples_to_coco, mask_of, rle_of
from workbench.formats.coco import read_coco

WIDTH, HEIGHT = 40, 30
SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def annotation(number: int, image: int = 1, category: int = 1, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "bbox": [10, 5, 10, 10], **more}


class Folder:
    """A COCO data set on disk, to be changed before it is read."""

    def __init__(self, root: Path) -> None:
        self.images = root / "pictures"
        self.images.mkdir()
        self.file = root / "labels.json"
        for name in ("a.png", "b.png"):
            Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(self.images / name)
        self.content = {
            "images": [
                {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
                {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
            ],
            "categories": [{"id": 1, "name": "star"}, {"id": 2, "name": "ring"}],
            "annotations": [annotation(1, segmentation=SQUARE)],
        }

    def read(self, **options) -> ExampleSet:
        self.file.write_text(json.dumps(self.content))
        return ExampleSet.from_coco(self.file, self.images, **options)


@pytest.fixture
def coco(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_run_lengths_round_trip():
    chance = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.5, 1.0):
        mask = chance.random((37, 23)) < density
        rle = json.loads(json.dumps(rle_of(mask)))
        assert rle["size"] == [37, 23]
        assert (mask_of(rle) == mask).all()
    assert (mask_of({"size": [2, 3], "counts": [2, 3, 1]}) == [[0, 1, 1], [0, 1, 0]]).all()  # column by column


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [5, 7], "counts": "zz"},
        {"size": [5, 7], "counts": "1d"},
        {"size": [5, 7], "counts": [5, 3]},
        {"size": [5, 7], "counts": [50, 3]},
        {"size": [5], "counts": [5]},
        {"counts": [5]},
    ],
)
def test_broken_run_lengths_are_refused(rle):
    with pytest.raises(ValueError, match="run lengths cannot be decoded"):
        mask_of(rle)
    with pytest.raises(ValueError, match=r"expected \(H,W\)"):
        rle_of(np.zeros((1, 4, 4), bool))


def test_polygons_run_lengths_and_boxes_are_read(coco):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:9, 3:12] = True
    mask[4:6, 5:7] = False
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.r_[False, flat, False]))
    uncompressed = np.diff(np.r_[0, edges, flat.size]).tolist()
    coco.content["annotations"] = [
        annotation(1, segmentation=SQUARE, iscrowd=0),
        annotation(2, segmentation=[*SQUARE, [30, 20, 35, 20, 35, 25, 30, 25]]),
        annotation(3, category=2, segmentation=rle_of(mask)),
        annotation(4, category=2, image=2, segmentation={"size": [HEIGHT, WIDTH], "counts": uncompressed}),
        annotation(5, image=2, segmentation=[], bbox=[1, 2, 3.5, 4]),
    ]
    first, second = coco.read()
    star, ring = first.concept("star"), first.concept("ring")
    assert star.boxes_xyxy_px.tolist() == [[10, 5, 20, 15], [10, 5, 35, 25]]
    assert star.masks.sum((1, 2)).tolist() == [100, 125]
    assert (ring.masks[0] == mask).all() and ring.boxes_xyxy_px.tolist() == [[3, 2, 12, 9]]
    assert (second.concept("ring").masks[0] == mask).all()
    assert second.concept("star").boxes_xyxy_px.tolist() == [[1, 2, 4.5, 6]]
    assert not second.concept("star").has_masks
    assert [pair.image_id for pair in (first, second)] == ["a.png", "b.png"]
    assert first.load_image().shape == (HEIGHT, WIDTH, 3)


def test_categories_without_annotation_are_absent_only_in_exhaustive_files(coco):
    everything = coco.read()
    assert [(pair.concept("star").status, pair.concept("ring").status) for pair in everything] == [
        ("positive", "absent"),
        ("absent", "absent"),
    ]
    partial = coco.read(exhaustive=False)
    assert partial[1].concept("star") is None and partial[0].concept("ring") is None
    assert [concept.status for _, concept in partial.pairs()] == ["positive"]


@pytest.mark.parametrize(
    "objects",
    [
        {"segmentation": SQUARE, "iscrowd": 1},
        {"iscrowd": 1},
        {"segmentation": [[10, 5, 10.2, 5, 10.2, 5.2]]},
        {"bbox": [10, 5, 0.5, 0.5]},
        {"bbox": [10, 5, 0, 7]},
    ],
)
def test_crowds_and_specks_never_make_a_phrase_absent(coco, objects):
    coco.content["annotations"].append(annotation(2, image=2, **objects))
    data = coco.read()
    assert data[1].concept("star").status == "unknown"
    assert ("b.png", "star") not in [(pair.image_id, concept.phrase) for pair, concept in data.pairs()]
    coco.content["annotations"].append(annotation(3, image=2, segmentation=SQUARE))
    assert coco.read()[1].concept("star").num_objects == 1


def test_the_placeholder_category_is_dropped_with_a_warning(coco):
    coco.content["categories"] = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "star", "supercategory": "shapes"},
    ]
    with pytest.warns(UserWarning, match=r"category 0 \('shapes'\) has no annotation"):
        assert coco.read().phrases == ("star",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coco.read(phrases={"shapes": "shapes"}).phrases == ("shapes", "star")
        coco.content["annotations"].append(annotation(2, category=0, segmentation=SQUARE))
        assert coco.read().phrases == ("shapes", "star")


def test_names_that_say_nothing_raise_a_warning(coco):
    coco.content["categories"][1]["name"] = "7"
    with pytest.warns(UserWarning, match="the name '7' says nothing"):
        coco.read()


def test_phrases_rename_merge_and_drop(coco):
    coco.content["annotations"].append(annotation(2, category=2, segmentation=SQUARE))
    assert coco.read(phrases={"star": "yellow star", "ring": None}).phrases == ("yellow star",)
    merged = coco.read(phrases={"star": "toy", "ring": "Toy"})
    assert merged.phrases == ("toy",) and merged[0].concept("toy").num_objects == 2
    with pytest.raises(ValueError, match=r"phrases names \['stra'\].*expected some of \['ring', 'star'\]"):
        coco.read(phrases={"stra": "star"})
    with pytest.raises(ValueError, match="no category is left"):
        coco.read(phrases={"star": None, "ring": None})


def test_objects_with_and_without_mask_become_boxes(coco):
    coco.content["annotations"].append(annotation(2, bbox=[1, 1, 4, 4]))
    with pytest.warns(UserWarning, match="in 1 cases some objects of a phrase have a mask"):
        star = coco.read()[0].concept("star")
    assert not star.has_masks
    assert sorted(star.boxes_xyxy_px.tolist()) == [[1, 1, 5, 5], [10, 5, 20, 15]]


def test_overhanging_boxes_are_clipped_with_a_warning(coco):
    coco.content["annotations"] = [annotation(1, bbox=[-4, 5, 10, 10]), annotation(2, bbox=[35, 20, 5.4, 10.3])]
    with pytest.warns(UserWarning, match=r"1 boxes left their picture.*annotations\[0\]"):
        star = coco.read()[0].concept("star")
    assert star.boxes_xyxy_px.tolist() == [[0, 5, 6, 15], [35, 20, 40, 30]]


def test_lists_of_checked_phrases_per_picture_are_followed(coco):
    coco.content["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    coco.content["images"][1] |= {"neg_category_ids": []}
    first, second = coco.read()
    assert first.concept("star").status == "unknown"  # labelled, but not all of them
    assert first.concept("ring").status == "absent"
    assert second.concept("ring") is None
    coco.content["images"][0]["neg_category_ids"] = [1]
    coco.content["images"][0]["not_exhaustive_category_ids"] = []
    with pytest.raises(ValueError, match=r"annotations\[0\].*'star' is labelled although neg_category_ids"):
        coco.read()


def test_names_of_image_and_annotation_ids_may_be_text(coco):
    coco.content["images"][0]["id"] = "first"
    coco.content["annotations"][0]["image_id"] = "first"
    assert coco.read()[0].concept("star").num_objects == 1


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ("annotations", "image_id", 9, r"annotations\[0\]: image_id is 9; expected the id of one of the file's images"),
        ("annotations", "category_id", 9, r"annotations\[0\]: category_id is 9"),
        ("annotations", "category_id", [1], r"annotations\[0\]: category_id is \[1\]"),
        (
            "annotations",
            "segmentation",
            [[1, 2, 3, 4]],
            r"annotations\[0\]: a polygon of segmentation is \[1, 2, 3, 4\]",
        ),
        ("annotations", "segmentation", [[0, 0, 1e9, 0, 9, 9]], r"annotations\[0\]: a polygon"),
        ("annotations", "segmentation", [[0, 0, float("nan"), 0, 9, 9]], r"annotations\[0\]: a polygon"),
        ("annotations", "segmentation", "abc", r"annotations\[0\]: a polygon"),
        ("annotations", "segmentation", {"size": [3, 3], "counts": [9]}, r"mask is 3x3, its picture 40x30"),
        ("annotations", "segmentation", {"size": [3, 3], "counts": [8]}, r"annotations\[0\]: run lengths"),
        ("images", "file_name", "gone.png", r"images\[0\]: picture .*gone.png does not exist"),
        ("images", "file_name", None, r"images\[0\]: file_name is None"),
        ("images", "id", 2, r"images\[1\]: id 2 occurs twice"),
        ("images", "width", 41, r"images\[0\]: .*is 40x30 as shown, but the labels say 41x30"),
        ("images", "width", "wide", r"images\[0\]: width is 'wide'"),
        ("images", "neg_category_ids", [77], r"images\[0\]: neg_category_ids names category 77"),
        ("images", "file_name", "b.png", r"image_id 'b.png' occurs twice"),
        ("categories", "id", 2, r"categories\[1\]: id 2 occurs twice"),
        ("categories", "name", " ", r"categories\[0\]: name is ' '"),
    ],
)
def test_wrong_entries_are_named(coco, place, key, value, message):
    coco.content[place][0][key] = value
    with pytest.raises(ValueError, match=message):
        coco.read()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, 3], r"annotations\[0\]: bbox is \[1, 2, 3\]"),
        ([1, 2, -3, 4], "bbox .* is not inside"),
        ([50, 2, 3, 4], "bbox .* is not inside the 40x30 picture"),
        ([1, 2, None, 4], "bbox is"),
    ],
)
def test_wrong_boxes_are_named(coco, box, message):
    coco.content["annotations"][0] = annotation(1, bbox=box)
    with pytest.raises(ValueError, match=message):
        coco.read()


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_missing_keys_are_named(coco, key):
    coco.content["annotations"][0] = {k: v for k, v in annotation(1).items() if k != key}
    with pytest.raises(ValueError, match=rf"annotations\[0\] has no '{key}'"):
        coco.read()


def test_swapped_sides_point_to_exif(coco):
    coco.content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    with pytest.raises(ValueError, match=r"images\[0\].*a.png is 40x30 as shown, but the labels say 30x40.*EXIF"):
        coco.read()


def test_files_that_are_no_coco_are_named(coco, tmp_path):
    cases = {"{": "no valid JSON", "[]": "no list of objects under 'images'", '{"images": []}': "under 'categories'"}
    cases['{"images": [], "categories": [], "annotations": []}'] = "list of images is empty"
    for text, message in cases.items():
        coco.file.write_text(text)
        with pytest.raises(ValueError, match=f"labels.json.*{message}"):
            ExampleSet.from_coco(coco.file, coco.images)
    with pytest.raises(ValueError, match="nowhere.json cannot be read"):
        ExampleSet.from_coco(tmp_path / "nowhere.json", coco.images)


def test_writing_and_reading_back_changes_nothing(tmp_path):
    chance = np.random.default_rng(3)
    pixels = chance.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    parts = np.zeros((2, HEIGHT, WIDTH), bool)
    parts[0, 2:12, 2:12], parts[0, 5:8, 5:8], parts[0, 20:25, 30:36] = True, False, True  # a hole and a second part
    parts[1] = chance.random((HEIGHT, WIDTH)) < 0.3
    boxes = np.array([[0.1, 1.7, 30.3, 29.9], [3, 4, 5, 6]], np.float32)
    concepts = (
        Concept("holes & parts", masks=parts),
        Concept("boxed", boxes_xyxy_px=boxes),
        Concept("owl", "absent"),
        Concept("haze", "unknown"),
    )
    before = ExampleSet(
        "demo", (Example("scene/one", pixels, WIDTH, HEIGHT, concepts), Example("two", pixels, WIDTH, HEIGHT))
    )
    file = examples_to_coco(before, tmp_path / "out" / "labels.json", images=tmp_path / "out" / "pictures")
    after = ExampleSet.from_coco(file, tmp_path / "out" / "pictures", name="demo")
    assert [example.image_id for example in after] == ["scene/one", "two"]
    assert (after[0].load_image() == pixels).all()
    for old, new in zip(before, after, strict=True):
        assert {c.phrase: c.status for c in old.concepts} == {c.phrase: c.status for c in new.concepts}
        for concept in old.concepts:
            read = new.concept(concept.phrase)
            assert read.masks.shape == concept.masks.shape and (read.masks == concept.masks).all()
            assert (read.boxes_xyxy_px == concept.boxes_xyxy_px).all()
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == ["labels.json"]


# --- whole folders
def test_roboflow_exports_are_read_split_by_split(coco, tmp_path):
    coco.content["categories"] = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "star", "supercategory": "shapes"},
    ]
    for entry in coco.content["annotations"]:
        entry.pop("iscrowd", None)
    for split in ("train", "valid"):
        folder = tmp_path / "export" / split
        folder.mkdir(parents=True)
        (folder / "_annotations.coco.json").write_text(json.dumps(coco.content))
        for picture in coco.images.iterdir():
            (folder / picture.name).write_bytes(picture.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading = read_coco(tmp_path / "export", limit=1, phrases={"star": "yellow star"})
    assert [(data.name, len(data), data.phrases) for data in reading.sets] == [
        ("train", 1, ("yellow star",)),
        ("valid", 1, ("yellow star",)),
    ]
    assert [finding.kind for finding in reading.findings] == ["placeholder category"] * 2
    with pytest.raises(ValueError, match=r"2 sets \(train, valid\); expected one"):
        _ = reading.examples


def test_the_usual_coco_layout_and_other_json_files_are_told_apart(coco, tmp_path):
    root = tmp_path / "usual"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(coco.content))
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(coco.content))
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    coco.images.rename(root / "val2017")
    assert read_coco(root).examples.name == "val2017"
    (root / "val2017" / "a.png").unlink()
    with pytest.raises(ValueError, match="picture 'a.png' was looked for in .* Name the folder of the pictures"):
        read_coco(root)
    with pytest.raises(ValueError, match="holds no COCO file"):
        read_coco(root / "val2017")


def test_objects_outside_are_left_out_of_a_reading_and_refused_in_strict_reading(coco):
    coco.content["annotations"][0] = annotation(1, bbox=[50, 2, 3, 4])
    with pytest.raises(ValueError, match="is not inside the 40x30 picture"):
        coco.read()
    reading = read_coco(coco.file, images=coco.images)
    assert reading.examples[0].concept("star").status == "unknown"
    assert [finding.kind for finding in reading.findings] == ["box outside"]


def test_pictures_outside_the_folder_are_refused(coco):
    coco.content["images"][0]["file_name"] = "../labels.json"
    with pytest.raises(ValueError, match=r"images\[0\]: '../labels.json' leads outside the folder"):
        coco.read()


def test_a_set_with_everything_survives(hard_set, assert_same, tmp_path):
    file = examples_to_coco(hard_set, tmp_path / "labels.json", images=tmp_path / "images")
    assert_same(hard_set, read_coco(file).examples)
