"""What all readers of label files share: source names become phrases, what a file says about a picture becomes Concepts
with the right status, everything mended or left out becomes a Finding, and no entry leads outside its folder."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from sam3.pictures import read_picture
from workbench.examples import Concept, ExampleSet, phrase_key

ONE_PIXEL = 0.999  # area in pixels, less what fractions in a label file round off
LARGE_SET_GIB = 4.0  # masks are held in memory as one byte per pixel and object
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

FindingKind = Literal[
    "box outside",
    "box clipped",
    "empty mask",
    "tiny box",
    "boxes and masks",
    "placeholder category",
    "not labelled",
    "asked twice",
    "ignored value",
    "class-id phrase",
    "twin phrases",
    "near-duplicate",
    "large set",
]


@dataclass(frozen=True)
class Finding:
    """One thing a person should know about a data set; `str()` is one line that ends with what to do.

    Args:
        kind: the sort of finding, the same for all of its sort.
        where: file and entry, or picture and phrase.
        problem: what was found and what became of it.
        advice: what to do about it.
    """

    kind: FindingKind
    where: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} {self.advice}"


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader made of a source: one ExampleSet per split, named after it, and its findings."""

    form: str
    sets: tuple[ExampleSet, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def examples(self) -> ExampleSet:
        """The only set.

        Raises:
            ValueError: the source has several splits.
        """
        if len(self.sets) != 1:
            names = ", ".join(examples.name for examples in self.sets)
            raise ValueError(f"the source has {len(self.sets)} sets ({names}); expected one. Choose from `sets`.")
        return self.sets[0]


class PhraseTable:
    """The phrase of every name a source uses; names that are the same to the model share one phrase.

    Args:
        labels: key in the source (category id, class number, name) -> name as the source spells it.
        changes: name -> phrase to search for, or None to leave the name out; names not listed stay as they are.
        where: the file, for messages.

    Raises:
        ValueError: `changes` lists a name that does not occur, or nothing is left.

    Example:
        >>> table = PhraseTable({1: "Star", 2: "star", 3: "sky"}, {"sky": None}, "labels.json")
        >>> table.phrases, table.phrase_of(2), table.phrase_of(3)
        (('Star',), 'Star', None)
    """

    def __init__(self, labels: Mapping[Any, str], changes: Mapping[str, str | None] | None, where: str) -> None:
        changes = dict(changes or {})
        missing = sorted(set(changes) - set(labels.values()))
        if missing:
            raise ValueError(
                f"{where}: phrases names {missing}, which are no categories of the file; expected some of "
                f"{sorted(set(labels.values()))}."
            )
        spelling: dict[str, str] = {}
        self.where = where
        self._phrases: dict[Hashable, str | None] = {}
        self._labels = dict(labels)
        for key, label in labels.items():
            phrase = changes.get(label, label)
            self._phrases[key] = None if phrase is None else spelling.setdefault(phrase_key(phrase), phrase)
        if not spelling:
            raise ValueError(f"{where}: no category is left; expected at least one with a phrase.")
        self._changed = set(changes)
        keys: defaultdict[str, set[Hashable]] = defaultdict(set)
        for key, phrase in self._phrases.items():
            if phrase is not None:
                keys[phrase].add(key)
        self._keys = {phrase: frozenset(own) for phrase, own in keys.items()}
        self._places = {phrase: place for place, phrase in enumerate(self._keys)}

    def phrase_of(self, key: Hashable) -> str | None:
        """The phrase of a source key; None when it is left out."""
        return self._phrases[key]

    def keys_of(self, phrase: str) -> frozenset[Hashable]:
        """The source keys that became this phrase."""
        return self._keys[phrase]

    @property
    def keys(self) -> KeysView[Hashable]:
        """All source keys."""
        return self._phrases.keys()

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases, in order of the source, each once."""
        return tuple(self._keys)

    def in_order(self, phrases: Iterable[str]) -> list[str]:
        """These phrases, each once, in the order of the source."""
        return sorted(set(phrases), key=self._places.__getitem__)

    def twins(self) -> tuple[Finding, ...]:
        """A finding for every phrase that the source spells in several ways."""
        found = []
        for phrase in self.phrases:
            names = sorted({self._labels[key] for key in self.keys_of(phrase)} - self._changed)
            if len(names) > 1:
                problem = f"the names {', '.join(map(repr, names))} are one phrase to the model and were joined."
                found.append(Finding("twin phrases", self.where, problem, "Use one spelling in the labels."))
        return tuple(found)


@dataclass
class _Evidence:
    """What a source says about one phrase in one picture."""

    masks: list[np.ndarray] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    unusable: int = 0  # crowds, objects that nobody could outline, objects below one pixel


class PictureLabels:
    """Collects what a source says about one picture; `concepts()` gives every phrase its status.

    A phrase with objects is positive. One whose only objects are crowds, don't-care regions, empty masks or smaller
    than a pixel is unknown: it is neither shown as present nor taught as absent. It is absent only when every source
    name behind it was stated to be absent.

    Args:
        where: the picture, for findings.
        width, height: in pixels.
        table: the source's names.
        findings: the list that new findings are appended to.

    Example:
        >>> labels = PictureLabels("a.png", 8, 8, PhraseTable({1: "star", 2: "sky"}, None, "a.json"), [])
        >>> labels.mark_absent(1, 2)
        >>> labels.add_unusable(1)
        >>> [(concept.phrase, concept.status) for concept in labels.concepts()]
        [('star', 'unknown'), ('sky', 'absent')]
    """

    def __init__(self, where: str, width: int, height: int, table: PhraseTable, findings: list[Finding]) -> None:
        self.where, self.width, self.height, self.table = where, width, height, table
        self._findings = findings
        self._evidence: defaultdict[str, _Evidence] = defaultdict(_Evidence)
        self._unknown: set[str] = set()
        self._absent: set[Hashable] = set()

    def add_mask(self, key: Hashable, mask: np.ndarray, where: str) -> None:
        """An outlined object, (H,W) bool."""
        phrase = self.table.phrase_of(key)
        if phrase is None:
            return
        if mask.any():
            self._evidence[phrase].masks.append(mask)
        else:
            self._set_aside(phrase, "empty mask", where, f"a mask of {phrase!r} has no pixel and was left out;")

    def add_box(self, key: Hashable, box_xyxy_px: Sequence[float], where: str) -> None:
        """An object of which only the box is known; clipped to the picture."""
        phrase = self.table.phrase_of(key)
        if phrase is None:
            return
        x0, y0, x1, y1 = box_xyxy_px
        size = f"{self.width}x{self.height} picture"
        if x1 < x0 or y1 < y0 or x0 >= self.width or y0 >= self.height or x1 <= 0 or y1 <= 0:
            shown = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
            problem = f"bbox {shown} is not inside the {size}; expected [x, y, width, height] in pixels. Left out;"
            self._set_aside(phrase, "box outside", where, problem)
            return
        if min(x0, y0, self.width - x1, self.height - y1) < -1:
            problem = f"a box of {phrase!r} left the {size} and was clipped."
            self._findings.append(Finding("box clipped", where, problem, "Check that it belongs to this picture."))
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(self.width)), min(y1, float(self.height))
        if (x1 - x0) * (y1 - y0) < ONE_PIXEL:
            self._set_aside(phrase, "tiny box", where, f"a box of {phrase!r} is below one pixel and was left out;")
        else:
            self._evidence[phrase].boxes.append((x0, y0, x1, y1))

    def _set_aside(self, phrase: str, kind: FindingKind, where: str, problem: str) -> None:
        self._evidence[phrase].unusable += 1
        problem += " without other objects the phrase is unknown here."
        self._findings.append(Finding(kind, where, problem, "Label the object anew, or remove the entry."))

    def add_unusable(self, key: Hashable) -> None:
        """A crowd or don't-care region: something is there, but not one outlined object."""
        phrase = self.table.phrase_of(key)
        if phrase is not None:
            self._evidence[phrase].unusable += 1

    def mark_unknown(self, *keys: Hashable) -> None:
        """The phrases of these keys were not looked for, or not all of their objects are labelled."""
        self._unknown.update(filter(None, map(self.table.phrase_of, keys)))

    def mark_absent(self, *keys: Hashable) -> None:
        """These names were looked for; where no object follows, there is none."""
        self._absent.update(keys)

    def has_objects(self, phrase: str) -> bool:
        """Whether an object of this phrase was added."""
        evidence = self._evidence.get(phrase)
        return evidence is not None and bool(evidence.masks or evidence.boxes)

    def concepts(self) -> tuple[Concept, ...]:
        """One Concept per phrase of which the source says something, in the order of the table."""
        stated = filter(None, map(self.table.phrase_of, self._absent))
        mentioned = self.table.in_order([*self._evidence, *self._unknown, *stated])
        found = (self._concept(phrase) for phrase in mentioned)
        return tuple(concept for concept in found if concept is not None)

    def _concept(self, phrase: str) -> Concept | None:
        evidence = self._evidence.get(phrase, _Evidence())
        if phrase in self._unknown:
            return Concept(phrase, "unknown")
        if evidence.masks and not evidence.boxes:
            return Concept(phrase, masks=np.stack(evidence.masks))
        if evidence.boxes:
            boxes = np.array(evidence.boxes, np.float32)
            if evidence.masks:
                problem = f"some objects of {phrase!r} have a mask and others a box only; only the boxes are used."
                advice = "Outline all objects to learn masks from this picture."
                self._findings.append(Finding("boxes and masks", self.where, problem, advice))
                boxes = np.concatenate([boxes, Concept(phrase, masks=np.stack(evidence.masks)).boxes_xyxy_px])
            return Concept(phrase, boxes_xyxy_px=boxes)
        if evidence.unusable:
            return Concept(phrase, "unknown")
        return Concept(phrase, "absent") if self.table.keys_of(phrase) <= self._absent else None


def says_nothing(phrase: str) -> bool:
    """Whether a phrase looks like the number of a class rather than words a person would search for.

    Example:
        >>> [says_nothing(phrase) for phrase in ("0", "class_3", "cls7", "x", "no 5", "U-turn sign", "coin")]
        [True, True, True, True, False, False, False]
    """
    if not re.search(r"[^\W\d_]{2}", phrase):
        return True
    return (
        re.fullmatch(r"(class|cls|category|label|object|obj|id|type)[\s_-]*\d*", phrase.strip().casefold()) is not None
    )


def large_set_finding(examples: ExampleSet) -> Finding | None:
    """A finding when the masks of a set take more than LARGE_SET_GIB of memory."""
    gib = sum(concept.masks.size for example in examples for concept in example.concepts) / 2**30
    if gib <= LARGE_SET_GIB:
        return None
    problem = f"the masks take {gib:.0f} GiB of memory."
    advice = "Take fewer pictures or make them smaller, together with their labels."
    return Finding("large set", examples.name, problem, advice)


def path_inside(folder: Path, name: str, where: str) -> Path:
    """The path of an entry that must lie in a folder; links are followed before it is judged.

    Raises:
        ValueError: the entry leads outside; the message begins with `where`.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{where}: {name!r} leads outside the folder {folder}; expected a path inside it. Put the file there "
            "(not a link to it), or correct the entry."
        )
    return path


def pictures_in(folder: Path, where: str | None = None) -> list[Path]:
    """The picture files of a folder (not of its sub-folders) in the order of their names.

    Raises:
        ValueError: no folder, no picture in it, or a link that leads outside.
    """
    if not folder.is_dir():
        raise ValueError(f"{where or folder}: there is no folder {folder}; expected one with pictures. Check the path.")
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not names:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ValueError(f"{where or folder}: {folder} holds no picture; expected files such as {kinds}.")
    return [path_inside(folder, name, str(folder)) for name in names]


def picture_of_bytes(encoded: bytes, where: str) -> np.ndarray:
    """HWC uint8 RGB of an encoded picture (JPEG, PNG, ...), turned as its EXIF tag says.

    Raises:
        ValueError: it cannot be decoded or has more than 8 bits per channel; the message begins with `where`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            return read_picture(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: the picture cannot be read ({error}); expected JPEG, PNG or similar.") from error


def read_text(path: Path, expected: str) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        ValueError: it cannot be read or is no UTF-8; names the file and what was expected.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected {expected}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}); expected {expected}. Save it as UTF-8.") from error


def first_entries(entries: Iterable[Path], limit: int | None) -> list[Path]:
    """The first `limit` entries, or all.

    Raises:
        ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1 picture, or none given to take all.")
    return list(entries)[:limit]
