"""Views of a labelled picture: cropped, flipped, turned and re-coloured, with masks and boxes kept in step.

A view follows from the example and a seed alone, so that its image features can be kept and a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from workbench.examples import Example, boxes_of_masks


@dataclass(frozen=True)
class AugmentConfig:
    """How far a view may depart from the picture.

    Attributes:
        flip: mirror left-right; not for text, nor where left and right mean something.
        turn: quarter turns; for pictures without an up and down, such as micrographs.
        zoom: least side of the random crop, as a share of the picture.
        brightness, contrast: largest relative change.
        colour: largest change of the balance of the colour channels.
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
    window = (0.0, 0.0, float(width), float(height))
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
        if found is not None and len(found[0]):
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
    return np.clip(((values - mean) * gain + mean + shift) * balance, 0, 255).astype(np.uint8)


def _cut_masks(
    masks: np.ndarray,
    window: tuple[float, float, float, float],
    size: int,
    flip: bool,
    turns: int,
    config: AugmentConfig | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Boxes and masks inside the window, or None when an object is cut so far that the answer is unclear."""
    boxes, kept = [], []
    scale = size * size / ((window[2] - window[0]) * (window[3] - window[1]))
    for mask in masks:
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize(
            (size, size), Image.Resampling.BILINEAR, box=window, reducing_gap=None
        )
        small = _oriented(np.asarray(resized) >= 128, flip, turns)
        visible = small.sum() / max(mask.sum() * scale, 1e-6)
        if config is not None and visible < config.min_visible:
            if visible > 0.02:
                return None
            continue
        if small.any():
            boxes.append(boxes_of_masks(small[None])[0] / size)
            kept.append(small)
    if not kept:
        return None
    return np.stack(boxes).astype(np.float32), np.stack(kept)


def _cut_boxes(
    boxes_xyxy_px: np.ndarray,
    window: tuple[float, float, float, float],
    size: int,
    flip: bool,
    turns: int,
    config: AugmentConfig | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    left, top, right, bottom = window
    kept = []
    for box in boxes_xyxy_px:
        x0, y0, x1, y1 = (box - [left, top, left, top]) / [right - left, bottom - top, right - left, bottom - top]
        cut = np.clip([x0, y0, x1, y1], 0, 1)
        visible = (cut[2] - cut[0]) * (cut[3] - cut[1]) / max((x1 - x0) * (y1 - y0), 1e-9)
        if config is not None and visible < config.min_visible:
            if visible > 0.02:
                return None
            continue
        x0, y0, x1, y1 = cut
        if flip:
            x0, x1 = 1 - x1, 1 - x0
        for _ in range(turns):  # counter-clockwise
            x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
        kept.append((x0, y0, x1, y1))
    if not kept:
        return None
    return np.array(kept, dtype=np.float32), np.zeros((len(kept), size, size), dtype=bool)
