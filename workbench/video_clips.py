"""Clips to follow objects through: rendered, labelled or plain videos become `VideoClip`s, whatever their files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3.video.source import FrameSource, Video, natural_key, open_video
from workbench.domains.clips import CLIP_SIZE, render_clips
from workbench.video_files import VideoLabels, read_mask_pngs, read_videos

_VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".gif")
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_RENDERED_RATE = 8.0  # slow enough to watch


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A video and what is asked about it.

    Attributes:
        name: tells it from the other clips.
        video: its frames, as `sam3.video.source.open_video` takes them; can be read more than once.
        phrases: what is looked for.
        truth: its labels; None where nobody labelled it.
        frame_rate: frames per second of anything but a video file, which knows its own.
    """

    name: str
    video: Video
    phrases: tuple[str, ...]
    truth: VideoLabels | None = None
    frame_rate: float | None = None

    def open(self) -> FrameSource:
        """Its frames.

        Raises:
            ValueError: they cannot be read, have no known number, or are not those that were labelled.
        """
        source = open_video(self.video, frame_rate=self.frame_rate)
        if source.num_frames is None:
            raise ValueError(f"clip {self.name!r} is a stream without end; save it to a file first")
        truth = self.truth
        if truth is not None and (truth.num_frames, tuple(truth.image_size)) != (source.num_frames, source.size):
            raise ValueError(
                f"clip {self.name!r} has {source.num_frames} frames of {source.size} (height, width), its labels are "
                f"for {truth.num_frames} of {tuple(truth.image_size)}; expected the frames that were labelled"
            )
        return source


def rendered_clips(num_clips: int, seed: int, *, num_frames: int = 16, size: int = CLIP_SIZE) -> list[VideoClip]:
    """Rendered clips with exact labels; clip i depends on (seed, i) only.

    Args:
        num_clips: at least 1.
        seed: of everything in them.
        num_frames, size: see `workbench.domains.clips.render_clip`.

    Example:
        >>> (clip,) = rendered_clips(1, seed=0, num_frames=2, size=64)
        >>> clip.name, clip.open().size, clip.truth.phrases == clip.phrases
        ('clips-0-0000', (64, 64), True)
    """
    if num_clips < 1:
        raise ValueError(f"received {num_clips} clips to render; expected at least 1")
    clips = []
    for index, clip in enumerate(render_clips(num_clips, seed, num_frames=num_frames, size=size)):
        truth = clip.to_labels(f"clips-{seed}-{index:04d}")
        clips.append(VideoClip(truth.name, clip.frames, truth.phrases, truth, _RENDERED_RATE))
    return clips


def labelled_clips(labels: str | Path, videos: str | Path, *, frame_rate: float | None = None) -> list[VideoClip]:
    """Clips with labels from files.

    Args:
        labels: SA-Co VEval or YouTube-VIS JSON; a folder of indexed PNGs; or a folder of such folders.
        videos: the frames: a video file or a folder of pictures when one video is labelled; else a folder in which
            each video is a folder or a file with its name, or holds the files that the JSON names.
        frame_rate: of folders of pictures.

    Raises:
        ValueError: labels that cannot be read or ask nothing, or a video that is not there.
    """
    path, place = Path(labels), Path(videos)
    if not path.exists() or not place.exists():
        raise ValueError(f"there is no {path if not path.exists() else place}; expected labels and their videos")
    if path.is_file():
        found = read_videos(path)
    elif any(path.glob("*.png")):
        found = [read_mask_pngs(path)]
    else:
        folders = sorted((f for f in path.iterdir() if f.is_dir()), key=lambda folder: natural_key(folder.name))
        found = [read_mask_pngs(folder) for folder in folders]
    silent = [truth.name for truth in found if not truth.phrases]
    if not found or silent:
        raise ValueError(f"{path} labels {len(found)} videos, {silent[:3]} of them without a phrase; expected phrases")
    clips = []
    for truth in found:
        video = _frames_of(truth, place, is_only=len(found) == 1)
        clips.append(VideoClip(truth.name, video, truth.phrases, truth, _rate_of(video, frame_rate)))
    return clips


def plain_clips(videos: str | Path, phrases: Sequence[str] = (), *, frame_rate: float | None = None) -> list[VideoClip]:
    """Clips that nobody labelled.

    Args:
        videos: a video file, a folder of pictures, or a folder of such files and folders.
        phrases: what to look for, at least one.
        frame_rate: of folders of pictures, and of pictures with pages.

    Raises:
        ValueError: no phrase, nothing there that could be a video, or a folder that may be read in two ways.
    """
    place = Path(videos)
    if not phrases:
        raise ValueError(f"nothing is asked about {place}; expected at least one phrase")
    if not place.exists():
        raise ValueError(f"there is no {place}; expected a video file or a folder")
    found = [place] if place.is_file() or _has_pictures(place) else []
    mixed = [path.name for path in place.iterdir() if _is_video(path)] if found and place.is_dir() else []
    if mixed:
        raise ValueError(
            f"{place} holds pictures and videos, such as {mixed[0]}; expected one kind. Give one of the videos itself, "
            "or a folder with nothing but the frames of one video."
        )
    if not found:
        inside = sorted(place.iterdir(), key=lambda path: natural_key(path.name))
        found = [path for path in inside if _has_pictures(path) or _is_video(path)]
    if not found:
        raise ValueError(f"{place} holds neither pictures nor videos; expected some ({', '.join(_VIDEO_SUFFIXES)})")
    names = [path.stem if path.is_file() else path.name for path in found]
    if len(set(names)) < len(names):
        names = [path.name for path in found]
    return [
        VideoClip(name or "video", path, tuple(phrases), None, _rate_of(path, frame_rate))
        for name, path in zip(names, found, strict=True)
    ]


def _frames_of(truth: VideoLabels, place: Path, *, is_only: bool) -> Path | list[Path]:
    """Where the frames of a labelled video are."""
    if is_only and (place.is_file() or _has_pictures(place)):
        return place
    named = [place / name for name in truth.file_names]
    if named and all(path.is_file() for path in named):
        return named
    candidates = [place / truth.name, *(place / f"{truth.name}{suffix}" for suffix in _VIDEO_SUFFIXES)]
    for path in candidates:
        if path.is_file() or _has_pictures(path):
            return path
    raise ValueError(
        f"the frames of video {truth.name!r} are not in {place}; expected a folder {truth.name}, a file "
        f"{truth.name}.mp4, or the files that the labels name"
    )


def _has_pictures(path: Path) -> bool:
    return path.is_dir() and any(file.suffix.lower() in _PICTURE_SUFFIXES for file in path.iterdir())


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _VIDEO_SUFFIXES


def _rate_of(video: Path | list[Path], frame_rate: float | None) -> float | None:
    """The rate of pictures; a video file has its own."""
    is_video = isinstance(video, Path) and video.is_file() and video.suffix.lower() not in _PICTURE_SUFFIXES
    return None if is_video else frame_rate
