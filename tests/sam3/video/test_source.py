"""Frames by number: every frame of every kind of source is the right one, however it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sam3.video.source import BrokenFrameError, FrameSource, VideoError, open_video
from sam3.video.video_file import VideoFile

NUM, HEIGHT, WIDTH = 50, 64, 96


def stamped(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame that shows its number as eight black or white blocks, over a ground that moves."""
    rows, columns = np.mgrid[:height, :width]
    ground = (columns * 2 + number * 5) % 160 + 40
    frame = np.stack([ground, rows + 40, np.full_like(rows, 90)], axis=-1).astype(np.uint8)
    for bit in range(8):
        frame[8:24, 8 + 10 * bit : 16 + 10 * bit] = 255 * (number >> bit & 1)
    return frame


def number_on(frame: np.ndarray) -> int:
    return sum(int(frame[12:20, 10 + 10 * bit : 14 + 10 * bit].mean() > 128) << bit for bit in range(8))


def write_video(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.options = options or {}
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded_in_order(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


B_FRAMES = {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "b_frames": ("b.mp4", {"options": B_FRAMES}),
    "open_gop": ("open.mp4", {"options": OPEN_GOP}),
    "late_start": ("late.mp4", {"times": [number + 100 for number in range(NUM)]}),
    "variable_rate": ("vfr.mp4", {"times": [2 * number + number // 7 * 3 + number % 3 // 2 for number in range(NUM)]}),
    "one_key_frame": ("long.mp4", {"gop": 1000}),
    "mkv": ("b.mkv", {"options": B_FRAMES}),
    "mov": ("a.mov", {}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "mpeg_ts": ("a.ts", {"options": B_FRAMES}),
    "mjpeg": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
}


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [stamped(number) for number in range(NUM)]


@pytest.fixture(scope="module")
def videos(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {kind: write_video(folder / name, frames, **options) for kind, (name, options) in KINDS.items()}


@pytest.fixture()
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The key frames at which decoding began, as they come."""
    begun: list[int] = []
    original = VideoFile._decoded

    def counted(self: VideoFile, key: int) -> Iterator[tuple[int, Any]]:
        begun.append(key)
        return original(self, key)

    monkeypatch.setattr(VideoFile, "_decoded", counted)
    return begun


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_a_frame_of_a_file_gives_the_same_pixels(videos: dict[str, Path], kind: str) -> None:
    expected = decoded_in_order(videos[kind])
    assert [number_on(frame) for frame in expected] == list(range(NUM))
    with open_video(videos[kind], cached_frames=4) as source:
        assert source.num_frames == NUM
        assert source.size == (HEIGHT, WIDTH)
        forward = list(source)
        assert [number_on(frame) for frame in forward] == list(range(NUM))
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(forward, expected, strict=True)) <= 4
        order = np.random.default_rng(0).permutation(NUM)
        assert all(np.array_equal(source.frame(int(number)), forward[number]) for number in order)
        backward = list(source.frames(reverse=True))
        assert [number for number, _ in backward] == list(range(NUM))[::-1]
        assert all(np.array_equal(frame, forward[number]) for number, frame in backward)


def test_reading_forward_decodes_once(videos: dict[str, Path], decodings: list[int]) -> None:
    source = open_video(videos["b_frames"])
    for number, _ in source.frames():
        assert np.array_equal(source.frame(number), source.frame(number))
    assert decodings == [0]


def test_a_jump_decodes_from_the_key_frame_before_it_and_backward_reading_in_pieces(
    videos: dict[str, Path], decodings: list[int]
) -> None:
    source = open_video(videos["one_key_frame"], cached_frames=16)
    list(source.frames(reverse=True))
    assert len(decodings) <= 2 + NUM // 16
    decodings.clear()
    source = open_video(videos["b_frames"])
    source.frame(40)
    assert decodings == [0, 36]


def test_only_the_last_frames_are_kept(videos: dict[str, Path]) -> None:
    source = open_video(videos["b_frames"], cached_frames=5)
    list(source)
    assert isinstance(source._reader, VideoFile)
    assert len(source._reader._cache) == 5


def test_times_and_rates_of_files(videos: dict[str, Path]) -> None:
    for kind in ("b_frames", "late_start", "mkv"):
        source = open_video(videos[kind])
        assert source.frame_rate == pytest.approx(25, rel=0.03)
        assert source.timestamps_s is not None
        np.testing.assert_allclose(source.timestamps_s, np.arange(NUM) / 25, atol=1e-3)
    times = KINDS["variable_rate"][1]["times"]
    source = open_video(videos["variable_rate"])
    assert source.timestamps_s is not None
    np.testing.assert_allclose(source.timestamps_s, np.array(times) / 25, atol=1e-6)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_shown_upright(tmp_path: Path, frames: list[np.ndarray], degrees: int) -> None:
    path = write_video(tmp_path / "turned.mp4", frames[:5], rotation=degrees)
    source = open_video(path)
    assert source.size == ((WIDTH, HEIGHT) if degrees % 180 else (HEIGHT, WIDTH))
    stored = decoded_in_order(path)[3]
    assert np.abs(source.frame(3).astype(int) - np.rot90(stored, degrees // 90)).max() <= 4


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuvj444p"])
@pytest.mark.parametrize("space", ["ITU601", "ITU709", "BT2020"])
def test_colours_follow_the_matrix_and_the_range_of_the_file(tmp_path: Path, pix_fmt: str, space: str) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    colours = np.array([[255, 255, 255], [0, 0, 0], [220, 30, 40], [20, 200, 60], [30, 60, 230]], np.uint8)
    pixels = colours.repeat(16, axis=0)[None].repeat(32, axis=0)
    full = ColorRange.JPEG if pix_fmt.startswith("yuvj") else ColorRange.MPEG
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace[space], full
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=Colorspace[space], dst_color_range=full)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = open_video(path).frame(0)[16, 8::16]
    assert np.abs(shown.astype(int) - colours).max() <= 4


def test_a_folder_is_read_in_the_order_of_its_numbers_with_pillows_pixels(
    tmp_path: Path, frames: list[np.ndarray]
) -> None:
    for number in range(12):
        suffix = "jpg" if number % 2 else "png"
        Image.fromarray(frames[number]).save(tmp_path / f"frame{number}.{suffix}")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "._frame3.jpg").write_bytes(b"a trace of another system")
    with open_video(tmp_path, frame_rate=5) as source:
        assert (source.num_frames, source.size, source.frame_rate) == (12, (HEIGHT, WIDTH), 5)
        for number, frame in source.frames():
            suffix = "jpg" if number % 2 else "png"
            with Image.open(tmp_path / f"frame{number}.{suffix}") as picture:
                np.testing.assert_array_equal(frame, np.asarray(picture.convert("RGB")))


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, frames: list[np.ndarray]) -> None:
    Image.fromarray(frames[0]).save(tmp_path / "one.png")
    source = open_video(tmp_path / "one.png")
    assert [np.array_equal(frame, frames[0]) for frame in source] == [True]
    assert source.timestamps_s is None


@pytest.mark.parametrize("name", ["pages.tif", "moving.webp", "moving.png"])
def test_the_pages_of_a_picture_are_frames(tmp_path: Path, frames: list[np.ndarray], name: str) -> None:
    pages = [Image.fromarray(frame) for frame in frames[:6]]
    how = {} if name == "pages.tif" else {"duration": 200, "lossless": True}
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **how)
    with open_video(tmp_path / name) as source:
        assert (source.num_frames, source.size) == (6, (HEIGHT, WIDTH))
        assert source.frame_rate == (None if name == "pages.tif" else 5)
        assert [np.array_equal(source.frame(n), frames[n]) for n in (0, 1, 5, 2, 3)] == [True] * 5
    assert open_video(tmp_path / name, frame_rate=2).frame_rate == 2
    content = (tmp_path / name).read_bytes()
    for kept in (40, 2 * len(content) // 3):
        (tmp_path / name).write_bytes(content[:kept])
        with pytest.raises(VideoError, match="cannot be read|is not readable|broken"):
            source = open_video(tmp_path / name)
            for number in range(6):
                source.frame(number)


def test_smaller_copies_in_a_tiff_are_no_frames(tmp_path: Path, frames: list[np.ndarray]) -> None:
    pages = [Image.fromarray(frames[0]), Image.fromarray(frames[1]), Image.fromarray(frames[0][::2, ::2])]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    source = open_video(tmp_path / "scan.tif")
    assert source.num_frames == 2 and np.array_equal(source.frame(1), frames[1])
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[2:])
    assert open_video(tmp_path / "scan.tif").num_frames == 1


def test_an_empty_stream_says_so_each_time() -> None:
    source = open_video(iter([]))
    for _ in range(2):
        with pytest.raises(VideoError, match="ended without a frame"):
            _ = source.size


def test_a_second_picture_in_a_jpeg_is_no_frame(tmp_path: Path, frames: list[np.ndarray]) -> None:
    first, thumbnail = Image.fromarray(frames[0]), Image.fromarray(frames[0][::2, ::2])
    first.save(tmp_path / "phone.mpo", save_all=True, append_images=[thumbnail])
    (tmp_path / "phone.mpo").rename(tmp_path / "phone.jpg")
    assert open_video(tmp_path / "phone.jpg").num_frames == 1


def test_arrays_and_lists(frames: list[np.ndarray]) -> None:
    for video in (np.stack(frames), frames, [Image.fromarray(frame) for frame in frames]):
        source = open_video(video, frame_rate=2)
        assert source.num_frames == NUM
        assert [number_on(frame) for _, frame in source.frames(start=20, reverse=True)] == list(range(20, -1, -1))
        assert source.timestamps_s is not None and source.timestamps_s[3] == 1.5


def test_frames_may_not_be_written_to(videos: dict[str, Path], frames: list[np.ndarray]) -> None:
    array = np.stack(frames)
    for video in (array, frames, videos["mov"], iter(frames)):
        with pytest.raises(ValueError, match="read-only"):
            open_video(video).frame(0)[0] = 1
    array[0, 0, 0] = 7  # the caller's own array stays his


def test_a_stream_is_read_once_and_nothing_ahead(frames: list[np.ndarray]) -> None:
    given: list[int] = []
    buffer = np.empty_like(frames[0])

    def camera() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames):
            given.append(number)
            buffer[...] = frame
            yield buffer

    source = open_video(camera(), cached_frames=3)
    assert (source.num_frames, given) == (None, [])
    for number, frame in source.frames():
        assert given[-1] == number
        assert number_on(frame) == number
        if number == 20:
            assert [number_on(source.frame(back)) for back in (18, 19, 20)] == [18, 19, 20]
            with pytest.raises(VideoError, match="frame 17 of the stream has passed"):
                source.frame(17)
    assert source.num_frames == NUM
    with pytest.raises(IndexError, match="has 50 frames"):
        source.frame(NUM)


def test_a_streams_own_errors_are_not_taken_for_its_end() -> None:
    def failing() -> Iterator[np.ndarray]:
        yield stamped(0)
        raise IndexError("camera unplugged")

    with pytest.raises(IndexError, match="camera unplugged"):
        list(open_video(failing()))


def damaged_copy(path: Path, target: Path, number: int, *, is_cut: bool) -> Path:
    """The file with the packet of one frame overwritten: from its beginning, or from the middle of its pixels."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        packet = sorted(packets, key=lambda packet: packet.pts)[number]
        header = 720 if number == 0 else 8  # the first packet begins with the encoder's settings
        start, end = packet.pos + header, packet.pos + packet.size
        content = bytearray(path.read_bytes())
    start = (start + end) // 2 if is_cut else start
    content[start:end] = bytes(end - start)
    target.write_bytes(content)
    return target


def read_past_damage(source: FrameSource) -> tuple[list[int], list[int]]:
    """Numbers of the frames that came, and those that were broken when they were reached."""
    came, broken, start = [], [], 0
    while start is not None:
        try:
            for number, frame in source.frames(start):
                assert number_on(frame) == number
                came.append(number)
            return came, broken
        except BrokenFrameError as error:
            broken.append(error.frame)
            start = error.resume_at
    return came, broken


@pytest.mark.parametrize("number", [0, 17, 24, 49])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_broken_frame_is_named_after_all_before_it_and_reading_goes_on_at_the_next_key_frame(
    tmp_path: Path, number: int, is_cut: bool
) -> None:
    noise = np.random.default_rng(3).integers(0, 70, (NUM, HEIGHT, WIDTH, 3), dtype=np.uint8)
    noise[:, 4:28] = 0
    frames = [np.maximum(stamped(index), noise[index]) for index in range(NUM)]  # packets long enough to damage
    whole = write_video(tmp_path / "whole.mp4", frames, options={"x264-params": "bframes=0:scenecut=0"})
    source = open_video(damaged_copy(whole, tmp_path / "broken.mp4", number, is_cut=is_cut))
    came, broken = read_past_damage(source)
    next_key = -(-(number + 1) // 12) * 12
    assert broken == [number]
    assert came == [index for index in range(NUM) if index < number or index >= next_key]
    with pytest.raises(BrokenFrameError, match=f"frame {number} cannot be read"):
        source.frame(number)
    if number:
        assert number_on(source.frame(number - 1)) == number - 1


def test_a_broken_picture_in_a_folder(tmp_path: Path, frames: list[np.ndarray]) -> None:
    for number in range(6):
        Image.fromarray(frames[number]).save(tmp_path / f"{number:05d}.jpg")
    content = (tmp_path / "00003.jpg").read_bytes()
    (tmp_path / "00003.jpg").write_bytes(content[: len(content) // 2])
    assert read_past_damage(open_video(tmp_path)) == ([0, 1, 2, 4, 5], [3])
    (tmp_path / "00000.jpg").write_bytes(b"nothing")
    assert read_past_damage(open_video(tmp_path)) == ([1, 2, 4, 5], [0, 3])


def test_a_broken_frame_of_a_stream(frames: list[np.ndarray]) -> None:
    first_broken = open_video(iter([np.zeros(3, np.uint8), frames[1]]))  # type: ignore[arg-type]
    assert first_broken.size == (HEIGHT, WIDTH) and read_past_damage(first_broken) == ([1], [0])
    source = open_video(iter([frames[0], np.zeros((4, 4), np.float32), frames[2]]))  # type: ignore[arg-type]
    assert read_past_damage(source) == ([0, 2], [1])


def test_a_change_of_size_is_named(tmp_path: Path, frames: list[np.ndarray]) -> None:
    small = frames[1][:32]
    for video in (iter([frames[0], small]), [frames[0], small]):
        with pytest.raises(VideoError, match="frame 1 is 96x32, the video 96x64"):
            list(open_video(video))
    wide = write_video(tmp_path / "wide.ts", frames[:10], options={"x264-params": "bframes=0"})
    tall = [stamped(number, 96, 96) for number in range(10, 14)]
    tall_part = write_video(tmp_path / "tall.ts", tall, times=list(range(100, 104)))
    (tmp_path / "both.ts").write_bytes(wide.read_bytes() + tall_part.read_bytes())
    source, came = open_video(tmp_path / "both.ts"), []
    with pytest.raises(VideoError, match="frame 10 is 96x96, the video 96x64"):
        for number, _ in source.frames():
            came.append(number)
    assert came == list(range(10))


def test_what_cannot_be_read_says_why(tmp_path: Path, videos: dict[str, Path]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(videos["b_frames"].read_bytes()[:900])
    write_video(tmp_path / "h264.avi", [stamped(number) for number in range(8)], options=B_FRAMES)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for video, words in (
        (tmp_path / "missing.mp4", "does not exist"),
        (tmp_path / "empty", "holds no frames"),
        (tmp_path / "text.mp4", "cannot be opened"),
        (tmp_path / "cut.mp4", "cannot be opened"),
        (tmp_path / "h264.avi", "wrong about the times"),
        (tmp_path / "sound.mp4", "no video that can be decoded"),
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\)"),
        ([], "holds no frames"),
        (3, "received int"),
    ):
        with pytest.raises(VideoError, match=words):
            list(open_video(video))  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="without a frame"):
        list(open_video(iter([])))
    unreadable = np.zeros((4, 4), np.float32)
    for video, words in (
        (iter([unreadable] * 3), r"none of the first 3 frames can be read; the last: .*float32"),
        ((unreadable for _ in range(10**9)), r"none of the first 16 frames can be read"),
        ([tmp_path / "text.mp4"], r"none of 1 frames can be read; the last one: picture .*text\.mp4"),
    ):
        with pytest.raises(VideoError, match=words):
            _ = open_video(video).size  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has its own"):
        open_video(videos["mov"], frame_rate=5)
    with pytest.raises(ValueError, match="above 0"):
        open_video(videos["mov"], cached_frames=0)


@pytest.mark.parametrize("index", [-1, NUM])
def test_frames_out_of_range(videos: dict[str, Path], index: int) -> None:
    with pytest.raises(IndexError, match=rf"frame {index} was asked for, but .*50 frames \(0 to 49\)"):
        open_video(videos["mov"]).frame(index)


def test_numbers_that_are_none() -> None:
    source = open_video(iter([stamped(0)]))
    with pytest.raises(IndexError, match=r"frame -1 was asked for; frames of the stream are counted from 0"):
        source.frame(-1)
    with pytest.raises(ValueError, match=r"received 0\.5 for the number of a frame; expected a whole number"):
        source.frame(0.5)  # type: ignore[arg-type]
    assert number_on(source.frame(np.int64(0))) == 0  # type: ignore[arg-type]


def test_a_file_cut_short_gives_what_it_holds(tmp_path: Path, videos: dict[str, Path]) -> None:
    content = videos["mkv"].read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    came, broken = read_past_damage(open_video(tmp_path / "cut.mkv"))
    assert 20 < len(came) < NUM
    assert came == list(range(len(came)))
    assert broken in ([], [len(came)])


def test_a_closed_video_says_so(videos: dict[str, Path]) -> None:
    for video in (videos["mov"], np.zeros((3, 8, 8, 3), np.uint8)):
        source = open_video(video)
        before = source.frame(0).copy()
        source.close()
        assert np.array_equal(open_video(video).frame(0), before)
        with pytest.raises(VideoError, match="is closed; open it again to read frame 1"):
            source.frame(1)
