"""The negatives lab: phrases a model must learn to refuse, and where to get them.

Ten pictures say little about what is not meant. Absent phrases come from the set itself, from the user, and from the
model's own false alarms: what it confidently finds although it is not there teaches most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from sam3.model import Sam3
from sam3.predictor import ImagePredictor, Prediction
from workbench.domains.phrases import vocabulary
from workbench.examples import Concept, Example, ExampleSet, phrase_key


@dataclass(frozen=True)
class NegativesConfig:
    """Where the phrases to refuse come from.

    Attributes:
        per_image: absent phrases per picture, at most; the most instructive ones are kept.
        mine: ask the model before the adaptation for phrases that are not labelled, and use its false alarms.
        phrases: what to try when mining; default the words of the rendered world.
    """

    per_image: int = 8
    mine: bool = False
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.per_image < 0:
            raise ValueError(f"received per_image={self.per_image}; expected a number of phrases, 0 for none")


Verdict = Literal["false alarm", "overlaps an object"]


@dataclass(frozen=True)
class Candidate:
    """A phrase the model found in a picture although no label speaks of it.

    Attributes:
        image_id: the picture. phrase: what was asked.
        score: of the best answer, 0..1.
        overlap: the largest share of one of its masks that lies on a labelled object, 0..1.
        is_stated: the labels say that the phrase is absent there, so that the overlap does not matter.
        verdict: "overlaps an object" is set aside: the phrase may well be another name of that object.
    """

    image_id: str
    phrase: str
    score: float
    overlap: float
    is_stated: bool
    verdict: Verdict


@dataclass(frozen=True)
class MinedNegatives:
    """What mining brought up, best score first."""

    candidates: tuple[Candidate, ...]
    num_asked: int

    @property
    def false_alarms(self) -> tuple[Candidate, ...]:
        """Those that can be used."""
        return tuple(c for c in self.candidates if c.verdict == "false alarm")

    @property
    def set_aside(self) -> tuple[Candidate, ...]:
        """Those a person should look at first."""
        return tuple(c for c in self.candidates if c.verdict == "overlaps an object")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"num_asked": self.num_asked, "candidates": [asdict(c) for c in self.candidates]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> MinedNegatives:
        """Inverse of `to_dict`."""
        return cls(tuple(Candidate(**c) for c in content["candidates"]), content["num_asked"])

    def __str__(self) -> str:
        lines = [
            f"{self.num_asked} questions, {len(self.false_alarms)} false alarms, {len(self.set_aside)} set aside "
            "because they lie on labelled objects"
        ]
        lines += [f"  {c.score:.2f}  {c.image_id}  {c.phrase}  ({c.verdict})" for c in self.candidates[:20]]
        return "\n".join(lines)


def mine(
    model: Sam3,
    examples: ExampleSet,
    phrases: Sequence[str] = (),
    *,
    score_threshold: float = 0.3,
    max_overlap: float = 0.3,
    progress: bool = True,
    on_picture: Callable[[], None] | None = None,
) -> MinedNegatives:
    """Asks the model for phrases that the labels do not show, and collects what it confidently finds.

    Args:
        model: as it is before the adaptation; an adapter in it takes part.
        examples: the pictures to learn from.
        phrases: what to try; default the words of the rendered world, of which the tiny model knows all and the
            released one too. Phrases that are stated absent in a picture are tried there in any case.
        score_threshold: what counts as confident.
        max_overlap: answers that lie on a labelled object by a larger share are set aside.
        progress: show a bar.
        on_picture: called before each picture.
    """
    predictor, found, num_asked = ImagePredictor(model), [], 0
    tried = list(dict.fromkeys(phrases or vocabulary()))
    for example in tqdm(examples, desc="looking for false alarms", unit="picture", disable=not progress):
        status = {phrase_key(concept.phrase): concept.status for concept in example.concepts}
        stated = [concept.phrase for concept in example.concepts if concept.status == "absent"]
        asked = stated + [phrase for phrase in tried if phrase_key(phrase) not in status]
        if not asked:
            continue
        if on_picture is not None:
            on_picture()
        num_asked += len(asked)
        predictor.set_image(example.load_image())
        for phrase, answer in zip(asked, predictor.predict(asked, score_threshold=score_threshold), strict=True):
            if len(answer):
                found.append(judge(example, phrase, answer, phrase in stated, max_overlap))
    return MinedNegatives(tuple(sorted(found, key=lambda c: -c.score)), num_asked)


def judge(example: Example, phrase: str, answer: Prediction, is_stated: bool, max_overlap: float) -> Candidate:
    """What to make of an answer to a phrase that is not labelled in the picture; see `mine`.

    Args:
        is_stated: the labels say that the phrase is absent.
    """
    objects = np.zeros((example.height, example.width), dtype=bool)
    for concept in example.concepts:
        objects |= concept.masks.any(axis=0)
        for x0, y0, x1, y1 in concept.boxes_xyxy_px if not concept.has_masks else ():
            objects[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    sizes = answer.masks.sum(axis=(1, 2))
    overlap = float(((answer.masks & objects).sum(axis=(1, 2)) / np.maximum(sizes, 1)).max())
    verdict: Verdict = "false alarm" if is_stated or overlap <= max_overlap else "overlaps an object"
    return Candidate(example.image_id, phrase, float(answer.scores[0]), overlap, is_stated, verdict)


def with_negatives(examples: ExampleSet, mined: MinedNegatives | None, per_image: int) -> ExampleSet:
    """The set with exactly the negatives that teach most: at most `per_image` absent phrases per picture.

    False alarms come first, the most confident ones at the front; then phrases that the labels state absent, those that
    are objects in other pictures before those that are nowhere. What is left out becomes unknown.
    """
    alarms: dict[str, list[str]] = {}
    for candidate in mined.false_alarms if mined else ():
        alarms.setdefault(candidate.image_id, []).append(candidate.phrase)
    shown = {phrase_key(c.phrase) for _, c in examples.pairs() if c.status == "positive"}

    def chosen(example: Example) -> Example:
        stated = [concept.phrase for concept in example.concepts if concept.status == "absent"]
        stated.sort(key=lambda phrase: phrase_key(phrase) not in shown)
        unique = {phrase_key(phrase): phrase for phrase in (*alarms.get(example.image_id, []), *stated)}
        kept = list(unique.values())[:per_image]
        others = tuple(concept for concept in example.concepts if concept.status != "absent")
        return replace(example, concepts=(*others, *(Concept(phrase, "absent") for phrase in kept)))

    return replace(examples, examples=tuple(chosen(example) for example in examples))
