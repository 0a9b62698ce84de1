"""Seeded scenes of simple shapes and words: the world the tiny model is trained on.

A random generator comes in; a scene (picture, instance map, described objects) goes out, and with phrases a labelled
example. The same generator state gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.domains import drawing
from workbench.domains.canvas import Canvas, find_place
from workbench.domains.drawing import pick
from workbench.domains.looks import (
    DIAMETERS_PX,
    SHAPES,
    TURNS_DEG,
    Look,
    colour_distance,
    grey_tone,
    ground,
    jittered,
    plain_look,
    random_look,
    rim_tone,
    second_tone,
)
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

_WORD_LINES_PX = {"small": (12, 17), "medium": (23, 31), "large": (42, 54)}  # the size of a word is that of its letters


def _add_shape(rng: np.random.Generator, canvas: Canvas, look: Look, tint: np.ndarray) -> SceneObject | None:
    kind, colour = pick(rng, look.kinds), pick(rng, look.colours)
    texture, size = pick(rng, look.textures), pick(rng, look.sizes)
    diameter = rng.uniform(*DIAMETERS_PX[size])
    turn = TURNS_DEG.get(kind, 180.0)
    alpha = drawing.outline_alpha(rng, kind, diameter, angle=rng.uniform(-turn, turn), aspect=rng.uniform(0.85, 1.15))
    weights = np.asarray(alpha, np.float32) / 255
    inside = weights > 0.5
    tone = grey_tone(rng, rng.uniform(25, 235), tint * 1.5) if look.is_photographic else jittered(rng, colour)

    def is_distinct(x: int, y: int, taken: np.ndarray) -> bool:
        return colour_distance(canvas.mean_under(inside, x, y), tone) > look.contrast

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
        surface = surface + pattern * (second_tone(rng, tone) - tone)[:, None, None]
    if rng.random() < 0.6:
        surface = surface * drawing.shade_field(rng, height, width, look.shade)
    touches = int(taken[1:].sum()) > 0.04 * int(taken.sum())
    if rng.random() < (0.8 if touches else look.outline_chance):
        core = drawing.core_of(alpha, 1.0 if size == "small" else pick(rng, (1.0, 1.5)))
        rim = rim_tone(rng, canvas.mean_under(inside, x, y) if touches else tone)[:, None, None]
        surface = rim + core * (surface - rim)
    canvas.paint(weights, surface, x, y)
    canvas.own(inside, x, y)
    return SceneObject(kind, colour, texture, size, ())


def _add_word(rng: np.random.Generator, canvas: Canvas, look: Look, size: str | None = None) -> SceneObject | None:
    size = size or pick(rng, ("small", "medium", "medium", "large"))
    line = rng.uniform(*_WORD_LINES_PX[size])
    letters = (2, 4) if size == "large" else (2, 8)
    text = drawing.random_word(rng, letters)
    drawn = drawing.text_alpha(text, line, angle=rng.uniform(-7, 7), bold=line > 15 and rng.random() < 0.4)
    if drawn.ink.width > canvas.instances.shape[1] - 8:
        return None
    inside = np.asarray(drawn.filled) > 127
    colour = pick(rng, look.colours)
    tone = jittered(rng, colour)
    has_plate = rng.random() < 0.3

    def is_readable(x: int, y: int, taken: np.ndarray) -> bool:
        if taken[1:].sum() > 0.1 * taken.sum():
            return False
        return has_plate or colour_distance(canvas.mean_under(inside, x, y), tone) > 90

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
            canvas.paint(np.asarray(drawn.ink, np.float32) / 255, jittered(rng, colour), column, row)
            canvas.own(inside, column, row, min_visible=0.8)
            objects.append(SceneObject("word", colour, "solid", word_size, ()))
            x += drawn.ink.width + line * rng.uniform(0.3, 0.7)
    if rng.random() < 0.4:
        look = Look(
            kinds=SHAPES,
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
        look = plain_look(rng, num_objects) if is_plain else random_look(rng, num_objects)
        if is_page:
            canvas, described = _page(rng, size)
        else:
            tint = rng.uniform(-9, 9, 3) if rng.random() < 0.5 else np.zeros(3)
            canvas = Canvas(ground(rng, look, size, tint), min_visible=0.9 if is_plain else 0.55)
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
