"""One video file: an index of its frames, and exact access to each of them, with nothing kept but the last few.

A path comes in; pictures by number, timestamps and the frame rate go out. The packets are listed once, without decoding
them; a frame is then reached from the key frame before it. Reading forward decodes every frame once.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Values of the H.273 standard as FFmpeg numbers them.
_BT709, _BT601, _UNSPECIFIED = 1, 5, 2
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_HD_HEIGHT_PX = 720  # where nothing is said, players take larger pictures for BT.709 and smaller ones for BT.601


class VideoError(ValueError):
    """A video cannot be read, or not in the way that was asked for."""


class BrokenFrameError(VideoError):
    """One frame cannot be read; the ones before it can.

    Attributes:
        frame: its number.
        resume_at: the first frame behind it where reading can go on; None when there is none.
    """

    def __init__(self, where: str, frame: int, resume_at: int | None, reason: str) -> None:
        going_on = "it is the last part of the video" if resume_at is None else f"read on at frame {resume_at}"
        super().__init__(f"{where}: frame {frame} cannot be read ({reason}); {going_on}, or repair the video.")
        self.frame = frame
        self.resume_at = resume_at


class VideoFile:
    """The frames of a video file in the order they are shown, each turned upright.

    Args:
        path: anything PyAV opens: mp4, mov, webm, mkv, avi ...
        cached_frames: how many decoded frames are kept for reading backward.

    Raises:
        VideoError: the file is missing, holds no video, or says no unique time for each frame.
    """

    def __init__(self, path: Path, cached_frames: int) -> None:
        self._path = path
        self._cached_frames = cached_frames
        self._container, self._stream = _opened(path)
        self._cache: OrderedDict[int, VideoFrame] = OrderedDict()
        self._running: Iterator[tuple[int, VideoFrame]] | None = None
        self._next = 0
        self._damage = "it is missing"
        self._list_frames()
        if self._container.format.name == "avi":  # stores no times, so FFmpeg's guess has to prove itself
            deque(islice(self._decoded(0), 32), maxlen=0)
        self._turn = _turn_of(self._first_whole_frame())
        self.size = self.read(next(iter(self._cache))).shape[:2]

    @property
    def num_frames(self) -> int:
        return len(self._times)

    @property
    def frame_rate(self) -> float | None:
        """Frames per second on average; None for a single frame of a file that does not say."""
        rate = self._stream.average_rate
        if rate:
            return float(rate)
        seconds = self.timestamps_s[-1]
        return float((self.num_frames - 1) / seconds) if seconds > 0 else None

    @property
    def timestamps_s(self) -> NDArray[np.float64]:
        """(F,) seconds since the first frame."""
        return (self._times - self._times[0]) * self._seconds

    def read(self, index: int) -> NDArray[np.uint8]:
        """One frame as (H,W,3) RGB.

        Raises:
            BrokenFrameError: it cannot be decoded, or hangs on a frame that cannot.
        """
        if index not in self._cache:
            self._decode_until(index)
        if index not in self._cache:
            behind = self._keys[self._keys > index]
            raise BrokenFrameError(str(self._path), index, int(behind[0]) if len(behind) else None, self._damage)
        return np.ascontiguousarray(self._turn(_rgb(self._cache[index])))

    def close(self) -> None:
        self._running = None
        self._cache.clear()
        self._container.close()

    def _list_frames(self) -> None:
        """Time of every frame in the order they are shown, and where decoding can begin; read from the packets."""
        packets = [packet for packet in self._container.demux(self._stream) if packet.size and not packet.is_discard]
        begin = next((number for number, packet in enumerate(packets) if packet.is_keyframe), len(packets))
        first = packets[begin].pts if begin < len(packets) else None
        if first is None:
            raise VideoError(f"{self._path} holds no frame that can be decoded; expected a video. Save it anew as mp4.")
        # What is shown before the first key frame hangs on frames that are not there.
        shown = [packet for packet in packets[begin:] if packet.pts is None or packet.pts >= first]
        times = sorted({packet.pts for packet in shown if packet.pts is not None})
        if len(times) < len(shown):
            raise VideoError(
                f"{self._path}: {len(shown)} frames, but {len(times)} different times; expected one time per frame. "
                "Save it anew as mp4."
            )
        self._times = np.array(times, dtype=np.int64)
        self._number = {time: number for number, time in enumerate(times)}
        self._seconds = float(packets[begin].time_base)
        keys = sorted((packet.pts, packet.dts) for packet in shown if packet.is_keyframe and packet.pts is not None)
        self._keys = np.array([self._number[pts] for pts, _ in keys])
        self._key_places = dict(zip(self._keys.tolist(), keys, strict=True))

    def _first_whole_frame(self) -> VideoFrame:
        for key in self._keys.tolist():
            self._decode_until(key)
            if self._cache:
                return next(iter(self._cache.values()))
        raise VideoError(f"{self._path}: no frame can be decoded ({self._damage}). Save it anew as mp4.")

    def _decode_until(self, index: int) -> None:
        """Goes forward to a frame, or a little beyond it when it is broken; starts anew where that is shorter."""
        key = int(self._keys[np.searchsorted(self._keys, index, side="right") - 1])
        if self._running is None or index < self._next or key > self._next:
            self._running, self._next = self._decoded(key), key
        for number, frame in self._running:
            self._cache[number] = frame
            if len(self._cache) > self._cached_frames:
                self._cache.popitem(last=False)
            self._next = number + 1
            if number >= index:
                return
        self._running = None

    def _decoded(self, key: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames from a key frame on; a damaged one is left out, with all that follow up to the next key frame.

        Damage is what the decoder reports; not every wrong byte breaks the rules of a codec.
        """
        from av import FFmpegError

        is_lost, whole_from, last = False, self._times[key], -1
        for packet in self._packets(key):
            if is_lost and not packet.is_keyframe:
                continue
            if is_lost:
                self._stream.codec_context.flush_buffers()
                is_lost = False
            try:
                frames = packet.decode()
            except FFmpegError as error:
                self._damage, is_lost, frames = error.strerror or str(error), True, self._drained()
            for frame in frames:
                number = None if frame.pts is None else self._number.get(frame.pts)
                if number is None and frame.pts is not None and frame.pts < self._times[0]:
                    continue
                if number is None or number <= last:
                    raise VideoError(
                        f"{self._path}: the container is wrong about the times of its frames; expected them in "
                        "the order they are shown. Save it anew as mp4."
                    )
                last = number
                if frame.pts < whole_from:
                    continue
                if frame.is_corrupt:
                    self._damage = "it is damaged"
                    later = self._keys[self._keys > number]
                    whole_from = self._times[later[0]] if len(later) else self._times[-1] + 1
                else:
                    yield number, frame

    def _drained(self) -> list[VideoFrame]:
        """What the decoder still holds back when a packet has stopped it."""
        from av import FFmpegError

        try:
            return self._stream.codec_context.decode(None)
        except FFmpegError:
            return []

    def _packets(self, key: int) -> Iterator[Packet]:
        """Packets from a key frame on, or from an earlier one where the container cannot be sought exactly."""
        pts, dts = self._key_places[key]
        for place in (pts, dts):
            if place is None:
                continue
            self._container.seek(place, stream=self._stream, backward=True)
            self._stream.codec_context.flush_buffers()
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.is_keyframe and first.pts is not None and first.pts <= pts:
                yield first
                yield from packets
                return
        self._container.close()
        self._container, self._stream = _opened(self._path)
        yield from self._container.demux(self._stream)


def _opened(path: Path) -> tuple[InputContainer, VideoStream]:
    import av

    try:
        container = av.open(str(path))
    except FileNotFoundError as error:
        raise VideoError(f"video {path} does not exist; expected a video file or a folder of frames.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"video {path} cannot be opened ({error}); expected mp4, mov, webm or a folder of frames. Check that it "
            "was copied completely."
        ) from error
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        container.close()
        raise VideoError(f"{path} holds no video that can be decoded; expected a video stream. Save it anew as mp4.")
    stream.thread_type = "SLICE"  # with frame threads an error is reported at a later packet
    return container, stream


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """RGB with all of 0..255 in use, by the colour matrix and the range that the frame names."""
    space = int(frame.colorspace)
    if space == _UNSPECIFIED:
        space = _BT709 if min(frame.width, frame.height) >= _HD_HEIGHT_PX else _BT601
    is_always_full = frame.format.is_rgb or frame.format.name.startswith(("yuvj", "gray", "pal"))
    is_full = is_always_full or int(frame.color_range) == _FULL_RANGE
    pixels = frame.to_ndarray(
        format="rgb24",
        src_colorspace=space,
        src_color_range=_FULL_RANGE if is_full else _LIMITED_RANGE,
        dst_color_range=_FULL_RANGE,
    )
    return np.asarray(pixels, dtype=np.uint8)


def _turn_of(frame: VideoFrame) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """How the file's display matrix turns and mirrors its frames, by quarter turns."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return lambda picture: picture
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)
    (a, b), (c, d) = np.rint(matrix[:2, :2] / 65536).astype(int).tolist()  # x' = a x + c y, y' = b x + d y
    if a == 0 and d == 0:
        return lambda picture: picture.swapaxes(0, 1)[:: b or 1, :: c or 1]
    return lambda picture: picture[:: d or 1, :: a or 1]
