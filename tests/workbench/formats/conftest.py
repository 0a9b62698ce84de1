"""A small set with everything a label form may lose: holes, parts, one-pixel objects, boxes, absent and unknown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from workbench.examples import Concept, Example, ExampleSet

WIDTH, HEIGHT = 40, 30


def drawn_picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def hard_set() -> ExampleSet:
    """Two pictures: the first with holes, parts, boxes, absent and unknown phrases, the second without objects."""
    masks = np.zeros((4, HEIGHT, WIDTH), bool)
    masks[0, 2:12, 2:12], masks[0, 5:8, 5:8], masks[0, 20:25, 30:36] = True, False, True
    masks[1] = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.3
    masks[2, 29, 39] = True  # the last pixel
    masks[3, 0, 0:7] = True
    boxes = np.array([[0.1, 1.7, 30.3, 29.9], [39, 29, 40, 30]], np.float32)
    concepts = (
        Concept("holes & parts", masks=masks),
        Concept("boxed", boxes_xyxy_px=boxes),
        Concept("owl", "absent"),
        Concept("haze", "unknown"),
    )
    others = tuple(Concept(concept.phrase, "absent") for concept in concepts)
    return ExampleSet(
        "train",
        (
            Example("scene/one", drawn_picture(1), WIDTH, HEIGHT, concepts),
            Example("two", drawn_picture(2), WIDTH, HEIGHT, others),
        ),
    )


@pytest.fixture
def assert_same() -> Callable[[ExampleSet, ExampleSet], None]:
    """Whether two sets are the same, to the last bit."""
    return _assert_same


def _assert_same(before: ExampleSet, after: ExampleSet) -> None:
    """The same pictures with the same phrases, statuses, masks and boxes, to the last bit."""
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert (old.load_image() == new.load_image()).all()
        assert {c.phrase: c.status for c in old.concepts} == {c.phrase: c.status for c in new.concepts}
        for concept in old.concepts:
            read = new.concept(concept.phrase)
            assert read is not None and read.masks.shape == concept.masks.shape
            assert (read.masks == concept.masks).all()
            assert (read.boxes_xyxy_px == concept.boxes_xyxy_px).all()
