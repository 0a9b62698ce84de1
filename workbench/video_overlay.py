"""Masklets painted on their video, as an mp4 that every browser plays.

A frame source and masklets come in; an H.264 file goes out. Frames are read, painted and written one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from sam3.files import write_atomically
from sam3.video.results import FrameResult, Masklet, frame_result
from sam3.video.source import BrokenFrameError, FrameSource
from workbench.paint import PALETTE, Colour, overlay

_TICKS_PER_SECOND = 90_000
_BT709, _LIMITED_RANGE, _FULL_RANGE = 1, 1, 2


def colour_of(masklet_id: int) -> Colour:
    """The colour of an object, the same in every frame, video and page."""
    return PALETTE[masklet_id % len(PALETTE)]


def paint_result(frame: np.ndarray, result: FrameResult, *, has_tags: bool = True, fill: float = 0.4) -> np.ndarray:
    """A frame with its objects drawn on it, each in the colour of its id.

    Args:
        frame: (H,W,3) uint8 RGB; is not changed.
        result: what was seen in it.
        has_tags: write phrase and id beside each object.
        fill: 0 (outline only) to 1 (opaque).

    Returns:
        (H,W,3) uint8.
    """
    ids = result.ids.tolist()
    tags = [f"{phrase or 'object'} {id_}" if has_tags else "" for phrase, id_ in zip(result.phrases, ids, strict=True)]
    return overlay(frame, result.masks, labels=tags, colours=[colour_of(id_) for id_ in ids], fill=fill)


def write_overlay(
    video: FrameSource,
    masklets: Sequence[Masklet],
    path: str | Path,
    *,
    frame_rate: float = 25.0,
    has_tags: bool = True,
    fill: float = 0.4,
) -> Path:
    """Writes the video with its masklets as an mp4 (H.264, yuv420p, index first) that plays while it loads.

    Args:
        video: from `open_video`; read once, forward.
        masklets: of this video; none gives the bare video.
        path: of the mp4.
        frame_rate: frames per second where the source knows none. A video file keeps the times of its frames.
        has_tags: write phrase and id beside each object.
        fill: 0 (outline only) to 1 (opaque).

    Returns:
        The path. A frame that cannot be read shows the one before it, unpainted. Odd sides grow by one pixel.

    Raises:
        ValueError: masklets of another size than the video, or a video of which no frame can be read.
    """
    if masklets and tuple(masklets[0].image_size) != video.size:
        raise ValueError(
            f"masklets are {masklets[0].image_size}, the video {video.size} (height, width); expected the same size. "
            "Check that they belong to this video."
        )

    def painted(number: int | None, frame: np.ndarray) -> np.ndarray:
        if number is None or not masklets:
            return frame
        return paint_result(frame, frame_result(masklets, number), has_tags=has_tags, fill=fill)

    rate = video.frame_rate or frame_rate
    write_mp4(((time, painted(number, frame)) for time, number, frame in timed_frames(video, rate)), path, rate)
    return Path(path)


def timed_frames(video: FrameSource, frame_rate: float) -> Iterator[tuple[float, int | None, np.ndarray]]:
    """Time in seconds, number and pixels of every frame; one that cannot be read is the one before, without a number.

    Args:
        video: from `open_video`; read once, forward.
        frame_rate: where the source knows no times.
    """

    def time_of(number: int) -> float:
        return number / frame_rate if times is None else float(times[number])

    times = video.timestamps_s
    last, start = np.zeros((*video.size, 3), np.uint8), 0
    while True:
        try:
            for number, frame in video.frames(start):
                yield time_of(number), number, frame
                last, start = frame, number + 1
            return
        except BrokenFrameError as error:
            end = error.resume_at or video.num_frames or start
        yield from ((time_of(number), None, last) for number in range(start, end))
        if end == video.num_frames or end == start:
            return
        start = end


def write_mp4(frames: Iterator[tuple[float, np.ndarray]], path: str | Path, frame_rate: float) -> None:
    """Writes times in seconds and (H,W,3) uint8 pixels as an mp4 that plays while it loads; odd sides grow by one."""
    write_atomically(path, lambda temporary: _encode(frames, temporary, frame_rate))


def _encode(frames: Iterator[tuple[float, np.ndarray]], path: Path, frame_rate: float) -> None:
    import av

    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = None
        for time, pixels in frames:
            pixels = _even(pixels)
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"preset": "veryfast", "crf": "20", "profile": "high"}
                context = stream.codec_context
                context.time_base = Fraction(1, _TICKS_PER_SECOND)
                context.gop_size = 24  # players seek to key frames
                context.colorspace, context.color_range = _BT709, _LIMITED_RANGE
                context.color_primaries, context.color_trc = _BT709, _BT709
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                format="yuv420p", src_color_range=_FULL_RANGE, dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
            )
            frame.time_base = Fraction(1, _TICKS_PER_SECOND)
            frame.pts = round(time * _TICKS_PER_SECOND)
            frame.duration = round(_TICKS_PER_SECOND / frame_rate)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())


def _even(pixels: np.ndarray) -> np.ndarray:
    """H.264 in yuv420p has even sides: the last row and column are repeated where needed."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else pixels
