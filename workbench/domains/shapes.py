"""Seeded scenes of simple shapes and words: the world the tiny model is trained on.

A random generator comes in; a scene (picture, instance map, described objects) goes out, and with phrases a labelled
example. The same generator state gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.domains import drawing
from workbench.domains.canvas import Canvas, find_place
from workbench.domains.drawing import pick
from workbench.domains.phrases import (
    ANY_SHAPE,
    COLOURS,
    KINDS,
    SIZES,
    TEXTURES,
    UNNAMED_COLOUR,
    Phrase,
    Scene,
    SceneObject,
    look_alike_phrase,
    random_phrase,
    sample_phrases,
    true_phrase,
    vocabulary,
)

if TYPE_CHECKING:
    from workbench.examples import Example, ExampleSet

__all__ = [
    "ANY_SHAPE",
    "COLOURS",
    "IMAGE_SIZE",
    "KINDS",
    "SIZES",
    "TEXTURES",
    "UNNAMED_COLOUR",
    "Phrase",
    "Scene",
    "SceneObject",
    "held_out_set",
    "look_alike_phrase",
    "random_phrase",
    "render_scene",
    "sample_phrases",
    "scene_to_example",
    "true_phrase",
    "vocabulary",
]

IMAGE_SIZE = 224

_DIAMETERS_PX = {"small": (24, 34), "medium": (44, 58), "large": (72, 98)}
_WORD_LINES_PX = {"small": (12, 17), "medium": (23, 31), "large": (42, 54)}  # the size of a word is that of its letters
_SHAPES = tuple(kind for kind in KINDS if kind != "word")
_TURNS_DEG = {"heart": 30.0, "square": 28.0, "cross": 22.0}  # beyond this a square is a diamond, a plus is an x


@dataclass(frozen=True)
class _Look:
    """What the objects of one scene have in common."""

    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    textures: tuple[str, ...]
    sizes: tuple[str, ...]
    is_photographic: bool
    contrast: float  # least distance in RGB between an object and what it lies on
    shade: float
    outline_chance: float
    shadow_chance: float
    num_objects: int
    word_chance: float = 0.0


def _subset(rng: np.random.Generator, items: tuple[str, ...], low: int, high: int) -> tuple[str, ...]:
    order = rng.permutation(len(items))[: int(rng.integers(low, high + 1))]
    return tuple(items[i] for i in order)


def _plain_look(rng: np.random.Generator, num_objects: tuple[int, int]) -> _Look:
    """Large, plainly coloured objects of many kinds: what a beginner learns shapes from."""
    return _Look(
        kinds=_subset(rng, _SHAPES, 4, len(_SHAPES)),
        colours=_subset(rng, tuple(COLOURS), 3, 6),
        textures=("solid",),
        sizes=("medium", "large"),
        is_photographic=False,
        contrast=90,
        shade=rng.uniform(0.0, 0.1),
        outline_chance=0.0,
        shadow_chance=0.0,
        num_objects=int(rng.integers(num_objects[0], num_objects[1] + 1)),
        word_chance=0.05,
    )


def _look(rng: np.random.Generator, num_objects: tuple[int, int]) -> _Look:
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    kinds = _subset(rng, _SHAPES, 2, 4)
    colours = _subset(rng, tuple(COLOURS), 2, 4)
    textures = _subset(rng, TEXTURES[1:], 1, 2)
    textures = ("solid",) * (1 + int(rng.integers(3))) + textures
    sizes: tuple[str, ...] = ("small", "small", "medium", "medium", "large")
    mood = rng.random()
    is_dense = rng.random() < 0.10
    if is_dense:
        count = int(rng.integers(8, 15))
        kinds = (kinds[0],) * 6 + kinds[1:]
        sizes = ("small", "small", "small", "medium")
    is_photographic = mood < 0.12
    if is_photographic:
        if rng.random() < 0.5:
            kinds = (*kinds, "circle", "blob", "circle")
        textures = ("solid",) * 4 + textures[-1:]
    return _Look(
        kinds=kinds,
        colours=(UNNAMED_COLOUR,) if is_photographic else colours,
        textures=textures,
        sizes=sizes,
        is_photographic=is_photographic,
        contrast=42 if is_photographic else 70,
        shade=rng.uniform(0.1, 0.4) if is_photographic else rng.uniform(0.05, 0.22),
        outline_chance=0.3 if is_photographic else pick(rng, (0.0, 0.2, 0.6)),
        shadow_chance=0.5 if is_photographic else pick(rng, (0.0, 0.0, 0.4, 0.8)),
        num_objects=count,
        word_chance=0.0 if is_photographic else pick(rng, (0.0, 0.08, 0.2)),
    )


def _jittered(rng: np.random.Generator, colour: str) -> np.ndarray:
    return np.clip(np.asarray(COLOURS[colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32), 0, 255)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    gap = one - other
    return math.sqrt(float(gap @ gap))


def _grey(rng: np.random.Generator, level: float, tint: np.ndarray) -> np.ndarray:
    return np.clip(level + tint + rng.uniform(-4, 4, 3), 6, 249).astype(np.float32)


def _ground(rng: np.random.Generator, look: _Look, size: int, tint: np.ndarray) -> np.ndarray:
    if look.is_photographic:
        level = rng.uniform(50, 190)
        field = drawing.smooth_noise(rng, size, size, int(rng.integers(3, 30))) - 0.5
        rough = drawing.smooth_noise(rng, size, size, int(rng.integers(40, 100))) - 0.5
        grey = level + np.float32(rng.uniform(8, 34)) * field + np.float32(rng.uniform(4, 22)) * rough
        return grey + tint.astype(np.float32)[:, None, None]
    colours = np.asarray([COLOURS[name] for name in look.colours], np.float32)
    vividness = np.where(np.arange(12) < 6, 30, 110)[:, None] * rng.random((12, 1))
    first = rng.uniform(20, 240, (12, 1)) + rng.uniform(-1, 1, (12, 3)) * vividness
    second = first + rng.uniform(-45, 45, (12, 1)) + rng.uniform(-25, 25, (12, 3))
    ends = np.clip(np.stack([first, second], axis=1), 4, 251).astype(np.float32)
    gaps = np.square(ends[:, :, None] - colours).sum(axis=-1).min(axis=(1, 2))
    start, end = ends[int(np.argmax(np.minimum(gaps, rng.uniform(75, 130) ** 2)))]  # the first that is far enough
    field = drawing.ground_field(rng, size, size).astype(np.float32, copy=False)
    return start[:, None, None] + field * (end - start)[:, None, None]


def _second_tone(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    light = float(colour @ np.asarray([0.3, 0.59, 0.11], np.float32))
    if light > 200:
        return colour * np.float32(rng.uniform(0.35, 0.6))
    if light < 90 or rng.random() < 0.45:
        share = np.float32(rng.uniform(0.5, 0.8))
        return colour + share * (250 - colour)
    return colour * np.float32(rng.uniform(0.25, 0.5))


def _rim_tone(rng: np.random.Generator, against: np.ndarray) -> np.ndarray:
    return np.full(3, rng.uniform(8, 40) if against.mean() > 120 else rng.uniform(215, 250), np.float32)


def _add_shape(rng: np.random.Generator, canvas: Canvas, look: _Look, tint: np.ndarray) -> SceneObject | None:
    kind, colour = pick(rng, look.kinds), pick(rng, look.colours)
    texture, size = pick(rng, look.textures), pick(rng, look.sizes)
    diameter = rng.uniform(*_DIAMETERS_PX[size])
    turn = _TURNS_DEG.get(kind, 180.0)
    alpha = drawing.outline_alpha(rng, kind, diameter, angle=rng.uniform(-turn, turn), aspect=rng.uniform(0.85, 1.15))
    weights = np.asarray(alpha, np.float32) / 255
    inside = weights > 0.5
    tone = _grey(rng, rng.uniform(25, 235), tint * 1.5) if look.is_photographic else _jittered(rng, colour)

    def is_distinct(x: int, y: int, taken: np.ndarray) -> bool:
        return _distance(canvas.mean_under(inside, x, y), tone) > look.contrast

    place = find_place(rng, canvas, inside, is_distinct)
    if place is None:
        return None
    x, y, taken = place
    if rng.random() < look.shadow_chance:
        offset = (int(rng.integers(-3, 4)), int(rng.integers(1, 5)))
        canvas.shadow(alpha, x, y, offset, rng.uniform(0.25, 0.6))
    height, width = inside.shape
    surface = np.broadcast_to(tone[:, None, None], (3, height, width))
    if texture != "solid":
        pattern = drawing.texture_field(rng, texture, height, width, diameter)
        surface = surface + pattern * (_second_tone(rng, tone) - tone)[:, None, None]
    if rng.random() < 0.6:
        surface = surface * drawing.shade_field(rng, height, width, look.shade)
    touches = int(taken[1:].sum()) > 0.04 * int(taken.sum())
    if rng.random() < (0.8 if touches else look.outline_chance):
        core = drawing.core_of(alpha, 1.0 if size == "small" else pick(rng, (1.0, 1.5)))
        rim = _rim_tone(rng, canvas.mean_under(inside, x, y) if touches else tone)[:, None, None]
        surface = rim + core * (surface - rim)
    canvas.paint(weights, surface, x, y)
    canvas.own(inside, x, y)
    return SceneObject(kind, colour, texture, size, ())


def _add_word(rng: np.random.Generator, canvas: Canvas, look: _Look, size: str | None = None) -> SceneObject | None:
    size = size or pick(rng, ("small", "medium", "medium", "large"))
    line = rng.uniform(*_WORD_LINES_PX[size])
    letters = (2, 4) if size == "large" else (2, 8)
    text = drawing.random_word(rng, letters)
    drawn = drawing.text_alpha(text, line, angle=rng.uniform(-7, 7), bold=line > 15 and rng.random() < 0.4)
    if drawn.ink.width > canvas.instances.shape[1] - 8:
        return None
    inside = np.asarray(drawn.filled) > 127
    colour = pick(rng, look.colours)
    tone = _jittered(rng, colour)
    has_plate = rng.random() < 0.3

    def is_readable(x: int, y: int, taken: np.ndarray) -> bool:
        if taken[1:].sum() > 0.1 * taken.sum():
            return False
        return has_plate or _distance(canvas.mean_under(inside, x, y), tone) > 90

    place = find_place(rng, canvas, inside, is_readable)
    if place is None:
        return None
    x, y, _ = place
    if has_plate:
        plate = np.full(3, rng.uniform(215, 250) if tone.mean() < 130 else rng.uniform(8, 60), np.float32)
        canvas.paint(np.asarray(drawn.filled, np.float32) / 255, plate, x, y)
    canvas.paint(np.asarray(drawn.ink, np.float32) / 255, tone, x, y)
    canvas.own(inside, x, y, min_visible=0.8)
    return SceneObject("word", colour, "solid", size, ())


def _page(rng: np.random.Generator, size: int) -> tuple[Canvas, list[SceneObject]]:
    """Light paper with rows of dark words, sometimes with a shape or two."""
    paper = rng.uniform(205, 248) + rng.uniform(-10, 10, 3)
    stain = drawing.smooth_noise(rng, size, size, int(rng.integers(2, 9))) * np.float32(rng.uniform(0, 22))
    canvas = Canvas(paper.astype(np.float32)[:, None, None] - stain)
    inks = ("black", pick(rng, ("black", "blue", "red", "brown", "gray", "green", "purple")))
    word_size = pick(rng, ("small", "small", "medium"))
    line = rng.uniform(*_WORD_LINES_PX[word_size])
    target, slant, is_bold = int(rng.integers(6, 15)), rng.uniform(-3, 3), line > 15 and rng.random() < 0.3
    left = rng.uniform(4, 30)
    x, y = left, rng.uniform(6, 90)
    objects: list[SceneObject] = []
    for _ in range(3 * target):
        drawn = drawing.text_alpha(drawing.random_word(rng), line, angle=slant, bold=is_bold)
        if x + drawn.ink.width > size - 3:
            x, y = left, y + line * rng.uniform(1.2, 2.2)
        if y + 1.4 * line > size - 3 or len(objects) == target:
            break
        inside, column, row = np.asarray(drawn.filled) > 127, round(x), round(y) + drawn.drop_px
        if x + drawn.ink.width <= size - 3 and not canvas.overlap(inside, column, row)[1:].any():
            colour = inks[0] if rng.random() < 0.8 else inks[1]
            canvas.paint(np.asarray(drawn.ink, np.float32) / 255, _jittered(rng, colour), column, row)
            canvas.own(inside, column, row, min_visible=0.8)
            objects.append(SceneObject("word", colour, "solid", word_size, ()))
            x += drawn.ink.width + line * rng.uniform(0.3, 0.7)
    if rng.random() < 0.4:
        look = _Look(
            kinds=_SHAPES,
            colours=inks,
            textures=TEXTURES[:1],
            sizes=("small", "medium"),
            is_photographic=False,
            contrast=90,
            shade=0.1,
            outline_chance=0.1,
            shadow_chance=0.0,
            num_objects=2,
        )
        for _ in range(int(rng.integers(1, 3))):
            added = _add_shape(rng, canvas, look, np.zeros(3))
            objects += [added] if added else []
    return canvas, objects


def render_scene(
    rng: np.random.Generator, *, size: int = IMAGE_SIZE, num_objects: tuple[int, int] = (2, 8), is_plain: bool = False
) -> Scene:
    """A random scene with at least one object; every object keeps at least 55 % of its pixels visible.

    Args:
        rng: source of every random choice.
        size: side of the square picture in pixels, at least 160.
        num_objects: inclusive range wanted in ordinary scenes; dense scenes and pages have more, crowded ones fewer.
        is_plain: only medium and large objects without texture, hardly hidden.

    Raises:
        ValueError: when the size or the range cannot be drawn.

    Example:
        >>> scene = render_scene(np.random.default_rng(0))
        >>> scene.image.shape, int(scene.instance_map.max()) == len(scene.objects)
        ((224, 224, 3), True)
    """
    if size < 160:
        raise ValueError(f"size is {size}, but large objects need at least 160 pixels; render larger and shrink")
    if not 1 <= num_objects[0] <= num_objects[1] <= 40:
        raise ValueError(f"num_objects is {num_objects}, expected (low, high) with 1 <= low <= high <= 40")
    while True:
        is_page = not is_plain and rng.random() < 0.08
        look = _plain_look(rng, num_objects) if is_plain else _look(rng, num_objects)
        if is_page:
            canvas, described = _page(rng, size)
        else:
            tint = rng.uniform(-9, 9, 3) if rng.random() < 0.5 else np.zeros(3)
            canvas = Canvas(_ground(rng, look, size, tint), min_visible=0.9 if is_plain else 0.55)
            described = []
            for _ in range(look.num_objects):
                is_word = rng.random() < look.word_chance
                added = _add_word(rng, canvas, look) if is_word else _add_shape(rng, canvas, look, tint)
                described += [added] if added else []
        if described:
            break
    is_photographic = look.is_photographic and not is_page
    image = _finish(rng, canvas, is_photographic)
    objects = tuple(
        SceneObject(item.kind, item.colour, item.texture, item.size, box)
        for item, box in zip(described, canvas.boxes_xyxy_px(), strict=True)
    )
    return Scene(image, canvas.instances, objects, has_colour=not is_photographic)


def _finish(rng: np.random.Generator, canvas: Canvas, is_photographic: bool) -> np.ndarray:
    """Lens and sensor: blur, a change of light, noise."""
    height, width = canvas.instances.shape
    if is_photographic:
        canvas.blur(rng.uniform(0.5, 1.5))
        canvas.pixels += drawing.pixel_noise(rng, height, width, 1) * np.float32(rng.uniform(2, 9))
        return canvas.image()
    if rng.random() < 0.3:
        canvas.pixels *= drawing.shade_field(rng, height, width, rng.uniform(0.05, 0.15))
    if rng.random() < 0.2:
        canvas.blur(rng.uniform(0.4, 0.9))
    if rng.random() < 0.5:
        canvas.pixels += drawing.pixel_noise(rng, height, width) * np.float32(rng.uniform(1.5, 8))
    return canvas.image()


def scene_to_example(scene: Scene, phrases: list[Phrase], image_id: str) -> Example:
    """The scene as a labelled example: phrases that match an object are positive with masks, the others absent."""
    from workbench.examples import Concept, Example

    height, width = scene.instance_map.shape
    concepts = []
    for text, phrase in {phrase.text: phrase for phrase in phrases}.items():
        numbers = [i for i, obj in enumerate(scene.objects, start=1) if phrase.matches(obj)]
        masks = scene.instance_map[None] == np.asarray(numbers, np.uint8)[:, None, None]
        boxes = np.asarray([scene.objects[i - 1].box_xyxy_px for i in numbers], np.float32).reshape(-1, 4)
        concepts.append(Concept(text, "positive" if numbers else "absent", masks, boxes))
    return Example(image_id=image_id, image=scene.image, width=width, height=height, concepts=tuple(concepts))


def held_out_set(
    num_scenes: int, seed: int, *, num_positive: int = 4, num_negative: int = 4, size: int = IMAGE_SIZE
) -> ExampleSet:
    """A fixed set of scenes for measuring, each asked for true phrases, look-alikes and random absent phrases.

    Args:
        num_scenes: how many pictures.
        seed: every scene has its own generator derived from (seed, index), so a longer set starts with the shorter one.
    """
    from workbench.examples import ExampleSet

    examples = []
    for index in range(num_scenes):
        rng = np.random.default_rng([seed, index])
        scene = render_scene(rng, size=size)
        phrases = sample_phrases(rng, scene, num_positive, num_negative)
        examples.append(scene_to_example(scene, phrases, f"shapes-{seed}-{index:05d}"))
    return ExampleSet(name=f"shapes-{seed}", examples=tuple(examples))
