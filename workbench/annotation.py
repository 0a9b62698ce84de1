"""What a person marked in pictures: boxes, clicks and masks per phrase, whether the phrase is there at all, and what
the marking cost. The annotators in notebooks and pages send and take exactly this; it knows no interface.

A picture and a phrase make a pair. A pair becomes a label only when somebody said that it is complete: "absent", or
"present" with `is_exhaustive`. Everything else stays unknown, and can still serve as exemplars.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np

from sam3.files import write_text
from sam3.rle import Rle
from workbench.examples import phrase_key

FORMAT = "workbench-marks-1"
Kind = Literal["box", "click", "mask"]
State = Literal["present", "absent", "unchecked"]
Status = Literal["kept", "proposed", "rejected"]
Source = Literal["person", "model"]
_SLACK_PX = 0.01  # coordinates travel rounded


@dataclass(frozen=True)
class Mark:
    """One thing marked in a picture for one phrase.

    Args:
        id: of the mark, unique in its pair, from 1.
        kind: "box", "click" or "mask".
        is_positive: such is meant (True) or such is not meant (False).
        box_xyxy_px: corners of a box or around a mask, right and lower end exclusive; taken from the mask if left out.
        point_xy_px: of a click.
        rle: of a mask.
        status: "kept"; "proposed" by the model and not yet judged; "rejected" by the person.
        source: who made it.
        score: of a proposal, 0..1.
        of: the mark that a click belongs to, or the box that a proposed mask would replace.

    Raises:
        ValueError: a value is missing or makes no sense.

    Example:
        >>> Mark(1, "click", False, point_xy_px=(4, 7)).point_xy_px
        (4.0, 7.0)
    """

    id: int
    kind: Kind
    is_positive: bool = True
    box_xyxy_px: tuple[float, float, float, float] | None = None
    point_xy_px: tuple[float, float] | None = None
    rle: Rle | None = None
    status: Status = "kept"
    source: Source = "person"
    score: float | None = None
    of: int | None = None

    def __post_init__(self) -> None:
        where = f"mark {self.id!r}"
        if not isinstance(self.id, int) or isinstance(self.id, bool) or self.id < 1:
            raise ValueError(f"{where}: expected a whole number from 1 as id. Number the marks of a pair.")
        for name, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("status", self.status, get_args(Status)),
            ("source", self.source, get_args(Source)),
            ("is_positive", self.is_positive, (True, False)),
        ):
            if value not in known:
                raise ValueError(f"{where}: {name} is {value!r}; expected one of {', '.join(map(str, known))}.")
        if (self.rle is None) != (self.kind != "mask") or (self.point_xy_px is None) != (self.kind != "click"):
            raise ValueError(f"{where} is a {self.kind}; expected the box, point or run lengths of its kind.")
        if self.kind == "click":
            object.__setattr__(self, "point_xy_px", _numbers(where, self.point_xy_px, 2))
            if self.box_xyxy_px is not None:
                raise ValueError(f"{where} is a click but has a box {self.box_xyxy_px}; expected a point only.")
        else:
            box = self.rle.box_xyxy_px if self.box_xyxy_px is None and self.rle else self.box_xyxy_px
            x0, y0, x1, y1 = numbers = _numbers(where, box, 4)
            if not (x1 > x0 and y1 > y0):
                raise ValueError(f"{where}: {self.kind} {list(numbers)} has no area; expected x0 < x1 and y0 < y1.")
            object.__setattr__(self, "box_xyxy_px", numbers)
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"{where}: score is {self.score!r}; expected 0..1.")

    @property
    def is_object(self) -> bool:
        """Whether it stands for one object of the phrase."""
        return self.kind != "click" and self.is_positive and self.status == "kept"

    def check_inside(self, where: str, width: int, height: int) -> None:
        """Refuses a mark that leaves its picture; `where` opens the message."""
        points = self.point_xy_px or self.box_xyxy_px or ()
        sides = (width, height) * 2
        if any(not -_SLACK_PX <= value <= side + _SLACK_PX for value, side in zip(points, sides, strict=False)):
            raise ValueError(
                f"{where}, mark {self.id}: {list(points)} leaves the picture; expected 0..{width}, 0..{height} pixels."
            )
        if self.rle is not None and self.rle.size != (height, width):
            raise ValueError(
                f"{where}, mark {self.id}: the mask is {self.rle.size}, the picture {(height, width)} (height, width); "
                "expected the same. Resize the mask, or check that it belongs to this picture."
            )

    def to_json(self) -> dict[str, Any]:
        """The mark as the annotators send it; what is not set is left out."""
        entry: dict[str, Any] = {"id": self.id, "kind": self.kind, "positive": self.is_positive}
        entry |= {"status": self.status, "source": self.source}
        optional = {
            "box": _rounded(self.box_xyxy_px),
            "point": _rounded(self.point_xy_px),
            "rle": self.rle and self.rle.counts,
            "score": self.score,
            "of": self.of,
        }
        return entry | {name: value for name, value in optional.items() if value is not None}

    @staticmethod
    def from_json(entry: dict[str, Any], width: int, height: int) -> Mark:
        """The inverse of `to_json`, for a mark of a picture of this size."""
        counts = entry.get("rle")
        return Mark(
            entry["id"],
            entry["kind"],
            entry.get("positive", True),
            entry.get("box"),
            entry.get("point"),
            None if counts is None else Rle.from_json({"size": [height, width], "counts": counts}),
            entry.get("status", "kept"),
            entry.get("source", "person"),
            entry.get("score"),
            entry.get("of"),
        )


@dataclass(frozen=True)
class PairMarks:
    """What is known about one phrase in one picture.

    Args:
        state: "present", "absent" (somebody looked: none) or "unchecked".
        is_exhaustive: whether all objects of the phrase are marked.
        marks: in the order in which they were made.

    Raises:
        ValueError: state, tick and marks contradict each other, or an id occurs twice.
    """

    state: State = "unchecked"
    is_exhaustive: bool = False
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", tuple(self.marks))
        if self.state not in get_args(State):
            raise ValueError(f"state is {self.state!r}; expected one of {', '.join(get_args(State))}.")
        if self.objects and self.state != "present":
            raise ValueError(f"state is {self.state!r}, but {len(self.objects)} objects are marked; use 'present'.")
        if self.is_exhaustive and not self.objects:
            raise ValueError("ticked as exhaustive without a marked object; mark the objects, or set it to 'absent'.")
        ids = [mark.id for mark in self.marks]
        if len(set(ids)) < len(ids):
            raise ValueError(f"mark ids are {ids}; expected each once.")

    @property
    def objects(self) -> tuple[Mark, ...]:
        """The marks that stand for one object each: positive boxes and masks that were drawn or accepted."""
        return tuple(mark for mark in self.marks if mark.is_object)

    @property
    def judged(self) -> tuple[Mark, ...]:
        """The marks that a person made, accepted or rejected."""
        return tuple(mark for mark in self.marks if mark.status != "proposed")

    @property
    def proposals(self) -> tuple[Mark, ...]:
        """The model's proposals that nobody has judged yet."""
        return tuple(mark for mark in self.marks if mark.status == "proposed")


@dataclass(frozen=True)
class PictureMarks:
    """One picture: its size, the pairs that were looked at, and the cost so far.

    Args:
        image_id: name of the picture.
        width, height: pixels, as it is shown.
        pairs: phrase to what is known about it.
        revision: grows with every change made by hand; of two versions of a picture the higher one is newer.
        num_clicks: presses of pointer and keys spent on it.
        seconds: of attention; pauses are cut off.

    Raises:
        ValueError: no size, a mark outside the picture, or a count below zero.
    """

    image_id: str
    width: int
    height: int
    pairs: dict[str, PairMarks] = field(default_factory=dict)
    revision: int = 0
    num_clicks: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.image_id, str) or not self.image_id:
            raise ValueError(f"image_id is {self.image_id!r}; expected a non-empty text. Name the picture.")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image {self.image_id!r} is {self.width}x{self.height}; expected sides above zero.")
        if self.num_clicks < 0 or not self.seconds >= 0 or self.revision < 0:
            raise ValueError(f"image {self.image_id!r}: clicks, seconds and revision must not be below zero.")
        for phrase, pair in self.pairs.items():
            for mark in pair.marks:
                mark.check_inside(f"image {self.image_id!r}, {phrase!r}", self.width, self.height)

    def pair(self, phrase: str) -> PairMarks:
        """What is known about a phrase; "unchecked" when nothing is."""
        key = phrase_key(phrase)
        return next((pair for name, pair in self.pairs.items() if phrase_key(name) == key), PairMarks())


@dataclass(frozen=True)
class LabellingCost:
    """What marking cost, over the pictures on which any time was spent."""

    num_pictures: int
    median_seconds: float
    median_clicks: float


@dataclass(frozen=True)
class Annotation:
    """All marks of a set of pictures.

    Args:
        phrases: what is searched, in the order of the list.
        pictures: in the order of the strip.

    Raises:
        ValueError: an empty phrase, a phrase or picture given twice, or marks of a phrase that is not in the list.

    Example:
        >>> pair = PairMarks("present", True, (Mark(1, "box", box_xyxy_px=(2, 3, 9, 8)),))
        >>> marks = Annotation(("coin",), (PictureMarks("a.png", 20, 10, {"coin": pair}),))
        >>> Annotation.from_json(marks.to_json()) == marks
        True
    """

    phrases: tuple[str, ...] = ()
    pictures: tuple[PictureMarks, ...] = ()

    def __post_init__(self) -> None:
        for name in ("phrases", "pictures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if wrong := [text for text in self.phrases if not isinstance(text, str) or not text.strip()]:
            raise ValueError(f"phrases hold {wrong[0]!r}; expected texts such as 'red circle'.")
        keys = [phrase_key(phrase) for phrase in self.phrases]
        ids = [picture.image_id for picture in self.pictures]
        for what, names in (("phrase", keys), ("image_id", ids)):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} {sorted(twice)[0]!r} occurs twice; expected each once (case does not count).")
        for picture in self.pictures:
            if unknown := [phrase for phrase in picture.pairs if phrase not in self.phrases]:
                raise ValueError(
                    f"image {picture.image_id!r} has marks of {unknown[0]!r}; the phrases are {list(self.phrases)}. "
                    "Add it to the list."
                )

    def picture(self, image_id: str) -> PictureMarks:
        """The picture of that name.

        Raises:
            KeyError: there is none.
        """
        for picture in self.pictures:
            if picture.image_id == image_id:
                return picture
        raise KeyError(f"no picture {image_id!r} among the {len(self.pictures)} pictures of the annotation")

    def with_picture(self, picture: PictureMarks) -> Annotation:
        """The same with one picture in place of the one of its name."""
        self.picture(picture.image_id)
        changed = (picture if old.image_id == picture.image_id else old for old in self.pictures)
        return replace(self, pictures=tuple(changed))

    def with_phrases(self, phrases: Iterable[str]) -> Annotation:
        """The same with further phrases at the end of the list; those it has stay as they are."""
        known = {phrase_key(phrase): phrase for phrase in self.phrases}
        for phrase in phrases:
            known.setdefault(phrase_key(phrase), " ".join(phrase.split()))
        return replace(self, phrases=tuple(known.values()))

    def cost(self) -> LabellingCost:
        """What marking cost per picture."""
        spent = [picture for picture in self.pictures if picture.seconds > 0]
        if not spent:
            return LabellingCost(0, 0.0, 0.0)
        return LabellingCost(len(spent), median(p.seconds for p in spent), median(p.num_clicks for p in spent))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, as the annotators send and take them."""
        return {
            "format": FORMAT,
            "phrases": list(self.phrases),
            "pictures": [_picture_to_json(picture) for picture in self.pictures],
        }

    @staticmethod
    def from_json(value: Any) -> Annotation:
        """The inverse of `to_json`; everything is checked.

        Raises:
            ValueError: the value has another form, or holds marks that make no sense.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else type(value).__name__
            raise ValueError(f"received marks of the form {found!r}; expected {FORMAT!r}, as `to_json` gives them.")
        try:
            pictures = [_picture_from_json(entry) for entry in value["pictures"]]
            return Annotation(tuple(value["phrases"]), tuple(pictures))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"marks cannot be read ({error!r}); expected the form that `to_json` gives.") from error


def save_annotation(annotation: Annotation, path: str | Path) -> None:
    """Writes the marks as JSON, atomically."""
    write_text(path, json.dumps(annotation.to_json(), ensure_ascii=False, indent=1) + "\n")


def load_annotation(path: str | Path) -> Annotation:
    """The marks of a file that `save_annotation` wrote.

    Raises:
        ValueError: the file holds something else; the message names it.
        OSError: the file cannot be read.
    """
    try:
        return Annotation.from_json(json.loads(Path(path).read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error} Move the file away to begin anew.") from error


def merged(older: Annotation, newer: Annotation) -> Annotation:
    """`older` with the pictures of which `newer` has the higher revision; phrases are those of `newer`.

    So a page that was opened before another one cannot undo what was marked there, and a message that was on its way
    while proposals were made does not take them back.
    """
    known = {picture.image_id: picture for picture in older.pictures}
    pictures = []
    for picture in newer.pictures:
        other = known.pop(picture.image_id, picture)
        pictures.append(other if other.revision >= picture.revision else picture)
    pictures += known.values()
    needed = {phrase for picture in pictures for phrase in picture.pairs} - set(newer.phrases)
    return Annotation((*newer.phrases, *(phrase for phrase in older.phrases if phrase in needed)), tuple(pictures))


def _picture_to_json(picture: PictureMarks) -> dict[str, Any]:
    return {
        "id": picture.image_id,
        "width": picture.width,
        "height": picture.height,
        "revision": picture.revision,
        "clicks": picture.num_clicks,
        "seconds": round(picture.seconds, 1),
        "pairs": {
            phrase: {
                "state": pair.state,
                "exhaustive": pair.is_exhaustive,
                "marks": [mark.to_json() for mark in pair.marks],
            }
            for phrase, pair in picture.pairs.items()
        },
    }


def _picture_from_json(entry: dict[str, Any]) -> PictureMarks:
    width, height = entry["width"], entry["height"]
    pairs = {}
    for phrase, pair in entry.get("pairs", {}).items():
        try:
            marks = tuple(Mark.from_json(mark, width, height) for mark in pair.get("marks", ()))
            pairs[phrase] = PairMarks(pair.get("state", "unchecked"), bool(pair.get("exhaustive")), marks)
        except ValueError as error:
            raise ValueError(f"image {entry['id']!r}, {phrase!r}: {error}") from error
    return PictureMarks(
        entry["id"],
        width,
        height,
        pairs,
        entry.get("revision", 0),
        entry.get("clicks", 0),
        float(entry.get("seconds", 0)),
    )


def _numbers(where: str, values: Any, count: int) -> Any:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: received {values!r}; expected {count} numbers in pixels.") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: received {values!r}; expected {count} finite numbers in pixels.")
    return numbers


def _rounded(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else [round(value, 2) for value in values]
