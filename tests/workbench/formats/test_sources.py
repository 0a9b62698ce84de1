"""Which form is this? Every layout is recognised, archives and unknown folders are refused, options must fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.formats.sources import READERS, detect_form, read_labels

COCO = json.dumps({"images": [{"id": 1}], "categories": [], "annotations": []})
SACO = json.dumps({"images": [{"id": 1, "text_input": "owl"}], "annotations": []})
TEXT = json.dumps({"imgs": {}, "anns": {"1": {"points": []}}})
COCO_TEXT = json.dumps({"imgs": {}, "anns": {"1": {"mask": [], "legibility": "legible"}}})
DICOM = "\0" * 128 + "DICM"


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("coco", {"train/_annotations.coco.json": COCO}),
        ("coco", {"annotations/instances_val.json": COCO, "images/": ""}),
        ("coco", {"labels.json": COCO, "images/a.png": ""}),
        ("saco", {"gold_merged_a_x.json": SACO}),
        ("yolo", {"data.yaml": "names: []"}),
        ("yolo", {"images/a.png": "", "labels/a.txt": "", "classes.txt": "star"}),
        ("masks", {"images/a.png": "", "masks/owl/a.png": ""}),
        ("label-maps", {"images/a.png": "", "masks/a.png": "", "names.json": "{}"}),
        ("hub", {"data/train-00000-of-00001.parquet": ""}),
        ("hub", {"state.json": "", "dataset_info.json": "{}"}),
        ("hub", {"train/metadata.jsonl": "", "train/a.png": ""}),
        ("nifti", {"imagesTr/a.nii.gz": "", "labelsTr/a.nii.gz": "", "dataset.json": "{}"}),
        ("dicom", {"IM0001": DICOM}),
        ("waymo-boxes", {"camera_image/a.parquet": "", "camera_box/a.parquet": ""}),
        ("waymo-segments", {"camera_image/a.parquet": "", "camera_segmentation/a.parquet": ""}),
        ("icdar2015", {"img_1.jpg": "", "gt_img_1.txt": ""}),
        ("total-text", {"img1.jpg": "", "poly_gt_img1.txt": ""}),
    ],
)
def test_folders_are_recognised(tmp_path, form, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.write_text(text)
    assert detect_form(tmp_path) == form and form in READERS


@pytest.mark.parametrize(
    ("form", "name", "text"),
    [
        ("coco", "a.json", COCO),
        ("saco", "a.json", SACO),
        ("textocr", "a.json", TEXT),
        ("coco-text", "a.json", COCO_TEXT),
        ("nifti", "a.nii.gz", ""),
        ("hub", "a.parquet", ""),
        ("yolo", "a.yaml", ""),
    ],
)
def test_files_are_recognised(tmp_path, form, name, text):
    (tmp_path / name).write_text(text)
    assert detect_form(tmp_path / name) == form


def test_what_is_not_recognised_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="was not recognised; expected one of coco, yolo.*--format"):
        detect_form(tmp_path)
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(ValueError, match="is an archive; expected a folder. Unpack it first"):
        read_labels(tmp_path / "a.zip")
    with pytest.raises(ValueError, match="does not exist"):
        read_labels(tmp_path / "gone")
    with pytest.raises(ValueError, match="format is 'voc'; expected one of coco"):
        read_labels(tmp_path, "voc")


def test_options_must_belong_to_the_form(tmp_path: Path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "classes.txt").write_text("star\n")
    (tmp_path / "a.txt").write_text("")
    assert read_labels(tmp_path, window=None, limit=1).form == "yolo"
    with pytest.raises(ValueError, match="yolo takes no --split-parts, --window; expected only --partial, --limit"):
        read_labels(tmp_path, window="lung", split_parts=True)
