"""Overlay videos: the colours and times that were asked for, in a file that a browser plays."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sam3.rle import Rle
from sam3.video.results import Masklet, frame_result, masklet_of_rles
from sam3.video.source import open_video
from workbench.video_overlay import colour_of, paint_result, write_overlay

SIZE, NUM = (96, 128), 30
GROUND = (40, 90, 200)


def square(frame: int, y: int) -> Rle:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + 24, 10 + frame : 34 + frame] = True
    return Rle.of(mask)


@pytest.fixture()
def masklets() -> list[Masklet]:
    """Object 3 is there all the time, object 17 from frame 10 on."""
    return [
        masklet_of_rles(3, "cat", [square(frame, 10) for frame in range(NUM)]),
        masklet_of_rles(17, "dog", [square(frame, 60) if frame >= 10 else None for frame in range(NUM)]),
    ]


@pytest.fixture()
def frames() -> np.ndarray:
    return np.full((NUM, *SIZE, 3), GROUND, dtype=np.uint8)


def boxes_of(path: Path) -> list[str]:
    """The names of the top-level boxes of an mp4, in order."""
    content, place, names = path.read_bytes(), 0, []
    while place < len(content):
        names.append(content[place + 4 : place + 8].decode("ascii"))
        place += int.from_bytes(content[place : place + 4], "big")
    return names


def test_the_file_is_what_browsers_play(tmp_path: Path, frames: np.ndarray, masklets: list[Masklet]) -> None:
    path = write_overlay(open_video(frames, frame_rate=10), masklets, tmp_path / "overlay.mp4")
    names = boxes_of(path)
    assert names.index("moov") < names.index("mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert (context.width, context.height, context.colorspace, context.color_range) == (128, 96, 1, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["overlay.mp4"]


def test_every_frame_shows_its_own_objects_in_their_colours(
    tmp_path: Path, frames: np.ndarray, masklets: list[Masklet]
) -> None:
    path = write_overlay(open_video(frames, frame_rate=10), masklets, tmp_path / "overlay.mp4", has_tags=False, fill=1)
    shown = open_video(path)
    assert shown.num_frames == NUM and shown.frame_rate == pytest.approx(10)
    for number, frame in shown.frames():
        for y, id_, is_seen in ((22, 3, True), (72, 17, number >= 10)):
            colour = frame[y, 22 + number].astype(int)
            assert np.abs(colour - (colour_of(id_) if is_seen else GROUND)).max() <= 6
    assert colour_of(3) != colour_of(17)


def test_times_of_a_file_are_kept_and_a_rate_is_used_where_there_are_none(
    tmp_path: Path, frames: np.ndarray, masklets: list[Masklet]
) -> None:
    times = [0, 1, 5, 6, 20]
    with av.open(str(tmp_path / "vfr.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for time in times:
            frame = av.VideoFrame.from_ndarray(frames[0], format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    again = open_video(write_overlay(open_video(tmp_path / "vfr.mp4"), [], tmp_path / "again.mp4"))
    assert again.timestamps_s is not None
    np.testing.assert_allclose(again.timestamps_s, np.array(times) / 25, atol=1e-4)
    live = open_video(iter(frames[:6]))
    slow = open_video(write_overlay(live, masklets, tmp_path / "slow.mp4", frame_rate=4))
    assert slow.timestamps_s is not None
    np.testing.assert_allclose(slow.timestamps_s, np.arange(6) / 4, atol=1e-4)


def test_odd_sides_grow_by_a_pixel(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 33, 47, 3), dtype=np.uint8)
    assert open_video(write_overlay(open_video(frames), [], tmp_path / "odd.mp4")).size == (34, 48)


def test_a_frame_that_cannot_be_read_shows_the_one_before(tmp_path: Path, masklets: list[Masklet]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", SIZE[::-1], (40 * number, 90, 200)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"broken")
    (folder / "4.png").write_bytes(b"broken")
    shown = list(open_video(write_overlay(open_video(folder), masklets, tmp_path / "overlay.mp4", fill=1)))
    assert [round(int(frame[50, 5, 0]) / 40) for frame in shown] == [0, 1, 1, 3, 3]
    assert np.abs(shown[3][22, 25].astype(int) - colour_of(3)).max() <= 6
    assert np.abs(shown[4][22, 25].astype(int) - (120, 90, 200)).max() <= 6


def test_painting_leaves_the_frame_alone_and_writes_tags(frames: np.ndarray, masklets: list[Masklet]) -> None:
    result = frame_result(masklets, 12)
    painted, plain = (paint_result(frames[12], result, has_tags=has_tags) for has_tags in (True, False))
    assert (frames[12] == GROUND).all()
    assert (painted != plain).any() and (plain != frames[12]).any()


def test_masklets_of_another_size_are_refused(tmp_path: Path, masklets: list[Masklet]) -> None:
    with pytest.raises(ValueError, match=r"masklets are \(96, 128\), the video \(20, 20\)"):
        write_overlay(open_video(np.zeros((2, 20, 20, 3), np.uint8)), masklets, tmp_path / "overlay.mp4")
    assert not (tmp_path / "overlay.mp4").exists()


PLAYER = """async ({data, times}) => {
  const video = document.createElement("video");
  video.muted = true;
  video.src = "data:video/mp4;base64," + data;
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error("cannot play: " + video.error.message));
  });
  const canvas = Object.assign(document.createElement("canvas"), {width: video.videoWidth, height: video.videoHeight});
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const seen = [];
  for (const time of times) {
    // The frame may be there only some moments after the end of seeking; what was there before is transparent or old.
    const painted = new Promise(done => video.requestVideoFrameCallback(done));
    await new Promise(done => { video.onseeked = done; video.currentTime = time; });
    await Promise.race([painted, new Promise(done => setTimeout(done, 2000))]);
    pen.drawImage(video, 0, 0);
    seen.push(Array.from(pen.getImageData(0, 0, canvas.width, canvas.height).data));
  }
  video.currentTime = 0;
  await video.play();
  await new Promise(done => { video.onended = done; });
  return {width: canvas.width, height: canvas.height, duration: video.duration, end: video.currentTime, seen};
}"""


@pytest.fixture()
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.browser
def test_chromium_plays_seeks_and_shows_the_same_colours(
    tmp_path: Path,
    frames: np.ndarray,
    masklets: list[Masklet],
    page: Any,
) -> None:
    path = write_overlay(open_video(frames, frame_rate=15), masklets, tmp_path / "overlay.mp4", has_tags=False, fill=1)
    numbers = [0, 25, 9, 10]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    played = page.evaluate(PLAYER, {"data": data, "times": [(n + 0.5) / 15 for n in numbers]})
    assert (played["width"], played["height"]) == (128, 96)
    assert played["duration"] == pytest.approx(2, abs=0.01) and played["end"] == pytest.approx(2, abs=0.05)
    source = open_video(path)
    for number, pixels in zip(numbers, played["seen"], strict=True):
        shown = np.array(pixels, dtype=int).reshape(96, 128, 4)[..., :3]
        inside = shown[14:30, 14 + number : 30 + number]
        assert np.abs(inside.mean(axis=(0, 1)) - colour_of(3)).max() <= 8
        other = shown[64:80, 14 + number : 30 + number]
        assert np.abs(other.mean(axis=(0, 1)) - (colour_of(17) if number >= 10 else GROUND)).max() <= 8
        distances = [float(np.abs(shown - frame).mean()) for frame in source]
        assert np.argmin(distances) == number and distances[number] < 3


@pytest.mark.browser
@pytest.mark.parametrize("degrees", [90, 270])
def test_a_turned_video_stands_as_chromium_shows_it(tmp_path: Path, page: Any, degrees: int) -> None:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[:32, 48:], pixels[32:, :48] = (220, 30, 40), (20, 200, 60), (30, 60, 230)
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.set_display_rotation(degrees)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = base64.b64encode((tmp_path / "turned.mp4").read_bytes()).decode("ascii")
    played = page.evaluate(PLAYER, {"data": data, "times": [0.1]})
    shown = np.array(played["seen"][0], dtype=int).reshape(played["height"], played["width"], 4)[..., :3]
    assert shown.shape == (96, 64, 3)
    assert np.abs(shown - open_video(tmp_path / "turned.mp4").frame(2)).mean() < 6
