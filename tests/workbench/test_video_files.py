"""Labelled videos go to files and come back: JSON of two kinds, predictions, and indexed PNGs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from sam3.rle import Rle
from sam3.video.results import Masklet, masklet_of_rles
from workbench.video_files import (
    VideoLabels,
    predictions_to_json,
    read_mask_pngs,
    read_predictions,
    read_videos,
    videos_to_json,
    write_mask_pngs,
    write_videos,
)

SIZE, NUM = (20, 30), 5


def masks_of(seed: int) -> list[np.ndarray | None]:
    """A ring with a second part, moving; away in frame 2, and ragged in the last frame."""
    masks: list[np.ndarray | None] = []
    for frame in range(NUM):
        mask = np.zeros(SIZE, dtype=bool)
        mask[2:12, 1 + frame + seed : 12 + frame + seed] = True
        mask[5:8, 4 + frame + seed : 8 + frame + seed] = False
        mask[17:20, 25:] = True
        if frame == NUM - 1:
            mask &= np.random.default_rng(seed).random(SIZE) < 0.6
        masks.append(None if frame == 2 else mask)
    return masks


def masklet(id_: int, phrase: str | None, seed: int, score: float = 1.0) -> Masklet:
    rles = [None if mask is None else Rle.of(mask) for mask in masks_of(seed)]
    return masklet_of_rles(id_, phrase, rles, score=score)


@pytest.fixture()
def videos() -> list[VideoLabels]:
    first = VideoLabels(
        "street", NUM, SIZE, (masklet(1, "red car", 0), masklet(2, "dog", 3), masklet(3, "dog", 6)), ("cat", "dog")
    )
    late = replace(masklet(4, "red car", 1), frames=np.array([2, 3, 4, 6]))
    second = VideoLabels("yard", 7, SIZE, (late,), ("dog",), tuple(f"yard/{frame}.jpg" for frame in range(7)))
    return [first, second, VideoLabels("empty", 2, (4, 6), (), ("cat",))]


def assert_same(videos: list[VideoLabels], expected: list[VideoLabels], *, has_ids: bool = True) -> None:
    assert [(video.name, video.num_frames, video.image_size) for video in videos] == [
        (video.name, video.num_frames, video.image_size) for video in expected
    ]
    for video, wanted in zip(videos, expected, strict=True):
        assert len(video.masklets) == len(wanted.masklets)
        for one, other in zip(video.masklets, wanted.masklets, strict=True):
            assert one.phrase == other.phrase
            assert one.id == other.id or not has_ids
            assert one.frames.tolist() == other.frames.tolist()
            assert one.rles == other.rles
            assert one.boxes_xyxy_px.tolist() == other.boxes_xyxy_px.tolist()


@pytest.mark.parametrize("form", ["saco_veval", "youtube_vis"])
def test_json_comes_back_the_same(
    tmp_path: Path, videos: list[VideoLabels], form: Literal["saco_veval", "youtube_vis"]
) -> None:
    read = read_videos(write_videos(videos, tmp_path / "videos.json", form))
    assert_same(read, videos)
    assert read[1].file_names == videos[1].file_names
    if form == "saco_veval":
        assert [set(video.phrases) for video in read] == [set(video.phrases) for video in videos]
    else:
        assert [set(video.phrases) for video in read] == [{"red car", "dog"}, {"red car"}, set()]


def test_the_json_has_the_fields_of_the_benchmark(videos: list[VideoLabels]) -> None:
    content = videos_to_json(videos, "saco_veval")
    assert json.loads(json.dumps(content)) == content
    pairs = {(pair["video_id"], pair["noun_phrase"]): pair["num_masklets"] for pair in content["video_np_pairs"]}
    assert pairs == {(1, "cat"): 0, (1, "dog"): 2, (1, "red car"): 1, (2, "dog"): 0, (2, "red car"): 1, (3, "cat"): 0}
    entry = content["annotations"][0]
    assert entry["segmentations"][2] is None and entry["bboxes"][2] is None and entry["areas"][2] is None
    assert entry["bboxes"][0] == [1.0, 2.0, 29.0, 18.0]  # x, y, width, height of both parts together
    mask = masks_of(0)[0]
    assert mask is not None and entry["areas"][0] == int(mask.sum())
    assert entry["noun_phrase"] == "red car" and entry["iscrowd"] == 0 and (entry["height"], entry["width"]) == SIZE
    assert content["videos"][0] == {
        "id": 1,
        "video_name": "street",
        "file_names": [f"street/0000{frame}.jpg" for frame in range(NUM)],
        "height": 20,
        "width": 30,
        "length": NUM,
    }


def test_predictions_come_back_with_the_truth_they_belong_to(tmp_path: Path, videos: list[VideoLabels]) -> None:
    truth_path = write_videos(videos, tmp_path / "truth.json")
    truth = json.loads(truth_path.read_text())
    found = [
        VideoLabels("yard", 7, SIZE, (masklet(11, "dog", 2, score=0.625), masklet(12, "cat", 4, score=0.25))),
        VideoLabels("street", NUM, SIZE, (masklet(5, "red car", 0, score=0.75),)),
    ]
    entries = predictions_to_json(found, truth)
    assert entries[0]["bboxes"][2] == [0.0] * 4 and entries[0]["segmentations"][6] is None
    (tmp_path / "found.json").write_text(json.dumps(entries))
    read = read_predictions(tmp_path / "found.json", truth_path)
    assert [video.name for video in read] == ["street", "yard", "empty"]
    assert_same([read[1], read[0]], found, has_ids=False)
    assert [one.detection_score for video in read for one in video.masklets] == [0.75, 0.625, 0.25]
    for wrong in (replace(found[0], name="beach"), replace(found[0], num_frames=9), replace(found[0], name="street")):
        with pytest.raises(ValueError, match="expected one of its videos"):
            predictions_to_json([wrong], truth)


def test_files_of_others_are_read(tmp_path: Path) -> None:
    """YouTube-VIS as published: plain run lengths, no names of videos."""
    mask = np.zeros((2, 3), dtype=bool)
    mask[1, 1:] = True
    content = {
        "videos": [{"id": 9, "file_names": ["0a1/00000.jpg", "0a1/00005.jpg"], "width": 3, "height": 2, "length": 2}],
        "categories": [{"id": 4, "name": "sitting dog"}],
        "annotations": [
            {
                "id": 70,
                "video_id": 9,
                "category_id": 4,
                "iscrowd": 0,
                "segmentations": [None, {"size": [2, 3], "counts": [3, 1, 1, 1]}],
            },
            {"id": 71, "video_id": 9, "category_id": 4, "iscrowd": 1, "segmentations": [None, None]},
            {"id": 72, "video_id": 9, "category_id": 4, "segmentations": [None, None]},
        ],
    }
    (tmp_path / "vis.json").write_text(json.dumps(content))
    (video,) = read_videos(tmp_path / "vis.json")
    assert (video.name, video.phrases) == ("0a1", ("sitting dog",))
    (only,) = video.masklets
    assert (only.id, only.frames.tolist()) == (70, [1])
    np.testing.assert_array_equal(only.mask(1), mask)


def test_what_does_not_fit_is_named(tmp_path: Path, videos: list[VideoLabels]) -> None:
    content = videos_to_json(videos, "saco_veval")
    cases = [
        ("video_id", 77, r"annotations\[1\]: video_id 77"),
        ("segmentations", [None], r"annotations\[1\]: expected segmentations, one per frame of a video of 5"),
        ("segmentations", [{"size": [2, 2], "counts": [1]}] * NUM, r"annotations\[1\]: run lengths cannot"),
        ("segmentations", [{"size": [2, 2], "counts": [4]}] * NUM, r"masks of \[\(2, 2\)\]"),
    ]
    for field, value, words in cases:
        broken = json.loads(json.dumps(content))
        broken["annotations"][1][field] = value
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=words):
            read_videos(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(ValueError, match="no list of videos"):
        read_videos(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="ends at frame 4"):
        replace(videos[0], num_frames=3)
    with pytest.raises(ValueError, match="same id"):
        VideoLabels("a", NUM, SIZE, (masklet(1, "a", 0), masklet(1, "b", 1)))


def test_indexed_pngs_come_back_the_same_where_nothing_overlaps(tmp_path: Path) -> None:
    left, right = masks_of(0), []
    for frame in range(NUM):
        mask = np.zeros(SIZE, dtype=bool)
        mask[13:16, frame:25] = True
        mask[14, frame + 3 : 20] = False
        right.append(None if frame == 0 else Rle.of(mask))
    labels = VideoLabels(
        "street",
        NUM,
        SIZE,
        (
            masklet_of_rles(40, "red car", [None if mask is None else Rle.of(mask) for mask in left]),
            masklet_of_rles(7, None, right),
        ),
    )
    for _ in range(2):  # the second time over the first
        folder = write_mask_pngs(labels, tmp_path / "masks")
    with Image.open(folder / "00003.png") as picture:
        assert picture.mode == "P"
        assert set(np.unique(np.array(picture))) == {0, 1, 2}
        colours = np.array(picture.convert("RGB"))[np.array(picture) > 0]
        assert len(np.unique(colours, axis=0)) == 2 and colours.any(axis=1).all()
    assert_same([read_mask_pngs(folder)], [labels])
    (folder / "objects.json").unlink()
    plain = read_mask_pngs(folder, phrases={2: "kerb"})
    assert [(one.id, one.phrase, one.rles) for one in plain.masklets] == [
        (1, None, labels.masklets[0].rles),
        (2, "kerb", labels.masklets[1].rles),
    ]


def test_an_overlap_belongs_to_the_higher_score(tmp_path: Path) -> None:
    labels = VideoLabels("street", NUM, SIZE, (masklet(1, "car", 0, score=0.5), masklet(2, "car", 3, score=0.9)))
    read = read_mask_pngs(write_mask_pngs(labels, tmp_path / "masks"))
    low, high = labels.masklets
    np.testing.assert_array_equal(read.masklets[1].mask(1), high.mask(1))
    np.testing.assert_array_equal(read.masklets[0].mask(1), low.mask(1) & ~high.mask(1))


def test_pngs_that_are_no_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no PNG"):
        read_mask_pngs(tmp_path)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="pixel type RGB"):
        read_mask_pngs(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="expected one size"):
        read_mask_pngs(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files, such as notes.txt"):
        write_mask_pngs(VideoLabels("a", 1, SIZE, ()), tmp_path)
