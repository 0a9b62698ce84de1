"""Objects drawn on images: translucent areas, outlines and tags in colours that colour-blind people can tell apart.
Arrays come in and new uint8 arrays go out; only the part of the image around each object is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workbench.examples import boxes_of_masks

Colour = tuple[int, int, int]
# Okabe and Ito's colours, which colour-blind people can tell apart, then five of Paul Tol's muted set
PALETTE: tuple[Colour, ...] = tuple(
    (code >> 16, code >> 8 & 255, code & 255)
    for code in (0x0072B2, 0xE69F00, 0x009E73, 0xD55E00, 0xCC79A7, 0x56B4E9, 0xF0E442)
    + (0x332288, 0x44AA99, 0x882255, 0x999933, 0xBBBBBB)
)
# Where a tag may stand when its own place is taken, in widths and heights of it.
_TAG_STEPS = ((0, 0), (0, -1), (1, 0), (0, 1), (1, -1), (-1, 0), (1, 1), (-1, -1), (-1, 1), (0, -2), (0, 2))


def overlay(
    image: np.ndarray,
    masks: np.ndarray | None,
    boxes_xyxy_px: np.ndarray | None = None,
    scores: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    colours: Sequence[Colour] | None = None,
    fill: float = 0.4,
) -> np.ndarray:
    """The image with objects drawn on it: translucent area, outline, and a tag with number, label and score.

    Args:
        image: (H,W,3) uint8 RGB; is not changed.
        masks: (N,H,W) bool, or None to draw boxes only.
        boxes_xyxy_px: (N,4) pixels; drawn as frames where there are no masks.
        scores: (N,) 0..1, written into the tags.
        labels: (N,) texts for the tags in place of the running number; an empty text leaves the tag out.
        colours: (N,) RGB; the palette in turn when left out.
        fill: 0 (outline only) to 1 (opaque).

    Returns:
        (H,W,3) uint8.

    Raises:
        ValueError: masks of another size than the image, or lists of different lengths.

    Example:
        >>> mask = np.zeros((1, 32, 32), bool); mask[0, 8:20, 8:20] = True
        >>> overlay(np.zeros((32, 32, 3), np.uint8), mask, labels=[""])[14, 14].tolist()
        [0, 46, 71]
    """
    masks = np.zeros((0, *image.shape[:2]), bool) if masks is None else np.asarray(masks)
    boxes = boxes_of_masks(masks) if len(masks) or boxes_xyxy_px is None else np.asarray(boxes_xyxy_px)
    if len(masks) and masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"masks are {masks.shape[1:]}, the image {image.shape[:2]} (height, width); expected the same size. "
            "Resize the masks with nearest neighbour."
        )
    for name, values in (("scores", scores), ("labels", labels), ("colours", colours)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{len(values)} {name} for {len(boxes)} objects; expected one each.")
    colours = colours or [PALETTE[number % len(PALETTE)] for number in range(len(boxes))]
    thickness = max(1, round(min(image.shape[:2]) / 160))
    canvas = Image.fromarray(image)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1) if len(boxes) else []
    for number in np.argsort(sizes)[::-1]:
        if len(masks):
            _paint(canvas, masks[number], boxes[number], colours[number], thickness, fill)
        else:
            _frame(canvas, boxes[number], colours[number], thickness)
    return tagged(np.array(canvas), anchors_of(masks, boxes), _tags(len(boxes), scores, labels), colours)


def _paint(canvas: Image.Image, mask: np.ndarray, box: np.ndarray, colour: Colour, thickness: int, fill: float) -> None:
    height, width = mask.shape
    margin = thickness + 1
    x0, y0 = (max(0, int(value) - margin) for value in box[:2])
    x1, y1 = min(width, int(box[2]) + margin), min(height, int(box[3]) + margin)
    inside = mask[y0:y1, x0:x1]
    if not inside.any():
        return
    near_the_rim = ~inside
    for _ in range(thickness):
        near_the_rim = _grown(near_the_rim)
    for shade, where, strength in (
        (colour, inside, fill),
        ((255, 255, 255), _grown(inside) & ~inside, 1.0),
        (colour, inside & near_the_rim, 1.0),
    ):
        canvas.paste(shade, (x0, y0), Image.fromarray(where * np.uint8(round(255 * strength))))


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels beside, above and below it."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _frame(canvas: Image.Image, box: np.ndarray, colour: Colour, thickness: int) -> None:
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(canvas.width, math.ceil(box[2])), min(canvas.height, math.ceil(box[3]))
    for grow, shade in ((thickness + 1, (255, 255, 255)), (thickness, colour)):
        frame = np.zeros((y1 - y0, x1 - x0), bool)
        frame[:grow], frame[-grow:], frame[:, :grow], frame[:, -grow:] = True, True, True, True
        canvas.paste(shade, (x0, y0), Image.fromarray(frame))


def _tags(num: int, scores: Sequence[float] | None, labels: Sequence[str] | None) -> list[str]:
    tags = [str(number + 1) for number in range(num)] if labels is None else list(labels)
    if scores is None:
        return tags
    return [f"{tag}  {score:.2f}".strip() for tag, score in zip(tags, scores, strict=True)]


def anchors_of(masks: np.ndarray, boxes_xyxy_px: np.ndarray) -> np.ndarray:
    """(N,2) above which the tags stand: the top of each mask where it is tallest, or the corner of each box.

    Specks far from an object do not draw its tag to them.

    Args:
        masks: (N,H,W) bool; or none.
        boxes_xyxy_px: (N,4).
    """
    anchors = boxes_xyxy_px[:, :2].astype(float)
    for anchor, mask in zip(anchors, masks, strict=False):
        column = int(mask.sum(0).argmax())
        anchor[:] = column, mask[:, column].argmax()
    return anchors


def tagged(image: np.ndarray, anchors_xy_px: np.ndarray, tags: Sequence[str], colours: Sequence[Colour]) -> np.ndarray:
    """The image with a tag above each anchor, beside it where another tag stands there; empty tags are left out."""
    canvas, taken = Image.fromarray(image), list[tuple[int, int, int, int]]()
    draw = ImageDraw.Draw(canvas)
    font = _font(max(9, round(min(canvas.size) / 26)))
    for anchor, tag, colour in zip(anchors_xy_px, tags, colours, strict=True):
        if not tag:
            continue
        left, top, right, bottom = draw.textbbox((0, 0), tag, font=font)
        width, height = round(right - left) + 6, round(bottom - top) + 5
        x, y = _free_place((anchor[0], anchor[1] - height), (width, height), canvas.size, taken)
        taken.append((x, y, x + width, y + height))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=(255, 255, 255))
        is_light = np.dot(colour, (0.299, 0.587, 0.114)) > 140
        draw.text((x + 3 - left, y + 2 - top), tag, font=font, fill=(0, 0, 0) if is_light else (255, 255, 255))
    return np.array(canvas)


def _free_place(
    wanted: tuple[float, float], size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[tuple[int, ...]]
) -> tuple[int, int]:
    """A place near the wanted one, in the canvas and on no other tag; the wanted one if there is none."""
    steps = np.array(_TAG_STEPS) * size + wanted
    places = np.clip(steps, 0, np.maximum(0, np.subtract(canvas, size))).astype(int).tolist()
    for x, y in places:
        if not any(x < x1 and x + size[0] > x0 and y < y1 and y + size[1] > y0 for x0, y0, x1, y1 in taken):
            return x, y
    return places[0][0], places[0][1]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def fit_image(image: np.ndarray, side: int) -> np.ndarray:
    """The (H,W,3) image scaled so that its longest side is `side` pixels."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def fit_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,H,W) bool masks at another size (height, width), nearest neighbour."""
    if not len(masks):
        return np.zeros((0, *size), bool)
    rows, columns = ((np.arange(new) * old) // new for old, new in zip(masks.shape[1:], size, strict=True))
    return masks[:, rows[:, None], columns]


def fit_boxes(boxes_xyxy_px: np.ndarray, old_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(N,4) boxes of an image of `old_size` (height, width) in the pixels of the same image at `size`."""
    return boxes_xyxy_px * np.array([size[1] / old_size[1], size[0] / old_size[0]] * 2)
