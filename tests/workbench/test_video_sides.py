"""Answers side by side: one colour per object, titles, and data from which a page can draw the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam3.rle import Rle
from sam3.video.results import Masklet, masklet_of_rles
from sam3.video.source import open_video
from workbench.video_overlay import colour_of
from workbench.video_sides import Side, draw_sides, draw_strip, player_data, with_same_numbers, write_sides

SIZE, NUM = (40, 60), 5
GROUND = (40, 90, 200)


def moving(id_: int, phrase: str, top: int, frames: range = range(NUM), shift: int = 0) -> Masklet:
    """A square of 12 pixels that moves to the right by 4 pixels a frame."""
    rles: list[Rle | None] = []
    for frame in range(NUM):
        mask = np.zeros(SIZE, dtype=bool)
        mask[top : top + 12, shift + 4 * frame : shift + 4 * frame + 12] = True
        rles.append(Rle.of(mask) if frame in frames else None)
    return masklet_of_rles(id_, phrase, rles, score=0.9)


@pytest.fixture
def frames() -> np.ndarray:
    return np.full((NUM, *SIZE, 3), GROUND, dtype=np.uint8)


def test_the_same_object_gets_the_same_number() -> None:
    before = Side("before", (moving(3, "cat", 2), moving(8, "cat", 24)))
    after = Side(
        "after",
        (
            moving(8, "cat", 2, shift=2),  # is 3
            moving(3, "dog", 24),  # lies where 8 is, but is a dog
            moving(5, "cat", 24, range(1)),  # overlaps 8 in one frame of five
        ),
    )
    renumbered = with_same_numbers(before, after, NUM)
    assert [masklet.id for masklet in renumbered.masklets] == [3, 0, 1]
    assert [masklet.phrase for masklet in renumbered.masklets] == ["cat", "dog", "cat"]
    assert [masklet.rles for masklet in renumbered.masklets] == [masklet.rles for masklet in after.masklets]
    assert with_same_numbers(before, Side("after", ()), NUM).masklets == ()
    assert [m.id for m in with_same_numbers(Side("before", ()), after, NUM).masklets] == [0, 1, 2]


def test_colours_stand_where_the_objects_are_on_both_sides(tmp_path: Path, frames: np.ndarray) -> None:
    sides = (Side("before", (moving(0, "cat", 2),)), Side("after", (moving(0, "cat", 2), moving(1, "cat", 24))))
    path = write_sides(open_video(frames, frame_rate=5), sides, tmp_path / "sides.mp4")
    video = open_video(path)
    assert video.num_frames == NUM and video.frame_rate == pytest.approx(5)
    shown = video.frame(3).astype(int)
    scale, width, bar = 320 / SIZE[1], 320, shown.shape[0] - round(320 * SIZE[0] / SIZE[1])

    def colour(side: int, x: float, y: float) -> np.ndarray:
        return shown[bar + round(y * scale), side * (width + 8) + round(x * scale)]

    def painted(number: int) -> np.ndarray:
        return 0.6 * np.array(GROUND) + 0.4 * np.array(colour_of(number))

    for side in (0, 1):
        assert np.abs(colour(side, 20, 11) - painted(0)).max() <= 12
        assert np.abs(colour(side, 50, 8) - GROUND).max() <= 8
    assert np.abs(colour(0, 18, 32) - GROUND).max() <= 8
    assert np.abs(colour(1, 18, 32) - painted(1)).max() <= 12
    assert shown[:bar].min() < 120  # the titles


def test_titles_that_are_too_long_are_cut_and_broken_frames_stay_bare(frames: np.ndarray) -> None:
    side = Side("a title that is much longer than the picture is wide, by far" * 2, (moving(0, "cat", 2),))
    sheet = draw_sides(frames[0], 0, (side, side))
    assert sheet.shape[1] == 2 * 320 + 8
    assert (sheet[:15, 318:328] == 255).all()
    bare = draw_sides(frames[0], None, (side, side))
    assert (bare[-100:, :320] == GROUND).all() and not (sheet[-200:, :320] == GROUND).all()


def test_a_strip_has_a_column_per_frame_and_a_row_per_answer(frames: np.ndarray) -> None:
    sides = (Side("before", ()), Side("after", (moving(0, "cat", 2),)))
    strip = draw_strip(open_video(frames), sides, num_frames=3, side_px=60)
    assert strip.shape == (2 * 44, 3 * 64, 3)
    upper, lower = strip[:40], strip[44:84]
    assert (upper[:, :60] == GROUND).all()
    columns = [np.abs(lower[:, 64 * n : 64 * n + 60].astype(int) - GROUND).sum(axis=(0, 2)).argmax() for n in range(3)]
    assert columns[0] < columns[1] < columns[2]
    assert draw_strip(open_video(frames[:2]), sides, num_frames=5, side_px=60).shape[1] == 2 * 64


def test_a_page_can_draw_the_same(tmp_path: Path, frames: np.ndarray) -> None:
    before = (moving(0, "cat", 2), moving(4, "dog", 24, range(2, 4)))
    sides = (Side("before", before), Side("after", ()))
    data = json.loads(json.dumps(player_data(open_video(frames, frame_rate=4), sides, "video.mp4")))
    assert (data["video"], data["size"], data["frame_rate"], data["num_frames"]) == ("video.mp4", [40, 60], 4, NUM)
    assert data["times_s"] == [0, 0.25, 0.5, 0.75, 1]
    assert data["phrases"] == ["cat", "dog"]
    assert [side["title"] for side in data["sides"]] == ["before", "after"]
    assert [m["colour"] for m in data["sides"][0]["masklets"]] == [list(colour_of(0)), list(colour_of(4))]
    for frame, (left, right) in enumerate(data["frames"]):
        assert right == [] and [entry["id"] for entry in left] == ([0, 4] if frame in (2, 3) else [0])
        for entry in left:
            masklet = next(m for m in before if m.id == entry["id"])
            mask = Rle.from_json({"size": data["size"], "counts": entry["rle"]}).mask()
            np.testing.assert_array_equal(mask, masklet.mask(frame))
            assert entry["box_xyxy_px"] == list(map(float, masklet.rle(frame).box_xyxy_px))  # type: ignore[union-attr]
            assert entry["score"] == pytest.approx(0.9)
    late = replace(before[0], detection_score=0.5)
    single = player_data(open_video(frames), [Side("tiny", (late,))], "video.mp4")
    assert single["sides"][0]["masklets"][0]["detection_score"] == 0.5 and single["frame_rate"] == 25
