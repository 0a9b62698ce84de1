"""The concepts of the shape world, and the noun phrases that are true or absent in a scene of it.

A scene's described objects come in; phrases with the attributes they demand go out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.domains.drawing import pick, pick_weighted

KINDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "coin", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "donut"),
    "heart": ("heart",),
    "crescent": ("crescent", "moon"),
    "blob": ("blob", "cell"),
    "word": ("word", "text"),
}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "orange": (246, 132, 28),
    "yellow": (248, 220, 52),
    "green": (44, 158, 60),
    "cyan": (48, 204, 214),
    "blue": (36, 78, 212),
    "purple": (128, 48, 172),
    "pink": (248, 136, 190),
    "brown": (118, 70, 34),
    "black": (26, 26, 28),
    "white": (244, 244, 244),
    "gray": (134, 135, 138),
}
COLOUR_SYNONYMS: dict[str, tuple[str, ...]] = {"gray": ("gray", "grey")}
TEXTURES = ("solid", "striped", "dotted", "checkered")
SIZES = ("small", "medium", "large")
UNNAMED_COLOUR = "unnamed"  # objects of grey, photograph-like scenes: no phrase speaks of their colour
ANY_SHAPE = ("shape", "object")  # nouns for every kind except words


_PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses", "text": "text"}
_FORMS = (  # attributes named, weight
    (("kind",), 12),
    (("colour", "kind"), 32),
    (("texture", "kind"), 8),
    (("size", "kind"), 10),
    (("size", "colour", "kind"), 10),
    (("texture", "colour", "kind"), 9),
    (("colour",), 10),
    (("texture",), 4),
    (("size", "colour"), 5),
)


@dataclass(frozen=True)
class SceneObject:
    """One object: its four attributes and the tight box of its visible pixels (x1 and y1 exclusive)."""

    kind: str
    colour: str
    texture: str
    size: str
    box_xyxy_px: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """A rendered picture with exact truth.

    Args:
        image: (H,W,3) uint8 RGB.
        instance_map: (H,W) uint8; 0 is ground, i belongs to `objects[i - 1]`.
        objects: what is in the picture, in painting order.
        has_colour: False when the picture is too grey to speak of colours.
    """

    image: np.ndarray
    instance_map: np.ndarray
    objects: tuple[SceneObject, ...]
    has_colour: bool = True


@dataclass(frozen=True)
class Phrase:
    """A noun phrase and what it demands; None means any. Without a kind it means every shape, but no word."""

    text: str
    kind: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    def matches(self, obj: SceneObject) -> bool:
        """Whether the phrase is true of an object.

        Example:
            >>> coin = SceneObject("circle", "red", "solid", "small", (0.0, 0.0, 30.0, 30.0))
            >>> Phrase("red coins", kind="circle", colour="red").matches(coin)
            True
        """
        if self.kind is None and obj.kind == "word":
            return False
        return all(
            wanted is None or wanted == actual
            for wanted, actual in (
                (self.kind, obj.kind),
                (self.colour, obj.colour),
                (self.texture, obj.texture),
                (self.size, obj.size),
            )
        )


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _worded(rng: np.random.Generator, attributes: dict[str, str]) -> Phrase:
    """Put demanded attributes into words: size, texture, colour, noun."""
    kind, colour = attributes.get("kind"), attributes.get("colour")
    if kind is None:
        noun = ANY_SHAPE[0] if rng.random() < 0.6 else ANY_SHAPE[1]
    else:
        nouns = KINDS[kind]
        noun = pick(rng, nouns[1:]) if len(nouns) > 1 and rng.random() < 0.2 else nouns[0]
    if rng.random() < 0.15:
        noun = _plural(noun)
    words = [attributes[name] for name in ("size", "texture") if name in attributes]
    if colour is not None:
        names = COLOUR_SYNONYMS.get(colour, (colour,))
        words.append(names[-1] if rng.random() < 0.3 else names[0])
    return Phrase(" ".join([*words, noun]), kind, colour, attributes.get("texture"), attributes.get("size"))


def _form(rng: np.random.Generator, has_colour: bool) -> tuple[str, ...]:
    forms = _FORMS if has_colour else tuple(item for item in _FORMS if "colour" not in item[0])
    return pick_weighted(rng, [form for form, _ in forms], [weight for _, weight in forms])


def _is_sayable(attributes: dict[str, str]) -> bool:
    return not (attributes.get("kind") == "word" and "texture" in attributes)


def random_phrase(rng: np.random.Generator, *, has_colour: bool = True) -> Phrase:
    """A phrase drawn without looking at any scene.

    Args:
        has_colour: False leaves out every form that names a colour.
    """
    values = {"kind": tuple(KINDS), "colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES}
    while True:
        attributes = {name: pick(rng, values[name]) for name in _form(rng, has_colour)}
        if _is_sayable(attributes):
            return _worded(rng, attributes)


def true_phrase(rng: np.random.Generator, scene: Scene) -> Phrase:
    """A phrase that is true of a randomly chosen object of the scene."""
    while True:
        obj = pick(rng, scene.objects)
        attributes = {name: getattr(obj, name) for name in _form(rng, scene.has_colour)}
        if _is_sayable(attributes) and ("kind" in attributes or obj.kind != "word"):
            return _worded(rng, attributes)
        if obj.kind == "word":
            return _worded(rng, {"kind": "word"} | ({"size": obj.size} if rng.random() < 0.5 else {}))


def look_alike_phrase(rng: np.random.Generator, scene: Scene) -> Phrase | None:
    """A phrase that is nearly true: attributes mixed from two objects, or one changed; None when it came out true."""
    values = {"kind": tuple(KINDS), "colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES}
    form = _form(rng, scene.has_colour)
    one, other = pick(rng, scene.objects), pick(rng, scene.objects)
    attributes = {name: getattr(one if rng.random() < 0.5 else other, name) for name in form}
    if len(form) == 1 or rng.random() < 0.5:
        changed = pick(rng, form)
        attributes = {name: getattr(one, name) for name in form} | {changed: pick(rng, values[changed])}
    phrase = _worded(rng, attributes)
    return phrase if _is_sayable(attributes) and not any(map(phrase.matches, scene.objects)) else None


def sample_phrases(rng: np.random.Generator, scene: Scene, num_positive: int, num_negative: int) -> list[Phrase]:
    """True phrases of the scene first, then absent ones; of the absent ones 70 % are look-alikes.

    Demands differ as far as the scene allows; a very plain scene may see the same demand in other words, or twice.

    Returns:
        `num_positive + num_negative` phrases.
    """
    phrases: list[Phrase] = []
    seen: set[tuple[str | None, ...]] = set()

    def add(phrase: Phrase | None, *, may_repeat: bool) -> bool:
        if phrase is None:
            return False
        demand = (phrase.kind, phrase.colour, phrase.texture, phrase.size)
        if demand in seen and not may_repeat:
            return False
        seen.add(demand)
        phrases.append(phrase)
        return True

    for _ in range(num_positive):
        attempt = 0
        while not add(true_phrase(rng, scene), may_repeat=attempt > 30):
            attempt += 1
    for _ in range(num_negative):
        attempt, is_look_alike = 0, rng.random() < 0.7
        while True:
            phrase: Phrase | None
            if is_look_alike and attempt < 40:
                phrase = look_alike_phrase(rng, scene)
            else:
                phrase = random_phrase(rng, has_colour=scene.has_colour)
                phrase = None if any(map(phrase.matches, scene.objects)) else phrase
            if add(phrase, may_repeat=attempt > 80):
                break
            attempt += 1
    return phrases


def vocabulary() -> tuple[str, ...]:
    """Every word a phrase of this world can contain, sorted."""
    nouns = [noun for nouns in (*KINDS.values(), ANY_SHAPE) for noun in nouns]
    colours = [name for colour in COLOURS for name in COLOUR_SYNONYMS.get(colour, (colour,))]
    return tuple(sorted({*nouns, *map(_plural, nouns), *colours, *TEXTURES, *SIZES}))
