"""Text data sets in their own forms: byte-order marks, commas in words, don't-care regions, two JSON dialects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from workbench.domains.text_scenes import read_coco_text, read_icdar2015, read_textocr, read_total_text

SQUARE = [4, 4, 14, 4, 14, 10, 4, 10]


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def statuses(reading) -> list[str]:
    return [example.concepts[0].status for example in reading.examples]


def test_icdar_2015(tmp_path):
    pictures(tmp_path / "images", "img_1.jpg", "img_2.jpg", "img_3.jpg", "img_4.jpg")
    labels = tmp_path / "gt"
    labels.mkdir()
    lines = "4,4,14,4,14,10,4,10,Hello, world\r\n20,4,30,4,30,10,20,10,###\r\n"
    (labels / "gt_img_1.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (labels / "gt_img_2.txt").write_text("20,4,30,4,30,10,20,10,###\n")
    (labels / "gt_img_3.txt").write_text("")
    reading = read_icdar2015(labels, images=tmp_path / "images", phrases={"word": "printed word"})
    assert statuses(reading) == ["positive", "unknown", "absent", "unknown"]
    first = reading.examples[0].concept("printed word")
    assert first.boxes_xyxy_px.tolist() == [[4, 4, 14, 10]]
    assert [finding.kind for finding in reading.findings] == ["not labelled"]
    (labels / "gt_img_2.txt").write_text("4,4,14,4,14,10,4,10\n")
    with pytest.raises(ValueError, match=r"gt_img_2.txt:1: received '4,4,14,4,14,10,4,10'; expected x1,y1"):
        read_icdar2015(labels, images=tmp_path / "images")
    assert len(read_icdar2015(labels, images=tmp_path / "images", limit=1).examples) == 1


def test_total_text(tmp_path):
    pictures(tmp_path, "img1.jpg", "img2.jpg")
    word = "x: [[ 4 14 14\n  4]], y: [[ 4  4 10 10]], ornt: [u'c'], transcriptions: [u'it's']\n"
    ignored = 'x: [[20 30 30]], y: [[4 4 10]], ornt: [u"#"], transcriptions: [u"#"]\n'
    (tmp_path / "poly_gt_img1.txt").write_text(word + ignored)
    (tmp_path / "poly_gt_img2.txt").write_text(ignored)
    reading = read_total_text(tmp_path)
    assert statuses(reading) == ["positive", "unknown"]
    assert reading.examples[0].concept("word").boxes_xyxy_px.tolist() == [[4, 4, 14, 10]]
    for broken in ("x: [[1 2 3]], y: [[1 2]], ornt: [u'c'], transcriptions: [u'a']", "1,2,3,4", "x: [[1 2"):
        (tmp_path / "poly_gt_img2.txt").write_text(broken)
        with pytest.raises(ValueError, match=r"poly_gt_img2.txt: (polygon 1 has 3 x and 2 y|received)"):
            read_total_text(tmp_path)


def text_ocr() -> dict:
    images = {"ab": {"id": "ab", "width": 40, "height": 30, "set": "val", "file_name": "train/ab.jpg"}}
    images["cd"] = {"id": "cd", "width": 40, "height": 30, "set": "val", "file_name": "train/cd.jpg"}
    things = {
        "ab_1": {"id": "ab_1", "image_id": "ab", "bbox": [4, 4, 10, 6], "utf8_string": "Stop", "points": SQUARE},
        "ab_2": {"id": "ab_2", "image_id": "ab", "bbox": [4, 4, 10, 6], "utf8_string": ".", "points": SQUARE},
        "cd_1": {"id": "cd_1", "image_id": "cd", "bbox": [4, 4, 10, 6], "utf8_string": ".", "points": SQUARE},
    }
    return {"imgs": images, "anns": things, "imgToAnns": {"ab": ["ab_1", "ab_2"], "cd": ["cd_1"]}}


def test_textocr(tmp_path):
    file = tmp_path / "TextOCR_0.1_val.json"
    content = text_ocr()
    file.write_text(json.dumps(content))
    pictures(tmp_path / "train_images", "ab.jpg", "cd.jpg")
    reading = read_textocr(file, images=tmp_path / "train_images")
    assert reading.examples.name == "val" and statuses(reading) == ["positive", "unknown"]
    assert reading.examples[0].concept("word").num_objects == 1
    with pytest.raises(ValueError, match=r"imgs\['ab'\]: picture train/ab.jpg is not in"):
        read_textocr(file)
    content["anns"]["ab_1"]["points"] = "4,4"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"anns\['ab_1'\]: points is 4,4"):
        read_textocr(file, images=tmp_path / "train_images")
    file.write_text("[]")
    with pytest.raises(ValueError, match="imgs and anns are missing"):
        read_textocr(file)


def test_coco_text_keeps_its_splits(tmp_path):
    thing = {"mask": SQUARE, "class": "machine printed", "bbox": [4, 4, 10, 6], "language": "english", "area": 60}
    things = {
        "1": {**thing, "id": 1, "image_id": 5, "legibility": "legible", "utf8_string": "STOP"},
        "2": {**thing, "id": 2, "image_id": 6, "legibility": "illegible", "utf8_string": ""},
    }
    images = {
        "5": {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30, "set": "train"},
        "6": {"id": 6, "file_name": "b.jpg", "width": 40, "height": 30, "set": "val"},
        "7": {"id": 7, "file_name": "c.jpg", "width": 40, "height": 30, "set": "val"},
    }
    (tmp_path / "cocotext.v2.json").write_text(json.dumps({"cats": {}, "anns": things, "imgs": images, "info": {}}))
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    train, val = read_coco_text(tmp_path / "cocotext.v2.json").sets
    assert (train.name, val.name) == ("train", "val")
    assert [example.concepts[0].status for data in (train, val) for example in data] == [
        "positive",
        "unknown",
        "absent",
    ]
