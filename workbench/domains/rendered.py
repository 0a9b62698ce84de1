"""Rendered picture sets for recipes: a domain's name, a number of pictures and a seed come in; labelled examples go
out, each asked for every class of its domain, as a labelled data set would be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from workbench.domains import shapes
from workbench.domains.phrases import Phrase
from workbench.domains.shifted import DOMAINS, domain_set

if TYPE_CHECKING:
    from workbench.examples import Concept, Example, ExampleSet

RENDERED = (*DOMAINS, "shapes")

# What ordinary scenes show often enough to be learnt from ten of them. Most are look-alikes of each other: where only
# large or plain shapes lie, "small shape" and "striped shape" must be refused.
SHAPES = (
    Phrase("small shape", size="small"),
    Phrase("large shape", size="large"),
    Phrase("striped shape", texture="striped"),
    Phrase("dotted shape", texture="dotted"),
    Phrase("red shape", colour="red"),
    Phrase("green shape", colour="green"),
    Phrase("circle", kind="circle"),
    Phrase("star", kind="star"),
    Phrase("ring", kind="ring"),
    Phrase("word", kind="word"),
)


def classes_of(name: str) -> tuple[str, ...]:
    """What is labelled in the pictures of a domain.

    Raises:
        ValueError: for an unknown domain, with the nearest name.

    Example:
        >>> classes_of("pages")
        ('title', 'paragraph', 'stamp', 'signature')
    """
    if name not in RENDERED:
        raise ValueError(f"no rendered domain is called {name!r}; {_nearest(name, RENDERED)}")
    return tuple(phrase.text for phrase in SHAPES) if name == "shapes" else DOMAINS[name].classes


def rendered_set(
    name: str, num_pictures: int, seed: int, *, phrases: Mapping[str, str | None] | None = None
) -> ExampleSet:
    """Rendered examples of a domain, each asked for all its classes.

    Args:
        name: one of `RENDERED`.
        num_pictures: how many.
        seed: picture i depends on (seed, i) only, so a longer set starts with the shorter one.
        phrases: class -> phrase to ask for; None drops the class, classes that share a phrase are joined, a class that
            is not listed is asked for by its name.

    Raises:
        ValueError: an unknown domain or class, or no class is left.

    Example:
        >>> data = rendered_set("roads", 2, seed=0, phrases={"truck": "lorry", "bus": None})
        >>> data.phrases
        ('car', 'lorry', 'traffic light', 'pedestrian')
    """
    classes = classes_of(name)
    phrase_of: dict[str, str | None] = {own: own for own in classes}
    for own, phrase in (phrases or {}).items():
        if own not in phrase_of:
            raise ValueError(f"phrases names {own!r}, which is not drawn in {name}; {_nearest(own, classes)}")
        phrase_of[own] = phrase
    if not any(phrase_of.values()):
        raise ValueError(f"phrases drops every class of {name}; expected at least one of {', '.join(classes)}")
    drawn = _shapes_set(num_pictures, seed) if name == "shapes" else domain_set(name, num_pictures, seed)
    return replace(drawn, examples=tuple(_asked(example, phrase_of) for example in drawn))


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"expected one of {', '.join(known)}"


def _shapes_set(num_pictures: int, seed: int) -> ExampleSet:
    from workbench.examples import ExampleSet

    scenes = (shapes.render_scene(np.random.default_rng([seed, index])) for index in range(num_pictures))
    examples = (
        shapes.scene_to_example(scene, list(SHAPES), f"shapes-{seed}-{index:04d}") for index, scene in enumerate(scenes)
    )
    return ExampleSet(f"shapes-{seed}", tuple(examples), exhaustive=True)


def _asked(example: Example, phrase_of: Mapping[str, str | None]) -> Example:
    """The example with the phrases of its classes; what a domain asks beyond its classes is left out."""
    from workbench.examples import phrase_key

    groups: dict[str, list[Concept]] = {}
    for concept in example.concepts:
        phrase = phrase_of.get(concept.phrase)
        if phrase is not None:
            groups.setdefault(phrase_key(phrase), []).append(replace(concept, phrase=phrase))
    return replace(example, concepts=tuple(_joined(group) for group in groups.values()))


def _joined(concepts: list[Concept]) -> Concept:
    """One concept of several, with each object once: a red circle is both a circle and a red shape."""
    from workbench.examples import Concept

    present = [concept for concept in concepts if concept.status == "positive"]
    if len(present) < 2:
        return (present or concepts)[0]
    masks = np.unique(np.concatenate([concept.masks for concept in present]), axis=0)
    return Concept(concepts[0].phrase, "positive", masks)
