"""What every rendered domain draws with: outlines and words as alpha crops; grounds, textures and light as fields.

Nothing here knows about scenes or phrases; `canvas` blends the crops into a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Item = TypeVar("Item")

_MASTER_SIDE = 432  # outlines are drawn once at this size, covering [-0.75, 0.75] in units of the shape's diameter
_REACH = 0.75
_LEVEL_DIAMETERS = (30, 52, 88)  # nominal diameters of the prepared reductions
_LETTERS_LOW = "etaoinshrdlucmfwypvbgk"


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One item, uniformly; much faster than `Generator.choice` on a short sequence."""
    return items[int(rng.integers(len(items)))]


def pick_weighted(rng: np.random.Generator, items: Sequence[Item], weights: Sequence[float]) -> Item:
    """One item with probability proportional to its weight."""
    mark = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        mark -= weight
        if mark < 0:
            return item
    return items[-1]


# ---------------------------------------------------------------- outlines


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(_MASTER_SIDE, dtype=np.float32) + 0.5) / _MASTER_SIDE * 2 * _REACH - _REACH
    return axis[None, :], axis[:, None]


def _polygon(points: np.ndarray) -> np.ndarray:
    canvas = Image.new("L", (_MASTER_SIDE, _MASTER_SIDE), 0)
    corners = (points + _REACH) / (2 * _REACH) * _MASTER_SIDE
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return np.asarray(canvas) > 0


def _star(points: int, inner: float) -> np.ndarray:
    angles = np.arange(2 * points) * math.pi / points - math.pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 0.56, 0.56 * inner)
    return _polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def _heart(width: float) -> np.ndarray:
    x, y = _grid()
    u, v = x / (0.43 * width), -(y - 0.03) / 0.43
    return (u * u + v * v - 1) ** 3 - u * u * v**3 <= 0


def _blob(rng: np.random.Generator, roughness: float) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    radii = np.ones_like(angles)
    for order in range(2, 6):
        radii += roughness / order**0.6 * rng.uniform(0.4, 1.0) * np.cos(order * angles + rng.uniform(0, 2 * math.pi))
    radii *= 0.5 / radii.max() * 1.08
    return _polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def _masters(kind: str) -> list[np.ndarray]:
    x, y = _grid()
    distance = np.sqrt(x * x + y * y)
    ax, ay = np.abs(x), np.abs(y)
    if kind == "circle":
        return [distance <= 0.5]
    if kind == "square":
        return [np.maximum(ax, ay) <= 0.44, np.hypot(np.maximum(ax - 0.36, 0), np.maximum(ay - 0.36, 0)) <= 0.075]
    if kind == "triangle":
        corners = [np.array([[0, -top], [half, 0.34], [-half, 0.34]]) for top, half in ((0.52, 0.5), (0.54, 0.44))]
        return [_polygon(points) for points in corners]
    if kind == "star":
        return [_star(5, 0.40), _star(5, 0.48), _star(6, 0.5)]
    if kind == "cross":
        return [(np.minimum(ax, ay) <= arm) & (np.maximum(ax, ay) <= 0.48) for arm in (0.12, 0.15, 0.18)]
    if kind == "ring":
        return [(distance <= 0.5) & (distance >= hole) for hole in (0.24, 0.29, 0.34)]
    if kind == "heart":
        return [_heart(1.0), _heart(1.1)]
    if kind == "crescent":
        cuts = ((0.42, 0.24), (0.44, 0.28), (0.40, 0.28))
        return [(distance <= 0.5) & (np.hypot(x - shift, y) >= radius) for radius, shift in cuts]
    if kind == "blob":
        rng = np.random.default_rng(7)
        return [_blob(rng, 0.16 + 0.12 * (i % 4) / 3) for i in range(48)]
    raise ValueError(f"no outline is known for kind {kind!r}; add it to workbench.domains.drawing._masters")


@cache
def _outlines(kind: str) -> tuple[tuple[Image.Image, ...], ...]:
    variants = []
    for master in _masters(kind):
        image = Image.fromarray(master.astype(np.uint8) * 255)
        sides = [round(diameter * 2 * _REACH) for diameter in _LEVEL_DIAMETERS]
        variants.append(tuple(image.resize((side, side), Image.Resampling.BOX) for side in sides))
    return tuple(variants)


def outline_alpha(
    rng: np.random.Generator, kind: str, diameter_px: float, *, angle: float = 0.0, aspect: float = 1.0
) -> Image.Image:
    """An anti-aliased alpha crop of one shape, trimmed to its tight box.

    Args:
        rng: chooses among the prepared variants of the outline.
        kind: one of circle, square, triangle, star, cross, ring, heart, crescent, blob.
        diameter_px: nominal diameter in pixels.
        angle: rotation in degrees, clockwise on the picture.
        aspect: width over height before the rotation; the area stays the same.

    Returns:
        Pillow image of mode "L", 255 inside.
    """
    source = pick(rng, _outlines(kind))[int(np.searchsorted((40, 68), diameter_px))]
    stretch = math.sqrt(aspect)
    scale = source.width / (2 * _REACH) / diameter_px
    side = 2 * math.ceil(diameter_px * 0.66 * max(stretch, 1 / stretch) + 1)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    a, b, d, e = cos * scale / stretch, sin * scale / stretch, -sin * scale * stretch, cos * scale * stretch
    centre, middle = source.width / 2, side / 2
    matrix = (a, b, centre - (a + b) * middle, d, e, centre - (d + e) * middle)
    alpha = source.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return alpha.crop(alpha.getbbox())


# ---------------------------------------------------------------- text


@lru_cache(maxsize=64)
def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's embedded font at a pixel size."""
    return ImageFont.load_default(size_px)


def random_word(rng: np.random.Generator, letters: tuple[int, int] = (2, 8)) -> str:
    """A pronounceable-looking random string in lower, title or upper case; `letters` is the inclusive length range."""
    length = int(rng.integers(letters[0], letters[1] + 1))
    text = "".join(_LETTERS_LOW[i] for i in rng.integers(0, len(_LETTERS_LOW), length))
    style = rng.random()
    return text if style < 0.5 else text.title() if style < 0.75 else text.upper()


@lru_cache(maxsize=256)
def _width(character: str) -> float:
    return font(40).getlength(character) / 40


@lru_cache(maxsize=1)
def _line() -> tuple[float, float]:
    """Top and bottom of a line of text, from its tallest to its deepest letter, in units of the font size."""
    box = font(200).getbbox("dHgp")
    return box[1] / 200, box[3] / 200


@dataclass(frozen=True)
class DrawnText:
    """A drawn word as alpha crops: its ink and its filled bounding rectangle, `drop_px` below the top of the line."""

    ink: Image.Image
    filled: Image.Image
    drop_px: int


def text_alpha(text: str, line_px: float, *, angle: float = 0.0, bold: bool = False, padding_px: int = 1) -> DrawnText:
    """Draw a word.

    Args:
        text: what to draw.
        line_px: height of a line from the tallest to the deepest letter, so the same for "one" and "Eight".
        angle: rotation in degrees.
        bold: thicker strokes.
        padding_px: how far the rectangle reaches beyond the ink.
    """
    top, bottom = _line()
    size = max(6, round(line_px / (bottom - top)))
    stroke = max(1, round(line_px / 30)) if bold else 0
    margin = 3 + stroke + padding_px
    width = math.ceil(sum(map(_width, text)) * size * 1.05)
    sheet = Image.new("L", (width + 2 * margin, math.ceil(1.5 * size) + 2 * margin), 0)
    ImageDraw.Draw(sheet).text((margin, margin), text, 255, font(size), stroke_width=stroke)
    x0, y0, x1, y1 = sheet.getbbox() or (0, 0, *sheet.size)
    ink = sheet.crop((x0 - padding_px, y0 - padding_px, x1 + padding_px, y1 + padding_px))
    drop = y0 - margin - round(top * size)
    filled = Image.new("L", ink.size, 255)
    if abs(angle) < 0.3:
        return DrawnText(ink, filled, drop)
    ink = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    filled = filled.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    box = filled.getbbox()
    return DrawnText(ink.crop(box), filled.crop(box), drop)


# ---------------------------------------------------------------- surfaces


@lru_cache(maxsize=4)
def _noise_tile(side: int) -> np.ndarray:
    return np.random.default_rng(11).standard_normal((3, side, side), dtype=np.float32)


def pixel_noise(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Unit-variance noise (channels,H,W), a read-only window cut at random from one fixed tile."""
    y, x, first = int(rng.integers(160)), int(rng.integers(160)), int(rng.integers(4 - channels))
    window = _noise_tile(max(height, width) + 160)[first : first + channels, y : y + height, x : x + width]
    window.flags.writeable = False
    return window


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Low-frequency noise (H,W) float32 roughly in 0..1 with about `cells` bumps along each side."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def ground_field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random pattern (H,W) float32 in 0..1: plain, gradient, smooth noise, sinusoid, lines or pixel noise."""
    style = int(rng.integers(6))
    if style == 0:
        return np.full((height, width), 0.5, np.float32)
    if style == 1:
        return np.clip(smooth_noise(rng, height, width, int(rng.integers(3, 12))), 0, 1)
    if style == 2:
        return np.clip(0.5 + 0.22 * pixel_noise(rng, height, width, 1)[0], 0, 1)
    angle = rng.uniform(0, 2 * math.pi)
    x = np.arange(width, dtype=np.float32)[None, :] * np.float32(math.cos(angle))
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    along = x + y
    if style == 3:
        low, high = float(along.min()), float(along.max())
        return (along - low) / max(high - low, 1e-6)
    period = rng.uniform(9, 70) if style == 4 else rng.uniform(8, 34)
    wave = np.sin(along * np.float32(2 * math.pi / period))
    if style == 4:
        return 0.5 + 0.5 * wave
    return np.clip((wave - rng.uniform(0.5, 0.9)) * 6, 0, 1)


def texture_field(rng: np.random.Generator, texture: str, height: int, width: int, diameter_px: float) -> np.ndarray:
    """Share of the second tone (H,W) float32 in 0..1 for "striped", "dotted" or "checkered".

    Raises:
        ValueError: for any other texture.
    """
    angle = rng.uniform(0, math.pi)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x = np.arange(width, dtype=np.float32)[None, :] - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    share = {"striped": 0.24, "dotted": 0.25, "checkered": 0.36}.get(texture)
    if share is None:
        raise ValueError(f"texture {texture!r} has no pattern; expected striped, dotted or checkered")
    period = min(max(share * diameter_px * rng.uniform(0.85, 1.15), 6.0), 22.0)
    step = np.float32(2 * math.pi / period)
    u = (x * cos + y * sin) * step + np.float32(rng.uniform(0, 6.28))
    edge = period / 6
    if texture == "striped":
        return np.clip((np.sin(u) - 0.1) * edge + 0.5, 0, 1)
    v = (y * cos - x * sin) * step + np.float32(rng.uniform(0, 6.28))
    if texture == "checkered":
        return np.clip(np.sin(u) * np.sin(v) * edge * 2 + 0.5, 0, 1)
    return np.clip((np.cos(u) + np.cos(v) - 0.55) * edge + 0.5, 0, 1)


@lru_cache(maxsize=512)
def _axis(length: int) -> np.ndarray:
    return np.linspace(-1, 1, length, dtype=np.float32)


def shade_field(rng: np.random.Generator, height: int, width: int, strength: float) -> np.ndarray:
    """Illumination factor (H,W) float32 around 1: a slope, or a bright spot that falls off (a rounded surface)."""
    x, y = _axis(width)[None, :], _axis(height)[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    if rng.random() < 0.5:
        return 1 + np.float32(strength * 0.8) * (x * cos + y * sin)
    return 1 + np.float32(strength) * (0.55 - (x - 0.4 * cos) ** 2 - (y - 0.4 * sin) ** 2)


def core_of(alpha: Image.Image, width_px: float) -> np.ndarray:
    """The inside of a shape (H,W) float32 in 0..1 once a rim of about `width_px` pixels is taken off."""
    margin = math.ceil(width_px) + 1
    wide = Image.new("L", (alpha.width + 2 * margin, alpha.height + 2 * margin), 0)
    wide.paste(alpha, (margin, margin))
    soft = np.asarray(wide.filter(ImageFilter.BoxBlur(width_px)), np.float32)[margin:-margin, margin:-margin]
    return np.clip((soft / 255 - 0.86) * 8, 0, 1)
