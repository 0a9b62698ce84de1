"""A picture being painted that always knows which instance owns which pixel.

Alpha crops and colours come in; the blended picture, the instance map and tight boxes go out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


class Canvas:
    """A picture being painted, with the map of which instance owns which pixel.

    Colours are planar, (3,H,W), until `image` is asked for: blending one alpha into three planes is much faster so.

    Args:
        pixels: ground (3,H,W), 0..255, taken over as float32.
        min_visible: an instance is only added when every earlier one keeps this share of its pixels.
    """

    def __init__(self, pixels: np.ndarray, min_visible: float = 0.55) -> None:
        self.pixels: np.ndarray = np.ascontiguousarray(pixels, np.float32)
        self.instances: np.ndarray = np.zeros(pixels.shape[1:], np.uint8)
        self.min_visible = min_visible
        self._full = [0]
        self._visible = [0]
        self._floors = [0.0]
        self._corners = [(0, 0, 0, 0)]

    def overlap(self, inside: np.ndarray, x: int, y: int) -> np.ndarray:
        """Pixels that a mask crop placed at (x, y) would take from the ground (entry 0) and each instance."""
        under = self.instances[y : y + inside.shape[0], x : x + inside.shape[1]]
        return np.bincount(under[inside], minlength=len(self._full))

    def leaves_visible(self, taken: np.ndarray) -> bool:
        """Whether every earlier instance stays visible enough when it loses the `taken` pixels (from `overlap`)."""
        return all(
            not taken[i] or self._visible[i] - taken[i] >= self._floors[i] * self._full[i]
            for i in range(1, len(self._full))
        )

    def mean_under(self, inside: np.ndarray, x: int, y: int) -> np.ndarray:
        """Mean colour (3,) below a mask crop, from every third pixel."""
        under = self.pixels[:, y : y + inside.shape[0] : 3, x : x + inside.shape[1] : 3]
        weights = inside[::3, ::3]
        return (under * weights).sum(axis=(1, 2)) / max(1, int(weights.sum()))

    def paint(self, alpha: np.ndarray, colour: np.ndarray, x: int, y: int) -> None:
        """Blend a colour, (3,) or (3,h,w), through alpha (h,w) 0..1 at (x, y); parts beyond the picture are cut off."""
        height, width = self.instances.shape
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(alpha.shape[0], height - y), min(alpha.shape[1], width - x)
        if bottom <= top or right <= left:
            return
        tint = colour[:, None, None] if colour.ndim == 1 else colour[:, top:bottom, left:right]
        region = self.pixels[:, y + top : y + bottom, x + left : x + right]
        region += alpha[top:bottom, left:right] * (tint - region)

    def shadow(self, alpha: Image.Image, x: int, y: int, offset_px: tuple[int, int], strength: float) -> None:
        """Darken the ground beside a shape, softly; `strength` 0..1."""
        radius = max(1.5, min(5.0, alpha.width / 14))
        margin = math.ceil(2 * radius)
        wide = Image.new("L", (alpha.width + 2 * margin, alpha.height + 2 * margin), 0)
        wide.paste(alpha, (margin, margin))
        soft = np.asarray(wide.filter(ImageFilter.BoxBlur(radius)), np.float32) * np.float32(strength / 255)
        self.paint(soft, np.zeros(3, np.float32), x - margin + offset_px[0], y - margin + offset_px[1])

    def own(self, inside: np.ndarray, x: int, y: int, *, min_visible: float | None = None) -> int:
        """Give the pixels of a mask crop to a new instance and return its number, counted from 1."""
        taken = self.overlap(inside, x, y)
        for i in range(1, len(self._full)):
            self._visible[i] -= int(taken[i])
        number = len(self._full)
        self.instances[y : y + inside.shape[0], x : x + inside.shape[1]][inside] = number
        area = int(inside.sum())
        self._full.append(area)
        self._visible.append(area)
        self._floors.append(self.min_visible if min_visible is None else min_visible)
        self._corners.append((x, y, x + inside.shape[1], y + inside.shape[0]))
        return number

    def visible_share(self, number: int) -> float:
        """Which part of an instance's pixels is not covered by later ones, 0..1."""
        return self._visible[number] / self._full[number]

    def blur(self, radius_px: float) -> None:
        """Defocus the picture painted so far; `radius_px` is the standard deviation of the box filter."""
        half_width = (math.sqrt(12 * radius_px**2 + 1) - 1) / 2
        soft = Image.fromarray(self.image()).filter(ImageFilter.BoxBlur(half_width))
        for plane, band in zip(self.pixels, soft.split(), strict=True):
            plane[...] = np.asarray(band)

    def boxes_xyxy_px(self) -> list[tuple[float, float, float, float]]:
        """Tight boxes of the visible pixels, exclusive end, in the order of the instances."""
        boxes = []
        for number, (x0, y0, x1, y1) in enumerate(self._corners[1:], start=1):
            mask = self.instances[y0:y1, x0:x1] == number
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            box = (x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1)
            boxes.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
        return boxes

    def image(self) -> np.ndarray:
        """The picture as (H,W,3) uint8."""
        levels = np.empty((*self.instances.shape, 3), np.uint8)
        for channel, plane in enumerate(self.pixels):
            levels[..., channel] = np.clip(plane, 0, 255)
        return levels


def find_place(
    rng: np.random.Generator,
    canvas: Canvas,
    inside: np.ndarray,
    is_good: Callable[[int, int, np.ndarray], bool],
    *,
    tries: int = 8,
    margin_px: int = 2,
) -> tuple[int, int, np.ndarray] | None:
    """A random corner (x, y) where a mask crop fits, with the pixels it takes there; None when no try is good.

    Args:
        is_good: called with x, y and the overlap counts after the visibility of earlier instances is assured.
    """
    height, width = canvas.instances.shape
    room_x, room_y = width - inside.shape[1] - 2 * margin_px, height - inside.shape[0] - 2 * margin_px
    if room_x < 0 or room_y < 0:
        return None
    for _ in range(tries):
        x, y = margin_px + int(rng.integers(room_x + 1)), margin_px + int(rng.integers(room_y + 1))
        taken = canvas.overlap(inside, x, y)
        if canvas.leaves_visible(taken) and is_good(x, y, taken):
            return x, y, taken
    return None


@dataclass(frozen=True)
class LabelledPicture:
    """A rendered picture in which every instance has a class name.

    Args:
        image: (H,W,3) uint8 RGB.
        instance_map: (H,W) uint8; 0 is ground, i belongs to `names[i - 1]`.
        names: class of each instance.
    """

    image: np.ndarray
    instance_map: np.ndarray
    names: tuple[str, ...]
