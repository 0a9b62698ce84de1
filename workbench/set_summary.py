"""How many pictures, answers and objects a set of examples has, in all and per phrase; as values and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.examples import ExampleSet


@dataclass(frozen=True)
class PhraseCount:
    """In how many pictures one phrase is positive, absent and unknown (or not mentioned), and its number of objects."""

    phrase: str
    positive: int = 0
    absent: int = 0
    unknown: int = 0
    objects: int = 0


@dataclass(frozen=True)
class SetSummary:
    """Counts of an ExampleSet; `str()` gives a table for people."""

    name: str
    images: int
    positive: int
    absent: int
    unknown: int
    objects: int
    box_only: int
    phrases: tuple[PhraseCount, ...] = field(repr=False)

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.images} pictures, {self.positive} positive and {self.absent} absent pairs "
            f"({self.unknown} unknown), {self.objects} objects ({self.box_only} with a box only)"
        )
        width = max([len(count.phrase) for count in self.phrases] + [6])
        rows = [f"{'phrase':{width}}  positive  absent  unknown  objects"]
        rows += [
            f"{count.phrase:{width}}  {count.positive:8}  {count.absent:6}  {count.unknown:7}  {count.objects:7}"
            for count in self.phrases
        ]
        return "\n".join([head, *rows])


def summary_of(examples: ExampleSet) -> SetSummary:
    """Counts of pictures, pairs and objects, in all and per phrase."""
    counts = {phrase: dict.fromkeys(("positive", "absent", "objects"), 0) for phrase in examples.phrases}
    box_only = 0
    for example in examples:
        for concept in example.concepts:
            if concept.status != "unknown":
                counts[concept.phrase][concept.status] += 1
            counts[concept.phrase]["objects"] += concept.num_objects
            box_only += 0 if concept.has_masks else concept.num_objects
    phrases = tuple(
        PhraseCount(phrase, **count, unknown=len(examples) - count["positive"] - count["absent"])
        for phrase, count in counts.items()
    )
    return SetSummary(
        name=examples.name,
        images=len(examples),
        positive=sum(count.positive for count in phrases),
        absent=sum(count.absent for count in phrases),
        unknown=sum(count.unknown for count in phrases),
        objects=sum(count.objects for count in phrases),
        box_only=box_only,
        phrases=phrases,
    )
