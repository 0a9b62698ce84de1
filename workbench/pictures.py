"""Reads picture files as people see them: RGB, 8 bits, turned as the EXIF tag says. Paths come in, sizes and arrays go
out; every error names the file and what to do with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

EXIF_ORIENTATION = 0x0112
READ_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


def shown_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a picture file as it is shown, after its EXIF rotation; reads the header only.

    Raises:
        ValueError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            sideways = file.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except READ_ERRORS as error:
        raise ValueError(_unreadable(path, error)) from error
    return (height, width) if sideways else (width, height)


def read_picture(path: Path) -> np.ndarray:
    """The picture as HWC uint8 RGB, after its EXIF rotation; transparency is dropped.

    Raises:
        ValueError: the file is missing, cannot be decoded, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith(("I", "F")):
                raise ValueError(
                    f"picture {path} has pixel type {picture.mode}; expected 8 bits per channel. "
                    "Choose the range of values to show and save it as an 8-bit PNG."
                )
            return np.array(picture.convert("RGB"))
    except READ_ERRORS as error:
        raise ValueError(_unreadable(path, error)) from error


def check_picture(image_id: str, image: np.ndarray | Path, width: int, height: int) -> None:
    """Refuses a picture that is not what the labels say.

    Args:
        image_id: for the message.
        image: HWC uint8 RGB, or a path (its header is read).
        width, height: stated size in pixels, as shown.

    Raises:
        ValueError: no picture, or one of another size.
    """
    if isinstance(image, Path):
        found = shown_size(image)
        if found != (width, height):
            raise ValueError(_other_size(image_id, image, found, (width, height)))
        return
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"image {image_id!r}: picture is {kind}; expected a uint8 array (H,W,3) in RGB order or a file path. "
            "Grey pictures: np.stack([grey] * 3, -1)."
        )
    if image.shape[:2] != (height, width) or not image.size:
        raise ValueError(
            f"image {image_id!r}: picture is {image.shape[1]}x{image.shape[0]}, stated size {width}x{height} (width x "
            "height); expected the same, above zero. Pass the array's own size."
        )


def _unreadable(path: Path, error: Exception) -> str:
    if not Path(path).is_file():
        return f"picture {path} does not exist; expected an image file. Check the path and the picture folder."
    return f"picture {path} cannot be read ({error}); expected a JPEG, PNG or similar. Save it anew or remove it."


def _other_size(image_id: str, path: Path, found: tuple[int, int], stated: tuple[int, int]) -> str:
    text = (
        f"image {image_id!r}: {path} is {found[0]}x{found[1]} as shown, but the labels say {stated[0]}x{stated[1]} "
        "(width x height); expected the same size. "
    )
    if found == stated[::-1]:
        return text + (
            "The sides are swapped: probably the file carries an EXIF rotation that the labelling tool did not apply. "
            "Save the picture without EXIF in the orientation in which it was labelled."
        )
    return text + "Use the picture that was labelled, or resize picture and labels together."
