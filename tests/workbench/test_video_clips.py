"""Clips from every kind of source: rendered, labelled files with their frames, and plain videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3.video.source import open_video
from workbench.video_clips import VideoClip, labelled_clips, plain_clips, rendered_clips
from workbench.video_files import VideoLabels, write_mask_pngs, write_videos
from workbench.video_overlay import write_overlay


@pytest.fixture(scope="module")
def rendered() -> list[VideoClip]:
    return rendered_clips(2, seed=3, num_frames=4, size=64)


def write_frames(clip: VideoClip, folder: Path) -> Path:
    folder.mkdir(parents=True)
    with clip.open() as source:
        for number, frame in source.frames():
            Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


def truth_of(clip: VideoClip) -> VideoLabels:
    assert clip.truth is not None
    return clip.truth


def test_rendered_clips_start_alike_and_ask_for_absent_phrases(rendered: list[VideoClip]) -> None:
    (first,) = rendered_clips(1, seed=3, num_frames=4, size=64)
    np.testing.assert_array_equal(first.video, rendered[0].video)
    assert [clip.name for clip in rendered] == ["clips-3-0000", "clips-3-0001"]
    present = {masklet.phrase for masklet in truth_of(first).masklets}
    assert present < set(first.phrases)
    with pytest.raises(ValueError, match="received 0 clips"):
        rendered_clips(0, seed=3)


def test_frames_of_a_json_are_found_as_folders_files_and_names(tmp_path: Path, rendered: list[VideoClip]) -> None:
    path = write_videos([truth_of(clip) for clip in rendered], tmp_path / "labels.json")
    videos = tmp_path / "videos"
    write_frames(rendered[0], videos / rendered[0].name)
    with rendered[1].open() as source:
        write_overlay(source, [], videos / f"{rendered[1].name}.mp4")
    folder, file = labelled_clips(path, videos, frame_rate=12)
    assert (folder.frame_rate, file.frame_rate) == (12, None)
    assert folder.phrases == rendered[0].phrases
    for clip, original in ((folder, rendered[0]), (file, rendered[1])):
        with clip.open() as source, original.open() as expected:
            gap = np.abs(source.frame(2).astype(int) - expected.frame(2)).mean()
            assert source.num_frames == 4 and gap < (1e-9 if clip is folder else 12)
    named = VideoLabels(
        "other", 4, (64, 64), truth_of(rendered[0]).masklets, (), tuple(f"a/{n:05d}.png" for n in range(4))
    )
    write_videos([named], tmp_path / "named.json")
    write_frames(rendered[0], tmp_path / "pictures" / "a")
    (by_name,) = labelled_clips(tmp_path / "named.json", tmp_path / "pictures")
    assert [path.name for path in by_name.video] == [f"{n:05d}.png" for n in range(4)]  # type: ignore[union-attr]
    (tmp_path / "videos" / f"{rendered[1].name}.mp4").unlink()
    with pytest.raises(ValueError, match=f"the frames of video '{rendered[1].name}' are not in"):
        labelled_clips(path, videos)


def test_mask_folders_come_with_their_frames(tmp_path: Path, rendered: list[VideoClip]) -> None:
    labels, frames = tmp_path / "masks", tmp_path / "frames"
    for clip in rendered:
        write_mask_pngs(truth_of(clip), labels / clip.name)
        write_frames(clip, frames / clip.name)
    assert [clip.name for clip in labelled_clips(labels, frames)] == [clip.name for clip in rendered]
    name = rendered[0].name
    (single,) = labelled_clips(labels / name, frames / name)
    assert single.open().num_frames == 4
    (frames / name / "00003.png").unlink()
    with pytest.raises(ValueError, match="has 3 frames .* its labels are for 4"):
        single.open()


def test_plain_videos_are_files_folders_and_folders_of_these(tmp_path: Path, rendered: list[VideoClip]) -> None:
    write_frames(rendered[0], tmp_path / "clip10")
    write_overlay(open_video(rendered[1].video), [], tmp_path / "clip9.mp4")
    (tmp_path / "notes.txt").write_text("not a video")
    clips = plain_clips(tmp_path, ["red circle"], frame_rate=5)
    assert [(clip.name, clip.truth, clip.frame_rate) for clip in clips] == [("clip9", None, None), ("clip10", None, 5)]
    assert [clip.name for clip in plain_clips(tmp_path / "clip10", ["star"])] == ["clip10"]
    assert plain_clips(tmp_path / "clip9.mp4", ["star"])[0].open().num_frames == 4
    with pytest.raises(ValueError, match="nothing is asked"):
        plain_clips(tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        plain_clips(tmp_path / "missing.mp4", ["star"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither pictures nor videos"):
        plain_clips(tmp_path / "empty", ["star"])
    (tmp_path / "clip9.mp4").rename(tmp_path / "clip10" / "clip9.mp4")
    with pytest.raises(ValueError, match=r"holds pictures and videos, such as clip9\.mp4; expected one kind"):
        plain_clips(tmp_path / "clip10", ["star"])


def test_a_picture_with_pages_takes_a_rate_and_a_video_keeps_its_own(tmp_path: Path, rendered: list[VideoClip]) -> None:
    pages = [Image.fromarray(frame) for frame in np.asarray(rendered[0].video)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "moving.gif", save_all=True, append_images=pages[1:], duration=100)
    (stack,) = plain_clips(tmp_path / "stack.tif", ["star"], frame_rate=5)
    (moving,) = plain_clips(tmp_path / "moving.gif", ["star"], frame_rate=5)
    assert [(clip.open().num_frames, clip.open().frame_rate) for clip in (stack, moving)] == [(4, 5), (4, 10)]


def test_a_stream_is_no_clip() -> None:
    frames = iter(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="stream without end"):
        VideoClip("live", frames, ("star",)).open()
