"""Rendered picture sets for recipes: classes, phrases for them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.domains.rendered import RENDERED, classes_of, rendered_set


@pytest.mark.parametrize("name", RENDERED)
def test_a_set_asks_every_picture_for_every_class_and_shows_each_somewhere(name: str) -> None:
    data = rendered_set(name, 14, seed=1)
    assert data.phrases == classes_of(name)
    assert all(len(example.concepts) == len(classes_of(name)) for example in data)
    present = {concept.phrase for _, concept in data.pairs() if concept.status == "positive"}
    assert present == set(classes_of(name))
    longer, other = rendered_set(name, 15, seed=1), rendered_set(name, 14, seed=2)
    assert [example.digest() for example in longer][:14] == [example.digest() for example in data]
    assert not {example.image_id for example in other} & {example.image_id for example in data}
    assert not np.array_equal(other[0].load_image(), data[0].load_image())


def test_classes_get_phrases_share_them_or_are_dropped() -> None:
    plain = rendered_set("micrographs", 12, seed=3)
    named = rendered_set(
        "micrographs", 12, seed=3, phrases={"lymphocyte": "white cell", "neutrophil": "White  cell", "bacterium": None}
    )
    assert named.phrases == ("white cell", "red blood cell")
    for one, other in zip(plain, named, strict=True):
        joined = one.concept("lymphocyte").num_objects + one.concept("neutrophil").num_objects
        assert other.concept("white cell").num_objects == joined
        assert other.concept("white cell").status == ("positive" if joined else "absent")
        assert other.concept("red blood cell").num_objects == one.concept("red blood cell").num_objects


def test_an_object_of_two_joined_classes_counts_once() -> None:
    plain = rendered_set("shapes", 12, seed=0)
    both = rendered_set("shapes", 12, seed=0, phrases={"circle": "thing", "small shape": "thing"})
    overlaps = 0
    for one, other in zip(plain, both, strict=True):
        circles, small = one.concept("circle").masks, one.concept("small shape").masks
        shared = sum(any(np.array_equal(a, b) for b in small) for a in circles)
        assert other.concept("thing").num_objects == len(circles) + len(small) - shared
        overlaps += shared
    assert overlaps > 0


@pytest.mark.parametrize(
    ("name", "phrases", "message"),
    [
        ("shape", None, "no rendered domain is called 'shape'; did you mean 'shapes'? expected one of micrographs"),
        ("farms", None, "no rendered domain is called 'farms'; expected one of micrographs, roads, pages, shapes"),
        ("roads", {"trucks": "lorry"}, "'trucks', which is not drawn in roads; did you mean 'truck'? expected one of"),
        ("pages", dict.fromkeys(("title", "paragraph", "stamp", "signature")), "phrases drops every class of pages"),
    ],
)
def test_what_cannot_be_drawn_is_named(name: str, phrases: dict[str, str | None] | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        rendered_set(name, 2, seed=0, phrases=phrases)
    assert message in str(caught.value)
