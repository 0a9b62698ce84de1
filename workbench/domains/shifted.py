"""Three rendered domains that look and are named unlike the shape world: what few-shot adaptation is tried on.

A domain's name and a seed come in; labelled examples go out, each asked for every class and for names nobody has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.domains import micrographs, pages, roads
from workbench.domains.canvas import LabelledPicture

if TYPE_CHECKING:
    from workbench.examples import ExampleSet


@dataclass(frozen=True)
class DomainSpec:
    """One domain.

    Args:
        classes: phrases of what can be in a picture.
        absent_phrases: names of things that are never drawn.
        render: generator and side in pixels to picture.
    """

    classes: tuple[str, ...]
    absent_phrases: tuple[str, ...]
    render: Callable[..., LabelledPicture]


DOMAINS: dict[str, DomainSpec] = {
    "micrographs": DomainSpec(micrographs.CLASSES, ("pollen grain", "fungal spore"), micrographs.render_micrograph),
    "roads": DomainSpec(roads.CLASSES, ("bicycle", "dog"), roads.render_road),
    "pages": DomainSpec(pages.CLASSES, ("photograph", "bar code"), pages.render_page),
}


def domain_set(name: str, num_images: int, seed: int, *, size: int = 224) -> ExampleSet:
    """Rendered examples of a domain, each asked for all its classes and all its absent names.

    Args:
        name: a key of `DOMAINS`.
        num_images: how many pictures.
        seed: picture i depends on (seed, i) only, so a longer set starts with the shorter one.
        size: side of the pictures in pixels.

    Raises:
        ValueError: for an unknown domain.

    Example:
        >>> len(domain_set("roads", 2, seed=0)[0].concepts)
        7
    """
    from workbench.examples import Concept, Example, ExampleSet

    if name not in DOMAINS:
        raise ValueError(f"no domain is called {name!r}; expected one of {', '.join(DOMAINS)}")
    spec = DOMAINS[name]
    examples = []
    for index in range(num_images):
        picture = spec.render(np.random.default_rng([seed, index]), size=size)
        concepts = []
        for phrase in (*spec.classes, *spec.absent_phrases):
            numbers = [i for i, own in enumerate(picture.names, start=1) if own == phrase]
            masks = picture.instance_map[None] == np.asarray(numbers, np.uint8)[:, None, None]
            concepts.append(Concept(phrase, "positive" if numbers else "absent", masks))
        examples.append(Example(f"{name}-{seed}-{index:04d}", picture.image, size, size, tuple(concepts)))
    return ExampleSet(f"{name}-{seed}", tuple(examples), exhaustive=True)
