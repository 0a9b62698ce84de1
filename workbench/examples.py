"""Labelled pictures: a Concept says where one phrase is (or that it is absent), an Example is one picture with its
concepts, an ExampleSet is a checked collection of them. Pictures and labels come in, `pairs()` of (picture, phrase)
that are safe to learn from and to measure on go out. A pair nobody has looked at stays "unknown" and is never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
from PIL import Image

from sam3.pictures import read_picture, shown_size
from workbench.label_checks import check_inside, check_mask_size, check_picture, checked_boxes, checked_masks
from workbench.set_summary import SetSummary, summary_of
from workbench.splits import k_folds, stratified_choice

Status = Literal["positive", "absent", "unknown"]


def phrase_key(phrase: str) -> str:
    """The form in which two phrases are the same to the model: single blanks, no upper case.

    Example:
        >>> phrase_key(" Red  circle")
        'red circle'
    """
    return " ".join(phrase.split()).casefold()


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Tight boxes around masks; a mask covering columns 20..59 gives x0=20, x1=60.

    Args:
        masks: (N,H,W) bool.

    Returns:
        (N,4) float32 pixels, x1 and y1 exclusive; zeros for a mask without pixels.

    Example:
        >>> mask = np.zeros((1, 8, 8), bool); mask[0, 2:4, 1:6] = True
        >>> boxes_of_masks(mask).tolist()
        [[1.0, 2.0, 6.0, 4.0]]
    """
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


@dataclass(frozen=True, eq=False)
class Concept:
    """Where one phrase is in one picture, or that it is not there.

    Args:
        phrase: what is searched, e.g. "red circle".
        status: "positive" (all objects of the phrase are given), "absent" (somebody checked: none), "unknown" (never
            used, neither for learning nor for measuring).
        masks: (N,H,W) bool; N=0 unless positive, and N=0 for labels that are boxes only.
        boxes_xyxy_px: (N,4) float32 pixels, x1 and y1 exclusive; taken from the masks when left out.

    Raises:
        ValueError: empty phrase, unknown status, status and labels that contradict each other, empty masks or boxes.

    Example:
        >>> Concept("red circle", boxes_xyxy_px=[[2, 3, 10, 12]]).num_objects
        1
        >>> Concept("blue star", "absent").num_objects
        0
    """

    phrase: str
    status: Status = "positive"
    masks: np.ndarray = None  # type: ignore[assignment]  # None becomes (0,0,0), see __post_init__
    boxes_xyxy_px: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.phrase, str) or not self.phrase.strip():
            raise ValueError(f"phrase is {self.phrase!r}; expected a text such as 'red circle'. Name the concept.")
        phrase = " ".join(self.phrase.split())
        if self.status not in get_args(Status):
            raise ValueError(f"{phrase!r}: status is {self.status!r}; expected one of {', '.join(get_args(Status))}.")
        masks = checked_masks(phrase, self.masks)
        boxes = boxes_of_masks(masks) if self.boxes_xyxy_px is None else checked_boxes(phrase, self.boxes_xyxy_px)
        if len(masks) and len(masks) != len(boxes):
            raise ValueError(
                f"{phrase!r}: {len(masks)} masks but {len(boxes)} boxes; expected one box per mask (or no boxes: they "
                "are then taken from the masks). Labels that are partly boxes only must be given as boxes throughout."
            )
        if self.status == "positive" and not len(boxes):
            raise ValueError(
                f"{phrase!r} is 'positive' without any mask or box; expected at least one. "
                "Label the objects, or set the status to 'absent' (checked: none) or 'unknown' (not checked)."
            )
        if self.status != "positive" and len(boxes):
            raise ValueError(
                f"{phrase!r} is {self.status!r} but has {len(boxes)} labelled objects; expected none. "
                "Set the status to 'positive' or remove the objects."
            )
        for name, value in (("phrase", phrase), ("masks", masks), ("boxes_xyxy_px", boxes)):
            object.__setattr__(self, name, value)

    @property
    def num_objects(self) -> int:
        """Number of labelled objects."""
        return len(self.boxes_xyxy_px)

    @property
    def has_masks(self) -> bool:
        """Whether the objects are outlined; False for labels that are boxes only."""
        return len(self.masks) > 0


@dataclass(frozen=True, eq=False)
class Example:
    """One picture with what is known about the phrases in it.

    Args:
        image_id: name of the picture, unique in its set.
        image: HWC uint8 RGB array, or the path of a picture file, which is then read by `load_image()` only.
        width, height: size in pixels, as the picture is shown (after its EXIF rotation).
        concepts: one Concept per phrase.

    Raises:
        ValueError: an unreadable picture, a size that does not fit, a phrase given twice, masks of another size than
            the picture, boxes outside it.

    Example:
        >>> example = Example("a", np.zeros((8, 8, 3), np.uint8), 8, 8, (Concept("star", "absent"),))
        >>> example.concept("Star").masks.shape
        (0, 8, 8)
    """

    image_id: str
    image: np.ndarray | Path
    width: int
    height: int
    concepts: tuple[Concept, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.image_id, str) or not self.image_id:
            raise ValueError(f"image_id is {self.image_id!r}; expected a non-empty text. Name the picture.")
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image))
        check_picture(self.image_id, self.image, self.width, self.height)
        concepts = tuple(self._fitted(concept) for concept in self.concepts)
        object.__setattr__(self, "concepts", concepts)
        seen: set[str] = set()
        for concept in concepts:
            if phrase_key(concept.phrase) in seen:
                raise ValueError(
                    f"image {self.image_id!r}: phrase {concept.phrase!r} is given twice (upper case and blanks do not "
                    "count); expected one Concept per phrase. Put all its objects into one Concept."
                )
            seen.add(phrase_key(concept.phrase))

    def _fitted(self, concept: Concept) -> Concept:
        where, size = f"image {self.image_id!r}, {concept.phrase!r}", (self.height, self.width)
        if concept.has_masks:
            check_mask_size(where, concept.masks, size)
        check_inside(where, concept.boxes_xyxy_px, size)
        if concept.has_masks or concept.masks.shape[1:] == size:
            return concept
        return replace(concept, masks=np.zeros((0, *size), bool))

    @classmethod
    def from_image(
        cls, image: str | Path | np.ndarray | Image.Image, concepts: Iterable[Concept] = (), image_id: str | None = None
    ) -> Example:
        """An Example whose size is read from the picture; a file's name serves as image_id when none is given."""
        if isinstance(image, str | Path):
            path = Path(image)
            width, height = shown_size(path)
            return cls(image_id or path.name, path, width, height, tuple(concepts))
        pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
        height, width = pixels.shape[:2]
        return cls(image_id or "", pixels, width, height, tuple(concepts))

    def concept(self, phrase: str) -> Concept | None:
        """The Concept of a phrase; None when the picture does not mention it, so that nothing is known about it."""
        key = phrase_key(phrase)
        return next((concept for concept in self.concepts if phrase_key(concept.phrase) == key), None)

    def load_image(self) -> np.ndarray:
        """The picture as HWC uint8 RGB, turned as its EXIF tag says.

        Raises:
            ValueError: the file cannot be decoded, has more than 8 bits per channel, or changed its size.
        """
        if isinstance(self.image, np.ndarray):
            return self.image
        pixels = read_picture(self.image)
        check_picture(self.image_id, pixels, self.width, self.height)
        return pixels

    def digest(self) -> str:
        """Sixteen hex digits that change with the picture's content or any of its labels.

        Raises:
            OSError: the picture file cannot be read.
        """
        content = self.image.tobytes() if isinstance(self.image, np.ndarray) else self.image.read_bytes()
        digest = hashlib.sha256(content)
        for concept in self.concepts:
            digest.update(json.dumps([concept.phrase, concept.status, concept.boxes_xyxy_px.tolist()]).encode())
            digest.update(np.packbits(concept.masks).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class ExampleSet(Sequence[Example]):
    """Pictures with checked labels.

    A phrase that is positive in one picture and not mentioned in another is added there as "absent" when the set is
    exhaustive (somebody looked for every phrase in every picture). Otherwise it stays unmentioned, which means unknown.

    Args:
        name: of the data, for reports.
        examples: the pictures.
        exhaustive: whether a phrase that is not mentioned in a picture is known to be absent from it.

    Raises:
        ValueError: an image_id occurs twice.

    Example:
        >>> picture = np.zeros((8, 8, 3), np.uint8)
        >>> with_star = Example("a", picture, 8, 8, (Concept("star", boxes_xyxy_px=[[1, 1, 4, 4]]),))
        >>> data = ExampleSet("demo", (with_star, Example("b", picture, 8, 8)), exhaustive=True)
        >>> [(example.image_id, concept.status) for example, concept in data.pairs()]
        [('a', 'positive'), ('b', 'absent')]
    """

    name: str
    examples: tuple[Example, ...]
    exhaustive: bool = False

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for example in self.examples:
            if example.image_id in seen:
                raise ValueError(
                    f"set {self.name!r}: image_id {example.image_id!r} occurs twice; expected one Example per picture. "
                    "Merge their concepts or rename one of them."
                )
            seen.add(example.image_id)
        object.__setattr__(self, "examples", _completed(self.examples, self.exhaustive))

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> ExampleSet: ...
    def __getitem__(self, index: int | slice) -> Example | ExampleSet:
        return replace(self, examples=self.examples[index]) if isinstance(index, slice) else self.examples[index]

    @property
    def phrases(self) -> tuple[str, ...]:
        """All phrases that are mentioned, in order of first mention."""
        return tuple(dict.fromkeys(concept.phrase for example in self.examples for concept in example.concepts))

    def pairs(self) -> Iterator[tuple[Example, Concept]]:
        """All (picture, concept) whose answer is known: status positive or absent."""
        for example in self.examples:
            yield from ((example, concept) for concept in example.concepts if concept.status != "unknown")

    def example(self, image_id: str) -> Example:
        """The picture of that name.

        Raises:
            KeyError: there is none.
        """
        for example in self.examples:
            if example.image_id == image_id:
                return example
        raise KeyError(f"set {self.name!r} has no image_id {image_id!r} among its {len(self)} pictures")

    def subset(self, ids: Iterable[str], name: str | None = None) -> ExampleSet:
        """The pictures with these image_ids, in the given order."""
        return replace(self, name=name or self.name, examples=tuple(self.example(image_id) for image_id in ids))

    @classmethod
    def from_coco(
        cls,
        annotations: str | Path,
        images: str | Path,
        *,
        phrases: dict[str, str | None] | None = None,
        exhaustive: bool = True,
        name: str | None = None,
    ) -> ExampleSet:
        """An ExampleSet from a COCO annotation file and its picture folder; see `formats.coco_to_examples`."""
        from workbench.formats import coco_to_examples

        return coco_to_examples(annotations, images, phrases=phrases, exhaustive=exhaustive, name=name)

    def with_absent(self, phrases: Iterable[str], *, image_ids: Iterable[str] | None = None) -> ExampleSet:
        """The set with phrases stated to be absent, so that refusing them can be learnt and measured.

        Args:
            phrases: what is not in the pictures.
            image_ids: the pictures this is stated for; None = all pictures that do not mention the phrase. With ids, a
                phrase may be positive in other pictures, and "unknown" becomes "absent".

        Raises:
            ValueError: a phrase is positive in the set (without image_ids) or in one of the named pictures.
        """
        named = None if image_ids is None else {self.example(image_id).image_id for image_id in image_ids}
        stated = {phrase_key(phrase): Concept(phrase, "absent") for phrase in phrases}
        for example in self.examples:
            if named is not None and example.image_id not in named:
                continue
            for concept in example.concepts:
                if concept.status == "positive" and phrase_key(concept.phrase) in stated:
                    raise ValueError(
                        f"{concept.phrase!r} was stated to be absent but is labelled in image {example.image_id!r}; "
                        "expected a phrase without objects. Remove it from the list, or pass image_ids=... with the "
                        "pictures in which you checked that it is not there."
                    )
        return replace(self, examples=tuple(_with_absent(example, stated, named) for example in self.examples))

    def few_shot(self, shots: int, seed: int) -> tuple[ExampleSet, ExampleSet]:
        """Splits off a few pictures to learn from, chosen at random but so that all phrases are represented.

        Args:
            shots: number of pictures to learn from.
            seed: the same seed gives the same split.

        Returns:
            (learn, rest): `learn` has `shots` pictures, and each phrase with objects is positive in at least one of
            them if that is possible; `rest` has the others. Both keep the order of the set.

        Raises:
            ValueError: fewer pictures than shots, or no positive label in the whole set.
        """
        if not 1 <= shots <= len(self):
            raise ValueError(
                f"set {self.name!r}: {shots} shots asked from {len(self)} pictures; expected 1..{len(self)}. "
                "Label more pictures or ask for fewer shots."
            )
        present = self._positive_phrases()
        if not any(present):
            raise ValueError(
                f"set {self.name!r}: no phrase is positive in any of its {len(self)} pictures; expected at least one. "
                "Label some objects, and check the phrases if the labels were imported."
            )
        chosen = stratified_choice(present, shots, seed)
        rest = set(range(len(self))) - chosen
        return (
            self._part(chosen, f"{shots} shots, seed {seed}"),
            self._part(rest, f"rest of {shots} shots, seed {seed}"),
        )

    def k_fold(self, k: int, seed: int) -> Iterator[tuple[ExampleSet, ExampleSet]]:
        """Splits the set k times into pictures to learn from and pictures to judge on; each picture is judged once.

        Args:
            k: number of splits; the number of pictures leaves one out at a time.
            seed: the same seed gives the same splits.

        Yields:
            (learn, judge); phrases are spread evenly over the `judge` parts, both keep the order of the set.

        Raises:
            ValueError: k is below 2 or above the number of pictures.
        """
        present = self._positive_phrases()
        for number, fold in enumerate(k_folds(present, k, seed), start=1):
            learn = set(range(len(self))) - set(fold)
            yield (
                self._part(learn, f"learn {number} of {k}, seed {seed}"),
                self._part(fold, f"judge {number} of {k}, seed {seed}"),
            )

    def _positive_phrases(self) -> list[list[str]]:
        """For each picture, the phrases that have objects in it."""
        return [[c.phrase for c in example.concepts if c.status == "positive"] for example in self.examples]

    def _part(self, places: Collection[int], what: str) -> ExampleSet:
        """The pictures at these places, in the order of the set; the name says what part this is."""
        examples = tuple(self.examples[place] for place in sorted(places))
        return replace(self, name=f"{self.name} ({what})", examples=examples)

    def summary(self) -> SetSummary:
        """Counts of pictures, pairs and objects, in all and per phrase."""
        return summary_of(self)


def _completed(examples: Iterable[Example], exhaustive: bool) -> tuple[Example, ...]:
    """One spelling per phrase; in exhaustive sets also an answer in every picture for each phrase that is positive."""
    examples = tuple(examples)
    spelling: dict[str, str] = {}
    positive: dict[str, None] = {}
    for example in examples:
        for concept in example.concepts:
            spelling.setdefault(phrase_key(concept.phrase), concept.phrase)
            if concept.status == "positive":
                positive[phrase_key(concept.phrase)] = None
    completed = []
    for example in examples:
        keys = [phrase_key(concept.phrase) for concept in example.concepts]
        spelt = [
            concept if concept.phrase == spelling[key] else replace(concept, phrase=spelling[key])
            for key, concept in zip(keys, example.concepts, strict=True)
        ]
        if exhaustive:
            spelt += [Concept(spelling[key], "absent") for key in positive if key not in keys]
        unchanged = len(spelt) == len(keys) and all(a is b for a, b in zip(spelt, example.concepts, strict=True))
        completed.append(example if unchanged else replace(example, concepts=tuple(spelt)))
    return tuple(completed)


def _with_absent(example: Example, stated: dict[str, Concept], named: set[str] | None) -> Example:
    if named is not None and example.image_id not in named:
        return example
    kept = [
        concept
        for concept in example.concepts
        if named is None or concept.status != "unknown" or phrase_key(concept.phrase) not in stated
    ]
    known = {phrase_key(concept.phrase) for concept in kept}
    added = [concept for key, concept in stated.items() if key not in known]
    return replace(example, concepts=(*kept, *added)) if added else example
