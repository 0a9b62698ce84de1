"""Rendered blood smears: stained cells, bacteria and debris under a microscope that is never quite in focus."""

from __future__ import annotations

import math

import numpy as np

from workbench.domains import drawing
from workbench.domains.canvas import Canvas, LabelledPicture, find_place
from workbench.domains.sprites import Sprite

CLASSES = ("lymphocyte", "neutrophil", "red blood cell", "bacterium")


def render_micrograph(rng: np.random.Generator, *, size: int = 224) -> LabelledPicture:
    """A smear with any of: red blood cells (pale centre), lymphocytes (one round dark nucleus), neutrophils (a lobed
    nucleus in pale cytoplasm), bacteria (short dark rods). Debris and stain spots belong to no class.

    Example:
        >>> render_micrograph(np.random.default_rng(0)).image.shape
        (224, 224, 3)
    """
    stain = rng.uniform(-14, 14, 3)
    canvas = Canvas(_slide(rng, size, stain), min_visible=0.7)
    wanted = _counts(rng)
    names: list[str] = []
    for name, draw in zip(CLASSES, (_lymphocyte, _neutrophil, _red_cell, _rod), strict=True):
        for _ in range(wanted[name]):
            colours, alpha = draw(rng, stain)
            inside = alpha > 0.5
            place = find_place(rng, canvas, inside, lambda x, y, taken: taken[1:].sum() < 0.12 * taken.sum())
            if place is not None:
                canvas.paint(alpha, colours, place[0], place[1])
                canvas.own(inside, place[0], place[1])
                names.append(name)
    _debris(rng, canvas, size)
    canvas.blur(rng.uniform(0.4, 1.1))
    canvas.pixels *= _vignette(size, rng.uniform(0.0, 0.22))
    canvas.pixels += drawing.pixel_noise(rng, size, size) * np.float32(rng.uniform(2, 7))
    return LabelledPicture(canvas.image(), canvas.instances, tuple(names))


def _counts(rng: np.random.Generator) -> dict[str, int]:
    while True:
        counts = {
            "lymphocyte": int(rng.integers(1, 4)) * int(rng.random() < 0.55),
            "neutrophil": int(rng.integers(1, 4)) * int(rng.random() < 0.55),
            "red blood cell": int(rng.integers(3, 13)) * int(rng.random() < 0.75),
            "bacterium": int(rng.integers(2, 9)) * int(rng.random() < 0.45),
        }
        if any(counts.values()):
            return counts


def _slide(rng: np.random.Generator, size: int, stain: np.ndarray) -> np.ndarray:
    glass = np.asarray([236, 222, 226]) + 0.5 * stain + rng.uniform(-10, 6)
    uneven = drawing.smooth_noise(rng, size, size, int(rng.integers(2, 6))) - 0.5
    return glass[:, None, None] + np.asarray([10, 18, 12])[:, None, None] * uneven


def _vignette(size: int, strength: float) -> np.ndarray:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return 1 - np.float32(strength) * (axis[None, :] ** 2 + axis[:, None] ** 2) / 2


def _round_cell(
    rng: np.random.Generator, diameter: float, colour: np.ndarray, roughness: float
) -> tuple[Sprite, list[tuple[float, float]]]:
    """A sprite holding one slightly uneven disc, and the disc's rim points."""
    middle = diameter * 0.62
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    radii = np.full(60, diameter / 2)
    for order in (2, 3):
        radii = radii * (1 + roughness * rng.uniform(0.2, 1) * np.cos(order * angles + rng.uniform(0, 6.3)))
    rim = [(middle + r * math.cos(a), middle + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]
    sprite = Sprite(2 * middle, 2 * middle, colour)
    sprite.polygon(rim, colour)
    return sprite, rim


def _textured(
    rng: np.random.Generator, drawn: tuple[np.ndarray, np.ndarray], depth: float
) -> tuple[np.ndarray, np.ndarray]:
    colours, alpha = drawn
    height, width = alpha.shape
    grain = drawing.smooth_noise(rng, height, width, max(4, height // 4)) - 0.5
    return colours + np.float32(depth) * grain, alpha * np.float32(rng.uniform(0.88, 1.0))


def _lymphocyte(rng: np.random.Generator, stain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    diameter = rng.uniform(32, 44)
    cytoplasm = np.asarray([176, 186, 222]) + stain + rng.uniform(-8, 8, 3)
    sprite, _ = _round_cell(rng, diameter, cytoplasm, 0.03)
    middle, nucleus = diameter * 0.62, diameter / 2 * rng.uniform(0.76, 0.88)
    shift = diameter / 2 - nucleus
    x, y = middle + rng.uniform(-0.6, 0.6) * shift, middle + rng.uniform(-0.6, 0.6) * shift
    sprite.ellipse(x, y, nucleus, nucleus * rng.uniform(0.92, 1.0), np.asarray([92, 52, 138]) + stain)
    return _textured(rng, sprite.drawn(angle=rng.uniform(0, 360)), 34)


def _neutrophil(rng: np.random.Generator, stain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    diameter = rng.uniform(42, 56)
    cytoplasm = np.asarray([226, 190, 206]) + stain + rng.uniform(-8, 8, 3)
    sprite, rim = _round_cell(rng, diameter, cytoplasm - 24, 0.04)
    middle = diameter * 0.62
    sprite.polygon([(middle + 0.95 * (x - middle), middle + 0.95 * (y - middle)) for x, y in rim], cytoplasm)
    nucleus = np.asarray([104, 58, 140]) + stain
    lobes, turn = int(rng.integers(3, 5)), rng.uniform(0, 6.3)
    step = rng.uniform(1.05, 1.4)
    centres = [
        (middle + 0.24 * diameter * math.cos(turn + i * step), middle + 0.24 * diameter * math.sin(turn + i * step))
        for i in range(lobes)
    ]
    sprite.line(centres, diameter * 0.07, nucleus)
    for x, y in centres:
        radius = diameter * rng.uniform(0.115, 0.15)
        sprite.ellipse(x, y, radius, radius * rng.uniform(0.8, 1.1), nucleus)
    return _textured(rng, sprite.drawn(angle=rng.uniform(0, 360)), 30)


def _red_cell(rng: np.random.Generator, stain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    diameter = rng.uniform(24, 34)
    body = np.asarray([222, 138, 132]) + stain + rng.uniform(-10, 10)
    sprite, _ = _round_cell(rng, diameter, body, 0.05)
    colours, alpha = sprite.drawn()
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in alpha.shape)
    distance = np.hypot(x[None, :], y[:, None])
    paleness = np.clip(1 - distance / rng.uniform(0.45, 0.7), 0, 1) * np.float32(rng.uniform(40, 90))
    return colours + paleness - 26 * np.clip(distance - 0.75, 0, 0.25) * 4, alpha * np.float32(rng.uniform(0.8, 0.95))


def _rod(rng: np.random.Generator, stain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length, width = rng.uniform(15, 25), rng.uniform(5.5, 8)
    colour = np.asarray([62, 58, 128]) + 0.6 * stain + rng.uniform(-10, 10)
    sprite = Sprite(length + 2, width + 2, colour)
    sprite.rectangle(1, 1, length + 1, width + 1, colour, radius=width / 2)
    return sprite.drawn(angle=rng.uniform(0, 360))


def _debris(rng: np.random.Generator, canvas: Canvas, size: int) -> None:
    """Specks and faint stain clouds on the free glass, and fine dirt over everything."""
    for _ in range(int(rng.integers(0, 9))):
        is_cloud = rng.random() < 0.4
        diameter = rng.uniform(14, 30) if is_cloud else rng.uniform(3, 6)
        alpha = np.asarray(drawing.outline_alpha(rng, "blob", diameter, angle=rng.uniform(0, 360)), np.float32) / 255
        colour = np.asarray([196, 170, 200] if is_cloud else [120, 96, 130], np.float32) + rng.uniform(-20, 20)
        place = find_place(rng, canvas, alpha > 0, lambda x, y, taken: not taken[1:].any(), tries=4)
        if place is not None:
            canvas.paint(alpha * np.float32(0.3 if is_cloud else 0.7), colour.astype(np.float32), place[0], place[1])
    for _ in range(int(rng.integers(0, 4))):
        spot = np.full((2, 2), rng.uniform(0.2, 0.5), np.float32)
        canvas.paint(spot, np.full(3, 60, np.float32), int(rng.integers(size)), int(rng.integers(size)))
