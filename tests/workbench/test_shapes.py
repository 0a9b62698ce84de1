"""The rendered worlds: pictures that repeat, masks and boxes that agree, phrases that are true or really absent."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from workbench.domains import shapes
from workbench.domains.canvas import Canvas
from workbench.domains.phrases import COLOUR_SYNONYMS
from workbench.domains.shapes import (
    ANY_SHAPE,
    COLOURS,
    KINDS,
    SIZES,
    TEXTURES,
    Phrase,
    Scene,
    SceneObject,
    held_out_set,
    random_phrase,
    render_scene,
    sample_phrases,
    scene_to_example,
    vocabulary,
)
from workbench.domains.shifted import DOMAINS, domain_set

NUM_SCENES = 70


@pytest.fixture(scope="module")
def painted() -> list[tuple[Scene, Canvas]]:
    """Scenes together with the canvases they were painted on, which know how much of each object is hidden."""
    canvases: list[Canvas] = []

    class Watched(Canvas):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            canvases.append(self)

    pairs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "Canvas", Watched)
        for index in range(NUM_SCENES):
            scene = render_scene(np.random.default_rng([5, index]))
            pairs.append((scene, canvases[-1]))
    return pairs


@pytest.fixture(scope="module")
def scenes(painted: list[tuple[Scene, Canvas]]) -> list[Scene]:
    return [scene for scene, _ in painted]


def tight_box(mask: np.ndarray) -> tuple[float, ...]:
    rows, columns = np.nonzero(mask)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


# ---------------------------------------------------------------- scenes


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_picture() -> None:
    for seed in range(12):
        one, again = (render_scene(np.random.default_rng(seed)) for _ in range(2))
        assert one.image.tobytes() == again.image.tobytes()
        assert one.instance_map.tobytes() == again.instance_map.tobytes()
        assert one.objects == again.objects
        assert one.image.tobytes() != render_scene(np.random.default_rng(seed + 100)).image.tobytes()


def test_every_object_owns_pixels_and_its_box_is_tight(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (224, 224, 3) and scene.image.dtype == np.uint8
        assert scene.instance_map.dtype == np.uint8
        assert set(np.unique(scene.instance_map)) - {0} == set(range(1, len(scene.objects) + 1))
        for number, obj in enumerate(scene.objects, start=1):
            assert obj.box_xyxy_px == tight_box(scene.instance_map == number)


def test_no_object_is_hidden_by_more_than_45_percent(painted: list[tuple[Scene, Canvas]]) -> None:
    shares = [
        (obj.kind, canvas.visible_share(number))
        for scene, canvas in painted
        for number, obj in enumerate(scene.objects, start=1)
    ]
    assert min(share for _, share in shares) >= 0.55
    assert min(share for kind, share in shares if kind == "word") >= 0.8
    assert sum(share < 0.98 for _, share in shares) > 20, "occlusion should occur"


def test_a_canvas_refuses_to_hide_too_much() -> None:
    canvas = Canvas(np.zeros((3, 40, 40)), min_visible=0.55)
    square = np.ones((20, 20), bool)
    canvas.own(square, 0, 0)
    half, third = canvas.overlap(square, 10, 0), canvas.overlap(square, 13, 0)
    assert half.tolist() == [200, 200] and not canvas.leaves_visible(half)
    assert third.tolist() == [260, 140] and canvas.leaves_visible(third)
    canvas.own(square, 13, 0)
    assert canvas.visible_share(1) == pytest.approx(0.65)
    assert canvas.boxes_xyxy_px() == [(0.0, 0.0, 13.0, 20.0), (13.0, 0.0, 33.0, 20.0)]


def test_sizes_are_truthful_and_leave_gaps(painted: list[tuple[Scene, Canvas]]) -> None:
    sides: dict[str, list[float]] = {size: [] for size in SIZES}
    for scene, canvas in painted:
        for number, obj in enumerate(scene.objects, start=1):
            if obj.kind != "word" and canvas.visible_share(number) == 1:
                x0, y0, x1, y1 = obj.box_xyxy_px
                sides[obj.size].append(float(np.sqrt((x1 - x0) * (y1 - y0))))
    assert all(len(found) > 10 for found in sides.values())
    assert max(sides["small"]) < 42 and min(sides["large"]) > 62
    assert min(sides["medium"]) > 34 and max(sides["medium"]) < 70


def test_solid_objects_have_the_colour_they_are_said_to_have(scenes: list[Scene]) -> None:
    names, palette = list(COLOURS), np.asarray(list(COLOURS.values()), float)
    verdicts = []
    for scene in scenes:
        for number, obj in enumerate(scene.objects, start=1):
            if scene.has_colour and obj.texture == "solid" and obj.kind != "word":
                median = np.median(scene.image[scene.instance_map == number], axis=0)
                verdicts.append(names[int(np.linalg.norm(palette - median, axis=1).argmin())] == obj.colour)
    assert len(verdicts) > 80
    assert np.mean(verdicts) > 0.95


def test_the_world_is_varied(scenes: list[Scene]) -> None:
    found = Counter(value for scene in scenes for obj in scene.objects for value in (obj.kind, obj.texture, obj.size))
    assert set(KINDS) | set(TEXTURES) | set(SIZES) <= set(found)
    grey = [scene for scene in scenes if not scene.has_colour]
    assert 2 <= len(grey) <= 20
    for scene in grey:
        spread = scene.image.max(axis=2).astype(int) - scene.image.min(axis=2)
        assert np.median(spread) < 40, "a scene without colour names must look grey"
    assert any(sum(obj.kind == "word" for obj in scene.objects) >= 6 for scene in scenes), "a page of words"


@pytest.mark.parametrize("options", [{"size": 64}, {"num_objects": (0, 3)}, {"num_objects": (5, 2)}])
def test_what_cannot_be_drawn_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is .*(expected|need)"):
        render_scene(np.random.default_rng(0), **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- phrases


def parsed(text: str) -> dict[str, str | None]:
    """Read a phrase back without the writer's code: modifiers, then one noun, singular or plural."""
    *modifiers, noun = text.split()
    meaning: dict[str, str | None] = dict.fromkeys(("kind", "colour", "texture", "size"))
    nouns = {noun: kind for kind, nouns in KINDS.items() for noun in nouns} | dict.fromkeys(ANY_SHAPE)
    irregular = {"boxes": "box", "crosses": "cross", "pluses": "plus"}
    singular = noun if noun in nouns else irregular.get(noun, noun.removesuffix("s"))
    meaning["kind"] = nouns[singular]
    order = []
    for word in modifiers:
        canonical = {"grey": "gray"}.get(word, word)
        slot = "size" if word in SIZES else "texture" if word in TEXTURES else "colour"
        assert slot != "colour" or canonical in COLOURS, f"unknown word {word!r} in {text!r}"
        assert meaning[slot] is None, f"{slot} named twice in {text!r}"
        meaning[slot] = canonical
        order.append(("size", "texture", "colour").index(slot))
    assert order == sorted(order), f"unusual word order in {text!r}"
    return meaning


def test_phrases_say_what_they_demand(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(1)
    phrases = [random_phrase(rng) for _ in range(300)]
    phrases += [phrase for scene in scenes for phrase in sample_phrases(rng, scene, 3, 3)]
    known = set(vocabulary())
    for phrase in phrases:
        meaning = {"kind": phrase.kind, "colour": phrase.colour, "texture": phrase.texture, "size": phrase.size}
        assert parsed(phrase.text) == meaning
        assert set(phrase.text.split()) <= known
        assert not (phrase.kind == "word" and phrase.texture)


def test_positive_phrases_are_true_and_negative_ones_absent(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(2)
    for scene in scenes:
        phrases = sample_phrases(rng, scene, 3, 4)
        assert len(phrases) == 7
        for phrase in phrases[:3]:
            assert any(phrase.matches(obj) for obj in scene.objects), phrase
        for phrase in phrases[3:]:
            meaning = parsed(phrase.text)
            for obj in scene.objects:
                fits = all(value is None or value == getattr(obj, name) for name, value in meaning.items())
                assert not (fits and (meaning["kind"] or obj.kind != "word")), (phrase, obj)


def test_scenes_without_colour_get_no_colour_phrases(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(3)
    grey = [scene for scene in scenes if not scene.has_colour]
    for scene in grey:
        assert all(phrase.colour is None for phrase in sample_phrases(rng, scene, 4, 4))


def test_phrases_without_a_kind_mean_shapes_and_not_words() -> None:
    star = SceneObject("star", "red", "solid", "small", (0.0, 0.0, 30.0, 30.0))
    red_object = Phrase("red object", colour="red")
    assert red_object.matches(star)
    assert not red_object.matches(replace(star, kind="word"))
    assert not red_object.matches(replace(star, colour="pink"))
    assert Phrase("red texts", kind="word", colour="red").matches(replace(star, kind="word"))


def test_most_absent_phrases_are_look_alikes() -> None:
    """A look-alike shares something with an object; with one red star, random phrases do so far less often."""
    image = np.zeros((224, 224, 3), np.uint8)
    red_star = SceneObject("star", "red", "striped", "large", (0.0, 0.0, 80.0, 80.0))
    blue_ring = SceneObject("ring", "blue", "solid", "small", (90.0, 90.0, 120.0, 120.0))
    scene = Scene(image, image[..., 0], (red_star, blue_ring))
    rng = np.random.default_rng(4)
    negatives = [phrase for _ in range(150) for phrase in sample_phrases(rng, scene, 0, 2)]
    named = [phrase for phrase in negatives if phrase.kind and phrase.colour]
    shares = [phrase.kind in ("star", "ring") or phrase.colour in ("red", "blue") for phrase in named]
    assert len(named) > 60
    assert np.mean(shares) > 0.6
    assert any(p.kind == "ring" and p.colour == "red" for p in named), "attributes of two objects mixed"


def test_forms_plurals_and_synonyms_come_in_the_planned_shares() -> None:
    rng = np.random.default_rng(5)
    phrases = [random_phrase(rng) for _ in range(3000)]
    two_words = [p for p in phrases if p.kind and p.colour and not p.texture and not p.size]
    assert 0.28 < len(two_words) / len(phrases) < 0.37
    circles = [p.text.split()[-1] for p in phrases if p.kind == "circle"]
    assert 0.12 < np.mean([noun.rstrip("s") != "circle" for noun in circles]) < 0.29
    assert 0.08 < np.mean([noun.endswith("s") for noun in circles]) < 0.23
    greys = Counter(p.text.split()[-2] for p in phrases if p.colour == "gray")
    assert set(greys) == set(COLOUR_SYNONYMS["gray"])


# ---------------------------------------------------------------- examples


def test_an_example_holds_all_and_only_the_matching_objects(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(6)
    for scene in scenes[:15]:
        phrases = sample_phrases(rng, scene, 3, 2)
        example = scene_to_example(scene, phrases, "one")
        for phrase in phrases:
            concept = example.concept(phrase.text)
            assert concept is not None
            numbers = [i for i, obj in enumerate(scene.objects, start=1) if phrase.matches(obj)]
            assert concept.status == ("positive" if numbers else "absent")
            assert concept.masks.shape == (len(numbers), 224, 224)
            for mask, box, number in zip(concept.masks, concept.boxes_xyxy_px, numbers, strict=True):
                assert np.array_equal(mask, scene.instance_map == number)
                assert tuple(box) == tight_box(mask)


def test_the_held_out_set_is_fixed_and_a_longer_one_starts_with_the_shorter() -> None:
    short, long = held_out_set(3, seed=9), held_out_set(5, seed=9)
    for one, other in zip(short, long[:3], strict=True):
        assert one.image_id == other.image_id
        assert np.array_equal(one.load_image(), other.load_image())
        asked = [[(c.phrase, c.status) for c in e.concepts if c.status != "unknown"] for e in (one, other)]
        assert asked[0] == asked[1]
        assert {status for _, status in asked[0]} == {"positive", "absent"}
    assert not np.array_equal(short[0].load_image(), held_out_set(1, seed=10)[0].load_image())


# ---------------------------------------------------------------- shifted domains


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_a_shifted_domain_is_asked_for_everything_and_labelled_exactly(name: str) -> None:
    spec = DOMAINS[name]
    data = domain_set(name, 14, seed=1)
    assert set(data.phrases) == {*spec.classes, *spec.absent_phrases}
    positive = Counter(concept.phrase for _, concept in data.pairs() if concept.status == "positive")
    for phrase in spec.classes:
        assert 1 <= positive[phrase] <= 13, f"{phrase!r} must be there in some pictures and absent in others"
    for phrase in spec.absent_phrases:
        assert positive[phrase] == 0
    for example in data:
        masks = np.concatenate([concept.masks for concept in example.concepts])
        assert masks.sum(axis=0).max() <= 1, "a pixel belongs to one object at most"
        assert len(example.concepts) == len(spec.classes) + len(spec.absent_phrases)
        for mask in masks:
            assert mask.sum() > 40
    again = domain_set(name, 2, seed=1)
    assert np.array_equal(again[1].load_image(), data[1].load_image())
    assert np.array_equal(again[1].concepts[0].masks, data[1].concepts[0].masks)


def test_masks_of_a_shifted_domain_lie_on_what_was_drawn() -> None:
    """Cells are darker than the glass around them: the masked region must differ from the unmasked one."""
    for example in domain_set("micrographs", 6, seed=2):
        image = example.load_image().astype(float).mean(axis=2)
        masks = np.concatenate([concept.masks for concept in example.concepts])
        glass = np.median(image[~masks.any(axis=0)])
        for mask in masks:
            assert image[mask].mean() < glass - 8


def test_an_unknown_domain_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'farms'.*micrographs"):
        domain_set("farms", 1, seed=0)
