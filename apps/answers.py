"""One answer of a model about one picture, kept so that its score can be moved and results be exported without asking
again."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam3.files import write_atomically, write_text
from sam3.predictor import Prediction
from sam3.prompts import Prompt
from workbench.paint import PALETTE, Colour, overlay
from workbench.predict import to_coco

FLOOR = 0.05  # candidates below are never shown
_MARK_COLOURS: dict[bool, Colour] = {True: (0, 158, 115), False: (213, 94, 0)}
_LINE = re.compile(r"^\s*([+-])\s*((?:-?\d+(?:\.\d+)?\s*,\s*)*-?\d+(?:\.\d+)?)\s*$")


@dataclass(frozen=True)
class Exemplar:
    """An example box (four numbers) or point (two), in pixels; positive: such is meant."""

    numbers: tuple[float, ...]
    is_positive: bool

    def __str__(self) -> str:
        return f"{'+' if self.is_positive else '-'} " + ", ".join(f"{value:g}" for value in self.numbers)


def exemplars_in(text: str | None) -> tuple[Exemplar, ...]:
    """Example boxes and points as a person wrote them, one per line.

    Raises:
        ValueError: a line has another form.

    Example:
        >>> [str(one) for one in exemplars_in("+ 10,20,60,80\\n- 5, 5")]
        ['+ 10, 20, 60, 80', '- 5, 5']
    """
    found = []
    for line in (text or "").splitlines():
        if not line.strip():
            continue
        match = _LINE.match(line)
        numbers = tuple(float(value) for value in match[2].split(",")) if match else ()
        if not match or len(numbers) not in (2, 4):
            raise ValueError(
                f"received the example {line.strip()!r}; expected a line such as `+ 10, 20, 60, 80` (a box: left, top, "
                "right, bottom) or `- 5, 5` (a point that is not meant), in pixels."
            )
        found.append(Exemplar(numbers, match[1] == "+"))
    return tuple(found)


def prompts_of(phrases: Sequence[str], exemplars: Sequence[Exemplar], size: tuple[int, int]) -> list[Prompt]:
    """What the model is asked.

    Args:
        phrases: any number; with examples one at most, which they belong to.
        exemplars: of the picture itself.
        size: (height, width) of the picture.

    Raises:
        ValueError: nothing is asked, several phrases came with examples, or an example lies outside.
    """
    if not exemplars:
        if not phrases:
            raise ValueError("nothing is asked: write what to find, for instance `red circle`, or give an example.")
        return [Prompt(phrase) for phrase in phrases]
    if len(phrases) > 1:
        raise ValueError(f"{len(phrases)} phrases came with examples; the examples belong to one. Write one phrase.")
    height, width = size
    for one in exemplars:
        xs, ys = one.numbers[0::2], one.numbers[1::2]
        if not all(0 <= x <= width for x in xs) or not all(0 <= y <= height for y in ys):
            raise ValueError(f"the example `{one}` lies outside of the picture, which is {width}x{height} pixels.")
    boxes = [one for one in exemplars if len(one.numbers) == 4]
    points = [one for one in exemplars if len(one.numbers) == 2]
    return [
        Prompt(
            phrases[0] if phrases else None,
            np.array([one.numbers for one in boxes], np.float32).reshape(-1, 4),
            [int(one.is_positive) for one in boxes],
            np.array([one.numbers for one in points], np.float32).reshape(-1, 2),
            [int(one.is_positive) for one in points],
        )
    ]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said about a picture.

    Attributes:
        name: of the picture file. pixels: HWC uint8.
        predictions: one per phrase, every candidate above `FLOOR`.
        exemplars: that were given.
        label: of the model. seconds: it took.
    """

    name: str
    pixels: np.ndarray
    predictions: tuple[Prediction, ...]
    exemplars: tuple[Exemplar, ...]
    label: str
    seconds: float

    def above(self, score: float) -> tuple[Prediction, ...]:
        """The predictions with what scores at least that much."""
        return tuple(_above(prediction, score) for prediction in self.predictions)

    def drawn(self, score: float) -> np.ndarray:
        """The picture with the objects, numbered, and the examples as frames and dots."""
        kept = self.above(score)
        masks = np.concatenate([one.masks for one in kept]) if kept else np.zeros((0, *self.pixels.shape[:2]), bool)
        numbers = [str(number + 1) for number in range(len(masks))]
        colours = [PALETTE[number % len(PALETTE)] for number in range(len(masks))]
        painted = overlay(self.pixels, masks, labels=numbers, colours=colours) if len(masks) else self.pixels
        return with_exemplars(painted, self.exemplars)

    def rows(self, score: float) -> list[list[Any]]:
        """One row per object: number, phrase, score, box, pixels."""
        found = [
            (one.phrase or "like the examples", float(one.scores[place]), one.boxes_xyxy_px[place], one.masks[place])
            for one in self.above(score)
            for place in range(len(one))
        ]
        return [
            [number, phrase, round(value, 3), ", ".join(str(round(float(side))) for side in box), int(mask.sum())]
            for number, (phrase, value, box, mask) in enumerate(found, start=1)
        ]

    def in_words(self, score: float) -> str:
        """Who answered what."""
        counts = [
            f"{len(one)} × {one.phrase or 'like the examples'} (presence {one.presence_score:.2f})"
            for one in self.above(score)
        ]
        hidden = sum(map(len, self.predictions)) - sum(map(len, self.above(score)))
        more = f" {hidden} weaker candidates are hidden; lower the score to see them." if hidden else ""
        nothing = "" if any(map(len, self.above(score))) else " Nothing was found."
        return f"**{self.label}** answered in {self.seconds:.1f} s: {', '.join(counts)}.{nothing}{more}"

    def write_coco(self, folder: Path, score: float) -> Path:
        """A COCO file of what is shown."""
        path = folder / f"{Path(self.name).stem}.json"
        content = to_coco(self.name, self.above(score))
        content["info"] = {"description": f"answered by {self.label}, score of at least {score:g}"}
        write_text(path, json.dumps(content, ensure_ascii=False))
        return path

    def write_masks(self, folder: Path, score: float) -> Path:
        """A zip of black and white PNGs, one per object, with a table."""
        path, table = folder / f"{Path(self.name).stem}_masks.zip", io.StringIO()
        writer, rows = csv.writer(table), self.rows(score)
        writer.writerow(["number", "phrase", "score", "box_xyxy_px", "area_px", "file"])
        masks = [mask for one in self.above(score) for mask in one.masks]

        def write(draft: Path) -> None:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for row, mask in zip(rows, masks, strict=True):
                    file = f"{row[0]:03d}_{re.sub(r'[^0-9A-Za-z_-]+', '_', row[1])[:40]}.png"
                    picture = io.BytesIO()
                    Image.fromarray(mask).save(picture, "PNG")
                    archive.writestr(file, picture.getvalue())
                    writer.writerow([*row, file])
                archive.writestr("objects.csv", table.getvalue())

        write_atomically(path, write)
        return path


def _above(prediction: Prediction, score: float) -> Prediction:
    kept = prediction.scores >= score
    return replace(
        prediction,
        boxes_xyxy_px=prediction.boxes_xyxy_px[kept],
        masks=prediction.masks[kept],
        scores=prediction.scores[kept],
    )


def with_exemplars(pixels: np.ndarray, exemplars: Sequence[Exemplar]) -> np.ndarray:
    """The picture with example boxes as frames and points as small squares; + and - stand beside them."""
    if not exemplars:
        return pixels
    reach = max(3.0, min(pixels.shape[:2]) / 80)
    boxes = [
        one.numbers
        if len(one.numbers) == 4
        else (one.numbers[0] - reach, one.numbers[1] - reach, one.numbers[0] + reach, one.numbers[1] + reach)
        for one in exemplars
    ]
    signs = ["+" if one.is_positive else "–" for one in exemplars]
    colours = [_MARK_COLOURS[one.is_positive] for one in exemplars]
    height, width = pixels.shape[:2]
    inside = np.clip(np.array(boxes, np.float32), 0, [width, height, width, height])
    return overlay(pixels, None, inside, labels=signs, colours=colours)
