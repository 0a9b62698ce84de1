"""Pictures of an ExampleSet as files, for all writers: names that no two pictures share, files copied as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from PIL import Image

from workbench.examples import Example


def picture_name(example: Example, number: int) -> str:
    """A file name for the picture with this number: unique in its set, without blanks or folders.

    Example:
        >>> import numpy as np
        >>> picture_name(Example("scene/one two.jpg", np.zeros((4, 4, 3), np.uint8), 4, 4), 7)
        '00007_one_two.png'
    """
    plain = re.sub(r"[^\w.-]+", "_", Path(example.image_id).stem)
    suffix = example.image.suffix if isinstance(example.image, Path) else ".png"
    return f"{number:05d}_{plain}{suffix}"


def save_picture(example: Example, target: Path) -> None:
    """Writes the picture: a file is copied unchanged, an array becomes a PNG."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(example.image, Path):
        shutil.copyfile(example.image, target)
    else:
        Image.fromarray(example.image).save(target)
