"""Frames of a video, read one at a time: folders of pictures, video files, arrays and live streams look the same here.

A path, an array or an iterator comes in; frames by number, the size, the rate and the times go out. At no time are all
frames in memory.
"""

from __future__ import annotations

import operator
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam3.pictures import Picture, read_picture, shown_size
from sam3.video.video_file import BrokenFrameError, VideoError, VideoFile

__all__ = ["BrokenFrameError", "FrameSource", "Video", "VideoError", "natural_key", "open_video", "whole"]

Video = str | Path | NDArray[np.uint8] | Sequence[Picture] | Iterable[Picture]

_NO_FRAME = "the stream has ended without a frame; expected at least one"
_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError)
_PAGED_SUFFIXES = {".png", ".tif", ".tiff", ".webp"}  # a second picture in a JPEG is a thumbnail or a depth map


class _Reader(Protocol):
    @property
    def num_frames(self) -> int | None: ...
    @property
    def size(self) -> tuple[int, ...]: ...
    def read(self, index: int) -> NDArray[np.uint8]: ...
    def close(self) -> None: ...


class FrameSource:
    """The frames of one video; made by `open_video`. Use it in a `with` block, or call `close`.

    Iterating over it yields the frames in order. All frames are (H,W,3) uint8 RGB and may not be written to.

    Attributes:
        num_frames: None while a stream has not ended.
        size: (H, W) in pixels, the same for all frames.
        frame_rate: frames per second; None where nobody said.
        timestamps_s: (F,) float64 seconds since the first frame; None where the rate or the length is unknown.

    Example:
        >>> source = open_video(np.zeros((5, 32, 48, 3), np.uint8), frame_rate=10)
        >>> source.num_frames, source.size, source.timestamps_s.tolist()
        (5, (32, 48), [0.0, 0.1, 0.2, 0.3, 0.4])
        >>> [number for number, _ in source.frames(3, reverse=True)]
        [3, 2, 1, 0]
    """

    def __init__(self, reader: _Reader, where: str, frame_rate: float | None) -> None:
        self._reader = reader
        self._where = where
        self._frame_rate = frame_rate
        self._is_closed = False

    @property
    def num_frames(self) -> int | None:
        return self._reader.num_frames

    @cached_property
    def size(self) -> tuple[int, int]:
        height, width = self._reader.size
        return height, width

    @property
    def frame_rate(self) -> float | None:
        return self._reader.frame_rate if isinstance(self._reader, VideoFile) else self._frame_rate

    @property
    def timestamps_s(self) -> NDArray[np.float64] | None:
        if isinstance(self._reader, VideoFile):
            return self._reader.timestamps_s
        if self.num_frames is None or self._frame_rate is None:
            return None
        return np.arange(self.num_frames) / self._frame_rate

    def frame(self, index: int) -> NDArray[np.uint8]:
        """One frame as (H,W,3) uint8 RGB, read-only.

        Args:
            index: from 0. A stream can only be asked for its next frames and for the last few it has given.

        Raises:
            ValueError: the number is no whole one.
            IndexError: the video has no such frame.
            BrokenFrameError: the frame cannot be read; says where reading can go on.
            VideoError: the frame has another size than the others, or a stream no longer has it, or the source is
                closed.
        """
        if self._is_closed:
            raise VideoError(f"{self._where} is closed; open it again to read frame {index}")
        index = self.checked(index)
        frame = self._reader.read(index)
        if frame.shape[:2] != self.size:
            raise VideoError(
                f"{self._where}: frame {index} is {frame.shape[1]}x{frame.shape[0]}, the video {self.size[1]}x"
                f"{self.size[0]} (width x height); expected one size. Cut the video there, or resize its frames."
            )
        frame = frame.view()
        frame.flags.writeable = False
        return frame

    def checked(self, index: int) -> int:
        """The number of a frame, when the video may have it: a stream that has not ended may have any.

        Raises:
            ValueError: it is no whole number.
            IndexError: the video has no such frame.
        """
        index, num_frames = whole(index, "the number of a frame"), self.num_frames
        if index < 0 and num_frames is None:
            raise IndexError(f"frame {index} was asked for; frames of {self._where} are counted from 0")
        if num_frames is not None and not 0 <= index < num_frames:
            raise IndexError(
                f"frame {index} was asked for, but {self._where} has {num_frames} frames (0 to {num_frames - 1}); "
                "expected a number inside the video"
            )
        return index

    def frames(self, start: int | None = None, *, reverse: bool = False) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Numbers and frames from `start` to the end, or back to frame 0; nothing is read ahead.

        Args:
            start: the first to give; the first of the video when left out, or the last one in reverse.
            reverse: backward in time.

        Raises:
            As `frame`. After a `BrokenFrameError` ask anew with `start=error.resume_at`.
            VideoError: in reverse without a start, and the length is unknown.
        """
        if reverse:
            if start is None and self.num_frames is None:
                raise VideoError(f"{self._where} has no known end to go back from; expected a start frame")
            last = start if start is not None else (self.num_frames or 0) - 1
            yield from ((index, self.frame(index)) for index in range(last, -1, -1))
            return
        for index in count(start or 0):
            if index == self.num_frames:
                return
            try:
                frame = self.frame(index)
            except IndexError:
                if index == self.num_frames:  # the stream has ended while its next frame was asked for
                    return
                raise
            yield index, frame

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (frame for _, frame in self.frames())

    def close(self) -> None:
        """Lets go of the file; the frames already given stay valid, others can no longer be read."""
        self._is_closed = True
        self._reader.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(video: Video, *, frame_rate: float | None = None, cached_frames: int = 16) -> FrameSource:
    """The frames of a video, to be read one at a time.

    Args:
        video: a folder of JPEG or PNG frames, taken in the order of the numbers in their names; a video file (mp4, mov,
            webm and what else PyAV opens); one picture file, whose pages are the frames (TIFF, animated WebP and PNG);
            an array (F,H,W,3) uint8 RGB; a list of pictures; or any iterator of pictures, such as a camera: it is
            read once, each frame when it is asked for.
        frame_rate: frames per second of anything but a video file, which knows its own.
        cached_frames: how many of the last frames of a video file or stream are kept, at least 1.

    Raises:
        VideoError: there is nothing that can be read, or there are no frames.
        ValueError: a rate for a file that has its own, or numbers that make no sense.
    """
    if cached_frames < 1 or (frame_rate is not None and not frame_rate > 0):
        raise ValueError(
            f"received frame_rate={frame_rate} and cached_frames={cached_frames}; expected numbers above 0"
        )
    if isinstance(video, str | Path):
        path = Path(video)
        if path.is_dir():
            return FrameSource(_Pictures(_pictures_in(path), str(path)), str(path), frame_rate)
        if path.suffix.lower() in _PAGED_SUFFIXES and path.exists():
            pages = _Pages(path)
            return FrameSource(pages, str(path), frame_rate or pages.frame_rate)
        if path.suffix.lower() in _PICTURE_SUFFIXES:
            return FrameSource(_Pictures([path], str(path)), str(path), frame_rate)
        if frame_rate is not None:
            raise ValueError(f"received frame_rate={frame_rate} for {path}; a video file has its own, so leave it out")
        return FrameSource(VideoFile(path, cached_frames), str(path), None)
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or 0 in video.shape:
            raise VideoError(
                f"received an array of shape {video.shape} and type {video.dtype}; expected (F,H,W,3) uint8 RGB with "
                "at least one frame"
            )
        return FrameSource(_Array(video), "the array", frame_rate)
    if isinstance(video, Sequence):
        return FrameSource(_Pictures(video, "the list of frames"), "the list of frames", frame_rate)
    if not isinstance(video, Iterable):
        raise VideoError(f"received {type(video).__name__}; expected a path, an array or an iterator of frames")
    return FrameSource(_Stream(iter(video), cached_frames), "the stream", frame_rate)


def _pictures_in(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() in _PICTURE_SUFFIXES and path.name[0] != "."]
    if not files:
        raise VideoError(f"{folder} holds no frames; expected pictures named in order, such as 00000.jpg, 00001.jpg")
    return sorted(files, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[str | int]:
    """What to sort file names by, so that numbers in them count as numbers.

    Example:
        >>> sorted(["frame10.png", "frame9.png"], key=natural_key)
        ['frame9.png', 'frame10.png']
    """
    return [int(part) if place % 2 else part.lower() for place, part in enumerate(re.split(r"([0-9]+)", name))]


class _Array:
    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._frames = frames
        self.num_frames, self.size = len(frames), frames.shape[1:3]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._frames[index]

    def close(self) -> None:
        pass


class _Pictures:
    """Pictures that can be read in any order, at any time."""

    def __init__(self, pictures: Sequence[Picture], where: str) -> None:
        if not pictures:
            raise VideoError(f"{where} holds no frames; expected at least one")
        self._pictures, self._where = pictures, where
        self.num_frames = len(pictures)

    @cached_property
    def size(self) -> tuple[int, int]:
        """That of the first picture that can be read."""
        reason = ""
        for picture in self._pictures:
            try:
                if isinstance(picture, str | Path):
                    width, height = shown_size(picture)
                    return height, width
                pixels = read_picture(picture)
                return pixels.shape[0], pixels.shape[1]
            except ValueError as error:
                reason = str(error)
        raise VideoError(f"{self._where}: none of {self.num_frames} frames can be read; the last one: {reason}")

    def read(self, index: int) -> NDArray[np.uint8]:
        try:
            return read_picture(self._pictures[index])
        except ValueError as error:
            resume_at = index + 1 if index + 1 < self.num_frames else None
            raise BrokenFrameError(self._where, index, resume_at, str(error)) from error

    def close(self) -> None:
        pass


class _Pages:
    """The pages of one picture file; a picture of one page is a video of one frame."""

    def __init__(self, path: Path) -> None:
        try:
            width, height = shown_size(path)
            self._file, self._path = Image.open(path), path
            self.num_frames, self.size = self._num_alike(), (height, width)
            if self.num_frames > 1:
                self._file.seek(0)
                self._file.load()  # only then WebP says how long a frame is shown
        except _UNREADABLE as error:
            raise VideoError(f"{path} cannot be read: {error}") from error
        shown_ms = self._file.info.get("duration")
        self.frame_rate = 1000 / shown_ms if shown_ms else None

    def _num_alike(self) -> int:
        """Pages up to the first of another size: what follows in a TIFF then are copies in smaller sizes."""
        num_pages = int(getattr(self._file, "n_frames", 1))
        if self._file.format != "TIFF":
            return num_pages
        size = self._file.size
        for page in range(1, num_pages):
            self._file.seek(page)
            if self._file.size != size:
                return page
        return num_pages

    def read(self, index: int) -> NDArray[np.uint8]:
        try:
            self._file.seek(index)
            return read_picture(ImageOps.exif_transpose(self._file))
        except _UNREADABLE as error:
            resume_at = index + 1 if index + 1 < self.num_frames else None
            raise BrokenFrameError(str(self._path), index, resume_at, str(error)) from error

    def close(self) -> None:
        self._file.close()


class _Stream:
    """Frames that come once, in order; the last few are kept."""

    def __init__(self, frames: Iterator[Picture], cached_frames: int) -> None:
        self._frames = frames
        self._last: deque[NDArray[np.uint8] | BrokenFrameError] = deque(maxlen=cached_frames)
        self._num_read = 0
        self.num_frames: int | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """That of the first frame that can be read; all those before it must still be there."""
        while not (readable := [frame for frame in self._last if not isinstance(frame, BrokenFrameError)]):
            if self.num_frames == 0:
                raise VideoError(_NO_FRAME)
            if self.num_frames is not None or self._num_read == self._last.maxlen:
                raise VideoError(f"none of the first {self._num_read} frames can be read; the last: {self._last[-1]}")
            try:
                self._read_next()
            except IndexError:
                if self.num_frames is None:  # an error of the stream itself, not its end
                    raise
        return readable[0].shape[:2]

    def read(self, index: int) -> NDArray[np.uint8]:
        if index < self._num_read - len(self._last):
            raise VideoError(
                f"frame {index} of the stream has passed; the last {len(self._last)} frames before {self._num_read} "
                "are kept. Keep more with cached_frames, or save the stream to a file first."
            )
        while self._num_read <= index:
            self._read_next()
        frame = self._last[index - self._num_read]
        if isinstance(frame, BrokenFrameError):
            raise frame
        return frame

    def _read_next(self) -> None:
        try:
            picture = next(self._frames)
        except StopIteration:
            self.num_frames = self._num_read
            if not self._num_read:
                raise VideoError(_NO_FRAME) from None
            raise IndexError(f"the stream has ended after {self._num_read} frames") from None
        number, self._num_read = self._num_read, self._num_read + 1
        try:
            self._last.append(np.array(read_picture(picture)))  # a camera may use its buffer again
        except ValueError as error:
            self._last.append(BrokenFrameError("the stream", number, number + 1, str(error)))

    def close(self) -> None:
        pass


def whole(value: int, name: str) -> int:
    """A whole number, such as one of numpy, as an int.

    Raises:
        ValueError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"received {value!r} for {name}; expected a whole number") from error
