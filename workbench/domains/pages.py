"""Rendered paper documents on a desk: headings, blocks of small print, rubber stamps and signatures among clutter."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from workbench.domains import drawing
from workbench.domains.canvas import Canvas, LabelledPicture, find_place
from workbench.domains.drawing import pick
from workbench.domains.sprites import Sprite

CLASSES = ("title", "paragraph", "stamp", "signature")

_INKS = ((24, 36, 120), (20, 22, 26), (40, 60, 170))
_STAMP_INKS = ((186, 34, 48), (40, 62, 160), (110, 44, 130), (30, 110, 90))


def render_page(rng: np.random.Generator, *, size: int = 224) -> LabelledPicture:
    """A sheet with any of: a title (one heavy line), paragraphs (blocks of small print), stamps (round or boxed, in
    coloured ink) and signatures (a pen stroke). Each mask is the filled region of the thing, not its ink alone.

    Example:
        >>> render_page(np.random.default_rng(0)).image.shape
        (224, 224, 3)
    """
    paper = rng.uniform(218, 248) + rng.uniform(-8, 8, 3)
    stain = drawing.smooth_noise(rng, size, size, int(rng.integers(2, 7))) * np.float32(rng.uniform(2, 18))
    canvas = Canvas(paper[:, None, None] - stain, min_visible=0.6)
    margin = rng.uniform(0.07, 0.13) * size
    _clutter(rng, canvas, size, margin)
    names: list[str] = []
    y = margin
    if rng.random() < 0.6:
        y = _title(rng, canvas, size, margin, y)
        names.append("title")
    is_shown = rng.random(3) < (0.75, 0.55, 0.5)
    for _ in range(int(rng.integers(1, 4)) if is_shown[0] or not (names or is_shown[1:].any()) else 0):
        bottom = _paragraph(rng, canvas, size, margin, y)
        if bottom is None:
            break
        names.append("paragraph")
        y = bottom + rng.uniform(6, 16)
    things = [("signature", _signature, 0.03)] * int(is_shown[1])
    things += [("stamp", _stamp, 0.3)] * (int(rng.integers(1, 3)) * int(is_shown[2]))
    for name, draw, room in things:
        ink, filled, colour = draw(rng)
        inside = filled > 0.5

        def is_free(x: int, y: int, taken: np.ndarray, room: float = room) -> bool:
            return taken[1:].sum() <= room * taken.sum()

        place = find_place(rng, canvas, inside, is_free, tries=30, margin_px=8)
        if place is not None:
            canvas.paint(ink, colour, place[0], place[1])
            canvas.own(inside, place[0], place[1])
            names.append(name)
    if not names:
        return render_page(rng, size=size)
    return _photographed(rng, canvas, tuple(names), size)


def _photographed(rng: np.random.Generator, canvas: Canvas, names: tuple[str, ...], size: int) -> LabelledPicture:
    """The sheet lying slightly turned on a desk, under uneven light."""
    angle = math.radians(rng.uniform(-5, 5))
    zoom = rng.uniform(0.98, 1.1)
    a, b = zoom * math.cos(angle), zoom * math.sin(angle)
    middle = size / 2
    matrix = (a, b, middle - (a + b) * middle, -b, a, middle - (a - b) * middle)
    desk = tuple(int(value) for value in rng.uniform(40, 130) + np.asarray(pick(rng, ((30, 6, -20), (0, 0, 0)))))
    sheet = Image.fromarray(canvas.image()).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=desk
    )
    owners = Image.fromarray(canvas.instances).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST
    )
    turned = Canvas(np.asarray(sheet, np.float32).transpose(2, 0, 1))
    turned.pixels *= drawing.shade_field(rng, size, size, rng.uniform(0.04, 0.22))
    turned.blur(rng.uniform(0.3, 0.7))
    turned.pixels += drawing.pixel_noise(rng, size, size) * np.float32(rng.uniform(1, 6))
    return LabelledPicture(turned.image(), np.array(owners), names)


def _clutter(rng: np.random.Generator, canvas: Canvas, size: int, margin: float) -> None:
    """Printed rules, punch holes, a cup's mark and a page number: things of no class."""
    if rng.random() < 0.35:
        for y in np.arange(margin, size - margin, rng.uniform(12, 20)):
            line = np.full((1, int(size - 2 * margin)), 0.35, np.float32)
            canvas.paint(line, np.asarray([150, 175, 215], np.float32), int(margin), int(y))
    if rng.random() < 0.3:
        for share in (0.3, 0.7):
            hole = np.asarray(drawing.outline_alpha(rng, "circle", 9), np.float32) / 255
            canvas.paint(hole, np.full(3, 70, np.float32), 4, int(share * size))
    if rng.random() < 0.3:
        spot = drawing.outline_alpha(rng, "circle", rng.uniform(60, 90))
        mark = np.asarray(spot, np.float32) / 255
        rim = mark * (1 - drawing.core_of(spot, 2.0))
        x, y = int(rng.integers(-20, size - 40)), int(rng.integers(-20, size - 40))
        canvas.paint(rim * np.float32(0.35), np.asarray([140, 96, 52], np.float32), x, y)
    if rng.random() < 0.4:
        ink = drawing.text_alpha(str(rng.integers(1, 99)), 9).ink
        canvas.paint(np.asarray(ink, np.float32) / 255, np.full(3, 90, np.float32), size // 2, size - 13)


def _line_of_words(rng: np.random.Generator, width: float, line_px: float, *, bold: bool) -> np.ndarray:
    """Alpha (h,w) of words set side by side on one baseline, as many as fit into the width (at least one)."""
    sheet = np.zeros((math.ceil(line_px * 1.25), math.ceil(width)), np.float32)
    x = 0
    while True:
        drawn = drawing.text_alpha(drawing.random_word(rng, (2, 9)), line_px, bold=bold, padding_px=0)
        ink = np.asarray(drawn.ink, np.float32) / 255
        if x + ink.shape[1] > width:
            if x:
                return sheet[:, : max(1, x - round(0.3 * line_px))]
            continue
        top = max(0, drawn.drop_px)
        rows = min(ink.shape[0], sheet.shape[0] - top)
        sheet[top : top + rows, x : x + ink.shape[1]] = ink[:rows]
        x += ink.shape[1] + round(0.3 * line_px)


def _title(rng: np.random.Generator, canvas: Canvas, size: int, margin: float, y: float) -> float:
    line = rng.uniform(20, 30)
    alpha = _line_of_words(rng, rng.uniform(0.5, 0.95) * (size - 2 * margin), line, bold=True)
    columns, rows = np.flatnonzero(alpha.any(axis=0)), np.flatnonzero(alpha.any(axis=1))
    alpha = np.pad(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    left = int(margin if rng.random() < 0.5 else (size - alpha.shape[1]) / 2)
    tone = np.asarray(pick(rng, ((18, 18, 22), (24, 40, 96), (120, 26, 30))), np.float32)
    canvas.paint(alpha, tone, left, int(y))
    canvas.own(np.ones(alpha.shape, bool), left, int(y))
    return y + alpha.shape[0] + rng.uniform(8, 18)


def _paragraph(rng: np.random.Generator, canvas: Canvas, size: int, margin: float, y: float) -> float | None:
    """Set a block of small print below `y`; its lower edge, or None when the sheet is full."""
    line, width = rng.uniform(8, 10.5), rng.uniform(0.6, 1.0) * (size - 2 * margin)
    pitch, lines = line * rng.uniform(1.15, 1.4), int(rng.integers(3, 7))
    if y + lines * pitch > size - margin:
        return None
    block = np.zeros((math.ceil(lines * pitch + line), math.ceil(width)), np.float32)
    for i in range(lines):
        alpha = _line_of_words(rng, width * (rng.uniform(0.4, 0.9) if i == lines - 1 else 1), line, bold=False)
        top = round(i * pitch)
        block[top : top + alpha.shape[0], : alpha.shape[1]] = alpha[: block.shape[0] - top]
    columns, rows = np.flatnonzero(block.any(axis=0)), np.flatnonzero(block.any(axis=1))
    block = np.pad(block[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    left = int(rng.uniform(margin, max(margin + 1, size - margin - block.shape[1])))
    canvas.paint(block, np.full(3, rng.uniform(20, 80), np.float32), left, int(y))
    canvas.own(np.ones(block.shape, bool), left, int(y))
    return y + block.shape[0]


def _stamp(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ink, filled region and colour of a rubber stamp: a double circle or box with a word across."""
    colour = np.asarray(pick(rng, _STAMP_INKS), np.float32)
    is_round, angle = rng.random() < 0.55, rng.uniform(-30, 30)
    width = rng.uniform(46, 64)
    height = width if is_round else rng.uniform(24, 32)
    scale = 3
    ink = Image.new("L", (round(width * scale), round(height * scale)), 0)
    region = Image.new("L", ink.size, 0)
    pen, box = ImageDraw.Draw(ink), (0, 0, ink.width - 1, ink.height - 1)
    inner = tuple(value + sign * 5 * scale for value, sign in zip(box, (1, 1, -1, -1), strict=True))
    if is_round:
        ImageDraw.Draw(region).ellipse(box, fill=255)
        pen.ellipse(box, outline=255, width=2 * scale)
        pen.ellipse(inner, outline=255, width=scale)
    else:
        ImageDraw.Draw(region).rounded_rectangle(box, 3 * scale, fill=255)
        pen.rounded_rectangle(box, 3 * scale, outline=255, width=2 * scale)
    word = drawing.text_alpha(drawing.random_word(rng, (4, 6)).upper(), 40, bold=True).ink
    room = (round(0.74 * ink.width), round((0.3 if is_round else 0.55) * ink.height))
    word = word.resize(room, Image.Resampling.BILINEAR)
    ink.paste(255, ((ink.width - room[0]) // 2, (ink.height - room[1]) // 2), word)
    ink, region = (part.rotate(angle, Image.Resampling.BILINEAR, expand=True).reduce(scale) for part in (ink, region))
    worn = 0.55 + 0.55 * drawing.smooth_noise(rng, ink.height, ink.width, 12)
    alpha = np.asarray(ink, np.float32) / 255 * np.clip(worn, 0.35, 1).astype(np.float32)
    return alpha, np.asarray(region, np.float32) / 255, colour


def _signature(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ink, filled rectangle and colour of a looping pen stroke that runs to the right."""
    width, height = rng.uniform(70, 105), rng.uniform(26, 36)
    t = np.linspace(0, 1, 320)
    knots = np.linspace(0, 1, 8)
    pace = np.interp(t, knots, rng.uniform(0.5, 1.6, 8))
    phase = 2 * math.pi * rng.uniform(4, 7) * np.cumsum(pace) / pace.sum() + rng.uniform(0, 1.5)
    tall = np.interp(t, knots, np.concatenate([rng.uniform(0.8, 1.0, 1), rng.uniform(0.15, 0.6, 6), [0.08]]))
    tall = np.where(rng.random() < 0.5, tall, np.interp(t, (0, 0.5, 0.62, 0.75, 1), (0.9, 0.2, 0.95, 0.2, 0.1)))
    x = width * (0.14 + 0.72 * t) + rng.uniform(0.25, 0.5) * height * tall * np.cos(phase)
    y = height * (0.56 - 0.42 * tall * np.sin(phase) + rng.uniform(-0.12, 0.12) * t)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    colour = np.asarray(pick(rng, _INKS), np.float32)
    sprite = Sprite(width, height, colour)
    sprite.line(points, rng.uniform(1.2, 2.0), colour)
    if rng.random() < 0.6:
        sprite.line([(0.1 * width, 0.9 * height), (0.95 * width, rng.uniform(0.75, 0.9) * height)], 1.2, colour)
    _, alpha = sprite.drawn(angle=rng.uniform(-4, 10))
    return alpha, np.ones_like(alpha), colour
