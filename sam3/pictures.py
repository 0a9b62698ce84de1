"""Reads pictures as people see them: RGB, 8 bits, turned as the EXIF tag says. Paths, PIL images and arrays come in,
arrays and sizes go out; every error names the file and what to do with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Picture = Image.Image | NDArray[np.uint8] | str | Path

_ORIENTATION = 0x0112
_READ_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


def read_picture(picture: Picture) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB; files are turned upright by their EXIF tag.

    Args:
        picture: path, PIL image with 8 bits per channel, or array (H, W, 3) or (H, W) uint8. Transparency is dropped.

    Raises:
        ValueError: the file is missing or no picture, it has more than 8 bits per channel, or the array has another
            shape or type.
    """
    if isinstance(picture, str | Path):
        try:
            with Image.open(picture) as opened:
                return _rgb(ImageOps.exif_transpose(opened), f"picture {picture}")
        except _READ_ERRORS as error:
            raise ValueError(_unreadable(picture, error)) from error
    if isinstance(picture, Image.Image):
        picture = _rgb(picture, "the picture")
    array = np.ascontiguousarray(picture)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"received an array of shape {array.shape} and type {array.dtype}; expected (H, W, 3) uint8 RGB"
        )
    return array


def shown_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of a picture file as it is shown, after its EXIF rotation; reads the header only.

    Raises:
        ValueError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            is_sideways = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except _READ_ERRORS as error:
        raise ValueError(_unreadable(path, error)) from error
    return (height, width) if is_sideways else (width, height)


def _rgb(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    if picture.mode.startswith(("I", "F")):  # Pillow would cut every value above 255
        raise ValueError(
            f"{name} has pixel type {picture.mode}; expected 8 bits per channel. Choose the range of values to show "
            "and save it as an 8-bit PNG."
        )
    return np.array(picture.convert("RGB"))


def _unreadable(path: str | Path, error: Exception) -> str:
    if not Path(path).exists():
        return f"picture {path} does not exist; expected an image file. Check the path and the picture folder."
    return f"picture {path} cannot be read ({error}); expected a JPEG, PNG or similar. Save it anew or remove it."
