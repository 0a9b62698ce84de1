"""Rendered streets seen from the side: vehicles in lanes, people on the pavement, signals on posts, houses behind."""

from __future__ import annotations

import math

import numpy as np

from workbench.domains import drawing
from workbench.domains.canvas import Canvas, LabelledPicture
from workbench.domains.drawing import pick
from workbench.domains.sprites import Sprite, stamp

CLASSES = ("car", "truck", "bus", "traffic light", "pedestrian")

Drawn = tuple[np.ndarray, np.ndarray]

_PAINTS = (
    (196, 40, 44), (40, 84, 168), (232, 232, 228), (44, 46, 50), (150, 156, 160),
    (222, 178, 52), (54, 120, 74), (120, 70, 48), (90, 160, 190),
)  # fmt: skip
_GLASS, _TYRE, _HUB = (70, 92, 108), (24, 24, 26), (150, 150, 152)


def render_road(rng: np.random.Generator, *, size: int = 224) -> LabelledPicture:
    """A street with any of: cars, trucks, buses, traffic lights (the housing, without its post), pedestrians.

    Example:
        >>> render_road(np.random.default_rng(0)).image.shape
        (224, 224, 3)
    """
    kerb = rng.uniform(0.42, 0.52) * size
    canvas = Canvas(_street(rng, size, kerb), min_visible=0.6)
    wanted = _counts(rng)
    names: list[str] = []
    for _ in range(wanted["traffic light"]):
        names += _place_signal(rng, canvas, size, kerb)
    people = [_pedestrian(rng, rng.uniform(30, 46)) for _ in range(wanted["pedestrian"])]
    for drawn in people:
        feet = kerb + rng.uniform(-1, 0.04 * size)
        names += ["pedestrian"] * _try_places(rng, canvas, drawn, size, feet)
    vehicles = [name for name in ("car", "truck", "bus") for _ in range(wanted[name])]
    lanes = [(kerb + share * (size - kerb), scale) for share, scale in ((0.38, 0.8), (0.64, 0.95), (0.93, 1.12))]
    draw = {"car": _car, "truck": _truck, "bus": _bus}
    placed = [(pick(rng, lanes), vehicles[i]) for i in rng.permutation(len(vehicles))]
    for (ground, scale), name in sorted(placed, key=lambda item: item[0][0]):
        drawn = draw[name](rng, scale * size / 224)
        names += [name] * _try_places(rng, canvas, drawn, size, ground, has_shadow=True)
    if not names:
        return render_road(rng, size=size)
    _weather(rng, canvas, size)
    return LabelledPicture(canvas.image(), canvas.instances, tuple(names))


def _counts(rng: np.random.Generator) -> dict[str, int]:
    most = {"car": 4, "truck": 2, "bus": 2, "traffic light": 2, "pedestrian": 4}
    chance = {"car": 0.7, "truck": 0.45, "bus": 0.4, "traffic light": 0.5, "pedestrian": 0.55}
    return {name: int(rng.integers(1, most[name] + 1)) * int(rng.random() < chance[name]) for name in CLASSES}


def _try_places(
    rng: np.random.Generator, canvas: Canvas, drawn: Drawn, size: int, ground: float, *, has_shadow: bool = False
) -> bool:
    """Stand a sprite with its feet at `ground` somewhere along the street; False when there is no room."""
    height, width = drawn[1].shape
    for _ in range(10):
        x, y = int(rng.integers(2, max(3, size - width - 2))), round(ground) - height
        inside = drawn[1] > 0.5
        if y < 0 or y + height > size or x + width > size:
            continue
        taken = canvas.overlap(inside, x, y)
        if canvas.leaves_visible(taken) and taken[1:].sum() < 0.35 * taken.sum():
            if has_shadow:
                y_axis, x_axis = np.ogrid[-1:1:9j, -1 : 1 : width * 1j]
                dark = np.clip(1 - np.hypot(x_axis, y_axis), 0, 0.6).astype(np.float32)
                canvas.paint(dark, np.full(3, 14, np.float32), x, y + height - 6)
            return stamp(canvas, drawn, x, y)
    return False


# ---------------------------------------------------------------- the street


def _street(rng: np.random.Generator, size: int, kerb: float) -> np.ndarray:
    picture = Sprite(size, size, (150, 190, 225))
    bright = rng.uniform(0.7, 1.05)
    sky = np.asarray(pick(rng, ((150, 190, 226), (204, 208, 212), (232, 200, 170)))) * bright
    picture.rectangle(0, 0, size, size, sky)
    base, x = kerb - 0.05 * size, -10.0
    while x < size:
        wide, high = rng.uniform(28, 70), rng.uniform(0.45, 0.95) * base
        wall = (rng.uniform(90, 210) + rng.uniform(-22, 22, 3)) * bright
        picture.rectangle(x, base - high, x + wide, base, wall)
        step_x, step_y, light = rng.uniform(9, 14), rng.uniform(12, 18), rng.uniform(0.45, 1.25)
        for row in np.arange(base - high + 5, base - 12, step_y):
            for column in np.arange(x + 4, x + wide - 6, step_x):
                picture.rectangle(column, row, column + 0.5 * step_x, row + 0.55 * step_y, wall * light)
        x += wide + max(0.0, rng.uniform(-20, 8))
    picture.rectangle(0, base, size, kerb + 0.05 * size, np.asarray([168, 162, 154]) * bright)
    asphalt = rng.uniform(70, 105) * bright
    picture.rectangle(0, kerb + 0.05 * size, size, size, (asphalt, asphalt, asphalt + 4))
    picture.rectangle(0, kerb + 0.045 * size, size, kerb + 0.06 * size, np.asarray([198, 194, 188]) * bright)
    for share, thick in ((0.46, 1.6), (0.73, 2.4)):
        y, gap, start = kerb + share * (size - kerb), rng.uniform(24, 40), rng.uniform(-30, 0)
        for column in np.arange(start, size, gap):
            picture.rectangle(column, y, column + 0.55 * gap, y + thick, np.asarray([222, 220, 210]) * bright)
    colours, _ = picture.drawn()
    rough = drawing.smooth_noise(rng, size, size, 60) - 0.5
    return colours + np.float32(16) * rough


def _weather(rng: np.random.Generator, canvas: Canvas, size: int) -> None:
    mood = rng.random()
    if mood < 0.2:
        dusk = np.asarray([rng.uniform(0.45, 0.65), rng.uniform(0.45, 0.65), rng.uniform(0.6, 0.8)], np.float32)
        canvas.pixels *= dusk[:, None, None]
    elif mood < 0.4:
        haze = np.float32(rng.uniform(0.15, 0.35))
        canvas.pixels += haze * (205 - canvas.pixels)
    canvas.blur(rng.uniform(0.35, 0.8))
    canvas.pixels += drawing.pixel_noise(rng, size, size) * np.float32(rng.uniform(1.5, 6))


# ---------------------------------------------------------------- things in it


def _wheels(sprite: Sprite, centres: tuple[float, ...], y: float, radius: float) -> None:
    for x in centres:
        sprite.ellipse(x, y, radius, radius, _TYRE)
        sprite.ellipse(x, y, 0.45 * radius, 0.45 * radius, _HUB)


def _paint(rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.asarray(pick(rng, _PAINTS)) + rng.uniform(-14, 14, 3), 8, 245)


def _car(rng: np.random.Generator, scale: float) -> Drawn:
    w, h = rng.uniform(50, 64) * scale, rng.uniform(20, 24) * scale
    paint, r = _paint(rng), 0.2 * h
    sprite = Sprite(w, h, paint)
    front, back = rng.uniform(0.2, 0.32), rng.uniform(0.74, 0.94)
    sprite.polygon([(front * w, 0.5 * h), ((front + 0.13) * w, 0), ((back - 0.1) * w, 0), (back * w, 0.5 * h)], paint)
    sprite.rectangle(0, 0.42 * h, w, 0.84 * h, paint, radius=0.16 * h)
    left, right, middle = (front + 0.07) * w, (back - 0.06) * w, (front + back) / 2 * w
    sprite.polygon(
        [(left, 0.44 * h), (left + 0.09 * w, 0.09 * h), (middle - 1, 0.09 * h), (middle - 1, 0.44 * h)], _GLASS
    )
    sprite.polygon(
        [(middle + 1, 0.44 * h), (middle + 1, 0.09 * h), (right - 0.06 * w, 0.09 * h), (right, 0.44 * h)], _GLASS
    )
    sprite.rectangle(0, 0.5 * h, 0.05 * w, 0.6 * h, (250, 240, 190))
    sprite.rectangle(0.96 * w, 0.5 * h, w, 0.6 * h, (190, 30, 30))
    _wheels(sprite, (0.2 * w, 0.8 * w), h - r, r)
    return sprite.drawn(is_mirrored=bool(rng.random() < 0.5))


def _truck(rng: np.random.Generator, scale: float) -> Drawn:
    w, h = rng.uniform(72, 92) * scale, rng.uniform(36, 44) * scale
    paint, cargo, r = _paint(rng), rng.uniform(150, 240) + rng.uniform(-25, 25, 3), 0.12 * h
    sprite = Sprite(w, h, paint)
    sprite.rectangle(0.1 * w, 0.76 * h, w, 0.88 * h, (58, 58, 60))
    sprite.rectangle(0.3 * w, 0, w, 0.78 * h, cargo, radius=1)
    for share in (0.47, 0.65, 0.83):
        sprite.rectangle(share * w, 0.03 * h, share * w + 0.8, 0.75 * h, cargo * 0.86)
    sprite.polygon(
        [(0, 0.5 * h), (0.06 * w, 0.22 * h), (0.26 * w, 0.22 * h), (0.26 * w, 0.88 * h), (0, 0.88 * h)], paint
    )
    sprite.polygon([(0.03 * w, 0.52 * h), (0.08 * w, 0.28 * h), (0.19 * w, 0.28 * h), (0.19 * w, 0.52 * h)], _GLASS)
    _wheels(sprite, (0.14 * w, 0.66 * w, 0.84 * w), h - r, r)
    return sprite.drawn(is_mirrored=bool(rng.random() < 0.5))


def _bus(rng: np.random.Generator, scale: float) -> Drawn:
    w, h = rng.uniform(92, 118) * scale, rng.uniform(32, 38) * scale
    paint, r = _paint(rng), 0.13 * h
    sprite = Sprite(w, h, paint)
    sprite.rectangle(0, 0, w, 0.88 * h, paint, radius=0.1 * h)
    sprite.rectangle(0, 0.62 * h, w, 0.68 * h, paint * 0.6 + 90)
    windows = int(rng.integers(6, 9))
    for i in range(windows):
        x = (0.03 + 0.94 * i / windows) * w
        sprite.rectangle(x, 0.13 * h, x + 0.94 * w / windows - 1.6, 0.5 * h, _GLASS)
    sprite.rectangle(0.12 * w, 0.16 * h, 0.2 * w, 0.86 * h, np.asarray(_GLASS) * 0.8)
    _wheels(sprite, (0.27 * w, 0.8 * w), h - r, r)
    return sprite.drawn(is_mirrored=bool(rng.random() < 0.5))


def _pedestrian(rng: np.random.Generator, tall: float) -> Drawn:
    w, middle = 0.46 * tall, 0.23 * tall
    coat, legs = _paint(rng), np.asarray(pick(rng, ((40, 44, 70), (60, 50, 44), (30, 30, 32), (110, 110, 120))))
    skin = np.asarray(pick(rng, ((232, 190, 160), (176, 124, 90), (110, 74, 54))))
    sprite = Sprite(w, tall, coat)
    stride = rng.uniform(0.03, 0.14) * tall
    for foot in (middle - stride, middle + stride):
        sprite.line([(middle, 0.5 * tall), (foot, 0.98 * tall)], 0.1 * tall, legs)
    swing = rng.uniform(0.08, 0.17) * tall
    for hand in (middle - swing, middle + swing):
        sprite.line([(middle, 0.24 * tall), (hand, 0.5 * tall)], 0.08 * tall, coat * 0.85)
    sprite.rectangle(middle - 0.11 * tall, 0.19 * tall, middle + 0.11 * tall, 0.56 * tall, coat, radius=0.06 * tall)
    sprite.ellipse(middle, 0.1 * tall, 0.075 * tall, 0.095 * tall, skin)
    sprite.ellipse(middle, 0.06 * tall, 0.078 * tall, 0.06 * tall, (48, 36, 30))
    return sprite.drawn(is_mirrored=bool(rng.random() < 0.5))


def _place_signal(rng: np.random.Generator, canvas: Canvas, size: int, kerb: float) -> list[str]:
    w, h = rng.uniform(13, 17), rng.uniform(34, 44)
    housing = np.asarray(pick(rng, ((34, 36, 38), (40, 52, 44), (196, 160, 40))))
    sprite = Sprite(w, h, housing)
    sprite.rectangle(0, 0, w - 0.5, h - 0.5, housing, radius=0.18 * w)
    lit = int(rng.integers(3))
    for i, lamp in enumerate(((250, 50, 44), (255, 196, 40), (60, 230, 110))):
        colour = np.asarray(lamp) * (1.0 if i == lit else 0.28)
        sprite.ellipse(w / 2, (0.19 + 0.31 * i) * h, 0.28 * w, 0.28 * w, colour)
    drawn = sprite.drawn()
    height, width = drawn[1].shape
    x, y = int(rng.integers(4, size - width - 4)), round(kerb - rng.uniform(0.34, 0.44) * size)
    if canvas.overlap(np.ones((height, width), bool), x, max(0, y))[1:].any() or y < 0:
        return []
    post = np.ones((math.ceil(kerb + 0.03 * size) - y - height, 3), np.float32)
    canvas.paint(post, np.full(3, 62, np.float32), x + width // 2 - 1, y + height)
    return ["traffic light"] if stamp(canvas, drawn, x, y) else []
