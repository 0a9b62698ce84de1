"""What the objects and grounds of the shape world look like: kinds, colours, textures, tones that stand out.

A random generator comes in; a `Look`, colours (3,) and grounds (3,H,W) go out. Pictures and clips are drawn with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workbench.domains import drawing
from workbench.domains.drawing import pick
from workbench.domains.phrases import COLOURS, KINDS, TEXTURES, UNNAMED_COLOUR

DIAMETERS_PX = {"small": (24, 34), "medium": (44, 58), "large": (72, 98)}
SHAPES = tuple(kind for kind in KINDS if kind != "word")
TURNS_DEG = {"heart": 30.0, "square": 28.0, "cross": 22.0}  # beyond this a square is a diamond, a plus is an x


@dataclass(frozen=True)
class Look:
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


def plain_look(rng: np.random.Generator, num_objects: tuple[int, int]) -> Look:
    """Large, plainly coloured objects of many kinds: what a beginner learns shapes from."""
    return Look(
        kinds=_subset(rng, SHAPES, 4, len(SHAPES)),
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


def random_look(rng: np.random.Generator, num_objects: tuple[int, int]) -> Look:
    """Any look: coloured or photograph-like, textured or plain, now and then many small objects of one kind."""
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    kinds = _subset(rng, SHAPES, 2, 4)
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
    return Look(
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


def jittered(rng: np.random.Generator, colour: str) -> np.ndarray:
    """A tone (3,) float32 that still goes by the colour's name."""
    return np.clip(np.asarray(COLOURS[colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32), 0, 255)


def colour_distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far two tones (3,) are apart in RGB."""
    gap = one - other
    return math.sqrt(float(gap @ gap))


def grey_tone(rng: np.random.Generator, level: float, tint: np.ndarray) -> np.ndarray:
    """A tone (3,) float32 near a grey level 0..255, shifted by the scene's tint (3,)."""
    return np.clip(level + tint + rng.uniform(-4, 4, 3), 6, 249).astype(np.float32)


def ground(rng: np.random.Generator, look: Look, size: int, tint: np.ndarray) -> np.ndarray:
    """A ground (3,size,size) float32 from which every colour of the look stands out."""
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


def second_tone(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """The other tone of a texture on a colour (3,): much lighter or much darker."""
    light = float(colour @ np.asarray([0.3, 0.59, 0.11], np.float32))
    if light > 200:
        return colour * np.float32(rng.uniform(0.35, 0.6))
    if light < 90 or rng.random() < 0.45:
        share = np.float32(rng.uniform(0.5, 0.8))
        return colour + share * (250 - colour)
    return colour * np.float32(rng.uniform(0.25, 0.5))


def rim_tone(rng: np.random.Generator, against: np.ndarray) -> np.ndarray:
    """A near-black or near-white outline (3,) that shows on a tone."""
    return np.full(3, rng.uniform(8, 40) if against.mean() > 120 else rng.uniform(215, 250), np.float32)
