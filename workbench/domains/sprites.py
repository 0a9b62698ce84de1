"""Small drawings made at several times their size, then shrunk, so that colours and outline are anti-aliased alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from workbench.domains.canvas import Canvas

_OVERSAMPLING = 4

Colour = Sequence[float] | np.ndarray


class Sprite:
    """One thing under construction: every shape drawn on it adds to its colours and to its outline.

    Args:
        width_px, height_px: size on the picture; shapes are given in these pixels.
        fill: RGB below the drawn shapes, which shows through nowhere but keeps edges from fringing.
    """

    def __init__(self, width_px: float, height_px: float, fill: Colour) -> None:
        self._size = (math.ceil(width_px), math.ceil(height_px))
        large = (self._size[0] * _OVERSAMPLING, self._size[1] * _OVERSAMPLING)
        self._colours, self._outline = Image.new("RGB", large, _rgb(fill)), Image.new("L", large, 0)
        self._brush, self._cutter = ImageDraw.Draw(self._colours), ImageDraw.Draw(self._outline)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """Add a filled polygon."""
        corners = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        self._brush.polygon(corners, fill=_rgb(colour))
        self._cutter.polygon(corners, fill=255)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0) -> None:
        """Add a filled rectangle, with rounded corners where `radius` is above 0."""
        box = [value * _OVERSAMPLING for value in (x0, y0, x1, y1)]
        self._brush.rounded_rectangle(box, radius * _OVERSAMPLING, fill=_rgb(colour))
        self._cutter.rounded_rectangle(box, radius * _OVERSAMPLING, fill=255)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour) -> None:
        """Add a filled ellipse around (x, y)."""
        box = [value * _OVERSAMPLING for value in (x - radius_x, y - radius_y, x + radius_x, y + radius_y)]
        self._brush.ellipse(box, fill=_rgb(colour))
        self._cutter.ellipse(box, fill=255)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: Colour) -> None:
        """Add a stroke with round joints."""
        path = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        thickness = max(1, round(width * _OVERSAMPLING))
        self._brush.line(path, fill=_rgb(colour), width=thickness, joint="curve")
        self._cutter.line(path, fill=255, width=thickness, joint="curve")

    def drawn(self, *, is_mirrored: bool = False, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The finished thing, trimmed to its tight box.

        Args:
            is_mirrored: left and right exchanged.
            angle: rotation in degrees, counter-clockwise.

        Returns:
            Colours (3,h,w) float32 0..255 and alpha (h,w) float32 0..1.
        """
        colours, outline = self._colours, self._outline
        if is_mirrored:
            colours, outline = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (colours, outline))
        if angle:
            fill = colours.getpixel((0, 0))
            colours = colours.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=fill)
            outline = outline.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        size = (math.ceil(outline.width / _OVERSAMPLING), math.ceil(outline.height / _OVERSAMPLING))
        colours, outline = (part.resize(size, Image.Resampling.BOX) for part in (colours, outline))
        box = outline.point(lambda value: 255 * (value > 127)).getbbox()
        planes = np.asarray(colours.crop(box), np.float32).transpose(2, 0, 1)
        return np.ascontiguousarray(planes), np.asarray(outline.crop(box), np.float32) / 255


def stamp(canvas: Canvas, drawn: tuple[np.ndarray, np.ndarray], x: int, y: int) -> bool:
    """Paint a finished sprite at (x, y) as a new instance; False, and nothing painted, when it does not fit there."""
    colours, alpha = drawn
    inside = alpha > 0.5
    height, width = canvas.instances.shape
    if x < 0 or y < 0 or x + inside.shape[1] > width or y + inside.shape[0] > height:
        return False
    if not canvas.leaves_visible(canvas.overlap(inside, x, y)):
        return False
    canvas.paint(alpha, colours, x, y)
    canvas.own(inside, x, y)
    return True


def _rgb(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(float(value)))) for value in colour)
    return red, green, blue
