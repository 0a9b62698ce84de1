"""Views of a labelled picture: cropped, flipped, turned and re-coloured, with masks and boxes kept in step.

A view follows from the example and a seed alone, so that its image features can be kept and a run can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from workbench.examples import Example, boxes_of_masks

Window = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture
_SLIVER = 0.02  # an object less visible than this share counts as not in the view


@dataclass(frozen=True)
class AugmentConfig:
    """How far a view may depart from the picture.

    Attributes:
        flip: mirror left-right; not for text, nor where left and right mean something.
        turn: quarter turns; for pictures without an up and down, such as micrographs.
        zoom: least side of the random crop, as a share of the picture.
        brightness: largest shift of all values, as a share of half their range.
        contrast: largest relative change.
        colour: largest relative change of each colour channel.
        min_visible: objects less visible than this share after the crop make the phrase unanswerable in the view.
    """

    flip: bool = True
    turn: bool = False
    zoom: float = 0.75
    brightness: float = 0.2
    contrast: float = 0.2
    colour: float = 0.1
    min_visible: float = 0.35

    def __post_init__(self) -> None:
        if not 0.1 <= self.zoom <= 1:
            raise ValueError(f"received zoom={self.zoom}; expected the least share of the picture kept, from 0.1 to 1")


@dataclass(frozen=True)
class ViewConcept:
    """A phrase in a view: `is_present`, normalised boxes (N, 4) xyxy and masks (N, h, w) at the view's mask size."""

    phrase: str
    is_present: bool
    boxes_xyxy: np.ndarray
    masks: np.ndarray
    has_masks: bool


@dataclass(frozen=True)
class View:
    """A square view of an example: pixels (S, S, 3) uint8 and the phrases whose answer is known in it."""

    pixels: np.ndarray
    concepts: tuple[ViewConcept, ...]


def make_view(example: Example, size: int, mask_size: int, config: AugmentConfig | None, seed: tuple[int, ...]) -> View:
    """One view of an example.

    Args:
        example: with positive and absent concepts; unknown ones are left out.
        size: side of the view in pixels. mask_size: side of its masks.
        config: None gives the whole picture unchanged.
        seed: of all random choices.
    """
    image = example.load_image()
    height, width = image.shape[:2]
    window: Window = (0.0, 0.0, float(width), float(height))
    flip, turns = False, 0
    rng = np.random.default_rng(list(seed))
    if config is not None:
        share = rng.uniform(config.zoom, 1.0)
        left, top = rng.uniform(0, 1 - share, 2) * (width, height)
        window = (left, top, left + share * width, top + share * height)
        flip = config.flip and bool(rng.integers(2))
        turns = int(rng.integers(4)) if config.turn else 0
    picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=window, reducing_gap=None)
    pixels = _oriented(np.asarray(picture), flip, turns)
    if config is not None:
        pixels = _recoloured(pixels, config, rng)
    concepts = []
    for concept in example.concepts:
        if concept.status == "unknown":
            continue
        if concept.status == "absent":
            none = np.zeros((0, mask_size, mask_size), dtype=bool)
            concepts.append(ViewConcept(concept.phrase, False, np.zeros((0, 4), np.float32), none, True))
            continue
        found = (
            _cut_masks(concept.masks, window, mask_size, flip, turns, config)
            if concept.has_masks
            else _cut_boxes(concept.boxes_xyxy_px, window, mask_size, flip, turns, config)
        )
        if found is not None:
            concepts.append(ViewConcept(concept.phrase, True, found[0], found[1], concept.has_masks))
    return View(pixels, tuple(concepts))


def _oriented(array: np.ndarray, flip: bool, turns: int) -> np.ndarray:
    array = array[:, ::-1] if flip else array
    return np.ascontiguousarray(np.rot90(array, turns))


def _recoloured(pixels: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    values = pixels.astype(np.float32)
    mean = values.mean()
    gain = 1 + rng.uniform(-config.contrast, config.contrast)
    shift = 255 * rng.uniform(-config.brightness, config.brightness) / 2
    balance = 1 + rng.uniform(-config.colour, config.colour, 3)
    return np.clip(((values - mean) * gain + mean + shift) * balance, 0, 255).round().astype(np.uint8)


def _cut_masks(
    masks: np.ndarray, window: Window, size: int, flip: bool, turns: int, config: AugmentConfig | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Boxes and masks inside the window, or None when an object is cut so far, or so small, that the answer is unclear.

    Visibility and boxes are those of the picture's pixels: a mask at the view's size is too coarse for thin objects.
    """
    left, top, right, bottom = window
    x, y = int(left), int(top)
    boxes, kept = [], []
    for mask in masks:
        inside = mask[y : math.ceil(bottom), x : math.ceil(right)]
        visible = inside.sum() / mask.sum()
        if config is not None and visible < config.min_visible:
            if visible > _SLIVER:
                return None
            continue
        resized = np.asarray(
            Image.fromarray(mask.astype(np.uint8) * 255).resize(
                (size, size), Image.Resampling.BILINEAR, box=window, reducing_gap=None
            )
        )
        if not resized.any():
            return None
        # A thin object covers no cell by half; then the cells it covers most stand for it.
        kept.append(_oriented(resized >= min(128, resized.max() / 2), flip, turns))
        boxes.append(_placed(boxes_of_masks(inside[None])[0] + [x, y, x, y], window, flip, turns))
    if not kept:
        return None
    return np.stack(boxes), np.stack(kept)


def _cut_boxes(
    boxes_xyxy_px: np.ndarray, window: Window, size: int, flip: bool, turns: int, config: AugmentConfig | None
) -> tuple[np.ndarray, np.ndarray] | None:
    left, top, right, bottom = window
    kept = []
    for box in boxes_xyxy_px:
        x0, y0, x1, y1 = np.clip(box, [left, top, left, top], [right, bottom, right, bottom])
        visible = (x1 - x0) * (y1 - y0) / ((box[2] - box[0]) * (box[3] - box[1]))
        if config is not None and visible < config.min_visible:
            if visible > _SLIVER:
                return None
            continue
        kept.append(_placed(box, window, flip, turns))
    if not kept:
        return None
    return np.stack(kept), np.zeros((len(kept), size, size), dtype=bool)


def _placed(box_xyxy_px: np.ndarray, window: Window, flip: bool, turns: int) -> np.ndarray:
    """The part of a box inside the window, normalised to the view."""
    left, top, right, bottom = window
    share = (box_xyxy_px - [left, top, left, top]) / [right - left, bottom - top, right - left, bottom - top]
    x0, y0, x1, y1 = np.clip(share, 0, 1)
    if flip:
        x0, x1 = 1 - x1, 1 - x0
    for _ in range(turns):  # counter-clockwise
        x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
    return np.array([x0, y0, x1, y1], dtype=np.float32)


def drawn_box(box_xyxy: np.ndarray, rng: np.random.Generator, side: int) -> list[float]:
    """The box as a person might draw it: every side off by a few per cent of its length, inside a square picture.

    Args:
        box_xyxy: in pixels of that picture, as is what comes back.
        side: of the picture in pixels.
    """
    extent = np.concatenate([box_xyxy[2:] - box_xyxy[:2]] * 2)
    drawn = np.clip(box_xyxy + np.clip(rng.normal(0, 0.05, 4) * extent, -20, 20), 0, side)
    return list(map(float, box_xyxy if (drawn[2:] - drawn[:2] < 2).any() else drawn))
