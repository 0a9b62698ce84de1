"""What may be brought in, checked before anything is decoded: pictures, archives and clips. Every refusal says what was
received, what is allowed, and what to do."""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from sam3.pictures import read_picture, shown_size

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_COPY_BYTES = 1 << 20
_NAME_ERRORS = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}
)  # of names that the disk does not take


@dataclass(frozen=True)
class Limits:
    """How much one visitor may ask for.

    Attributes:
        megapixels: of a picture.
        file_mb: of an uploaded file.
        pictures: kept per visitor.
        archive_mb: of an archive's contents, unpacked.
        archive_files: in an archive.
        frames, clip_px: of a clip, and its longest side.
        clip_seconds: that following objects through a clip may take.
        phrases: asked at once.
        steps: of a training.
        waiting: requests that may wait for the model.
    """

    megapixels: float = 40.0
    file_mb: int = 50
    pictures: int = 100
    archive_mb: int = 300
    archive_files: int = 500
    frames: int = 120
    clip_px: int = 1920
    clip_seconds: float = 300.0
    phrases: int = 12
    steps: int = 1000
    waiting: int = 40

    def __str__(self) -> str:
        return (
            f"pictures up to {self.megapixels:g} megapixels, {self.pictures} of them; files up to {self.file_mb} MB; "
            f"clips up to {self.frames} frames; {self.phrases} phrases at once"
        )


def checked_picture(path: str | Path, limits: Limits, name: str | None = None) -> Path:
    """The path, when its header is that of a picture that is not too large.

    Raises:
        ValueError: it is not.
    """
    path = Path(path)
    name = name or path.name
    try:
        with Image.open(path) as opened:
            width, height = opened.size
        is_large = width * height > limits.megapixels * 1e6
        if not is_large:
            shown_size(path)  # which decodes a PNG, to look for its EXIF tag
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has far more than the {limits.megapixels:g} megapixels that are allowed. Make it smaller, or cut "
            "out the part that matters."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as a picture. Save it anew as PNG or JPEG, and no larger than "
            f"{limits.megapixels:g} megapixels."
        ) from error
    if is_large:
        raise ValueError(
            f"{name} has {width}x{height} pixels, {width * height / 1e6:.0f} megapixels; {limits.megapixels:g} are "
            "allowed. Make it smaller, or cut out the part that matters."
        )
    return path


def whole_picture(path: str | Path, limits: Limits, name: str | None = None) -> Path:
    """The path, when it is that of a picture that is not too large and can be read to its last pixel.

    Of a file with several pages only the first is read here, as everywhere in the app; others may be damaged.

    Raises:
        ValueError: it is not.
    """
    path = checked_picture(path, limits, name)
    try:
        read_picture(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name or path.name)) from error
    return path


def has_pages(path: str | Path) -> bool:
    """Whether a picture file that can be read holds more pages than the first one, which alone counts."""
    with Image.open(path) as opened:
        return bool(getattr(opened, "is_animated", False))


def unpack(archive: str | Path, into: Path, limits: Limits) -> list[Path]:
    """Writes the pictures and JSON files of a zip archive into a folder, and gives them.

    Raises:
        ValueError: it is no archive, a name leads out of the folder, or the contents are too many or too large.
    """
    name, room = Path(archive).name, limits.archive_mb * 1_000_000
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            if len(members) > limits.archive_files:
                raise ValueError(f"{name} holds {len(members)} files; {limits.archive_files} are allowed. Split it.")
            wanted = [m for m in members if Path(m.filename).suffix.lower() in PICTURE_SUFFIXES | {".json"}]
            wanted = [m for m in wanted if "__MACOSX" not in m.filename]
            for member in members:
                _check_name(name, member.filename)
            if sum(member.file_size for member in wanted) > room:
                raise ValueError(f"{name} unpacks to more than {limits.archive_mb} MB, which is the limit. Split it.")
            written = []
            for member in wanted:
                target = into.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                room -= _copy(opened, member, target, room, name, limits)
                written.append(target)
    except OSError as error:
        words = error.strerror or str(error) or type(error).__name__
        advice = " Give its files short, plain names." if error.errno in _NAME_ERRORS else " Try again later."
        raise ValueError(f"{name} cannot be unpacked ({words}).{advice}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{name} cannot be unpacked ({error}); expected a zip archive without password.") from error
    if not written and any(member.filename.lower().endswith(".zip") for member in members):
        raise ValueError(f"{name} holds other zips. Unpack it, and add those.")
    if not written:
        raise ValueError(f"{name} holds no picture; expected PNG, JPEG, WebP, BMP or TIFF files.")
    return written


def _check_name(archive: str, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or ":" in (parts[0] if parts else ""):
        raise ValueError(f"{archive} holds {name!r}, which leads out of its folder; expected plain names. Zip it anew.")


def _copy(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int, name: str, limits: Limits) -> int:
    """Bytes written; what an archive says of its sizes is not believed."""
    done = 0
    with opened.open(member) as source, target.open("wb") as file:
        while block := source.read(_COPY_BYTES):
            done += len(block)
            if done > room:
                raise ValueError(f"{name} unpacks to more than {limits.archive_mb} MB, which is the limit. Split it.")
            file.write(block)
    return done


def checked_clip(path: str | Path, limits: Limits, read: Callable[[Path], tuple[int, int, int]] | None = None) -> Path:
    """The path, when it is a video that is short and small enough.

    Raises:
        ValueError: it is not.
    """
    path = Path(path)
    try:
        frames, width, height = (read or _clip_size)(path)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"{path.name} cannot be read as a video; save it anew as mp4 (H.264).") from error
    if frames > limits.frames:
        raise ValueError(
            f"{path.name} has about {frames} frames; {limits.frames} are allowed. Cut out the part that matters, or "
            "use `workbench track`, which has no limit."
        )
    if max(width, height) > limits.clip_px:
        raise ValueError(
            f"{path.name} is {width}x{height} pixels; the longest side may have {limits.clip_px}. Make it smaller."
        )
    return path


def _clip_size(path: Path) -> tuple[int, int, int]:
    """Frames, counted or from the length in seconds, width and height."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not seconds and container.duration:
            seconds = container.duration / 1e6
        frames = max(stream.frames, round(seconds * float(stream.average_rate or 0)))
        return frames, stream.codec_context.width, stream.codec_context.height
