"""What a step of the tracker's training looks at: a window of a clip, and what is said of its objects.

Hints are as users and detectors give them: a click inside, a box drawn a little off, a mask with rough outlines, a
click where the answer was wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from sam3.tracker.prompt_encoder import BOTTOM_RIGHT, NEGATIVE, PADDING, POSITIVE, TOP_LEFT, Hints
from workbench.augment import drawn_box
from workbench.pretrain.clip_pool import ClipPool, EncodedClip

_ATTEMPTS = 12  # for a window with something special in it
MIN_FIRST_PX = 36  # of an object in the frame that it is shown in


@dataclass(frozen=True, eq=False)
class Window:
    """Some frames of a clip in the order in which they are seen, and some of its objects.

    Attributes:
        clip: the frames.
        masks: (K, F, H, W) bool; all objects are there in the first frame.
    """

    clip: EncodedClip
    masks: NDArray[np.bool_]


def draw_window(
    rng: np.random.Generator,
    pool: ClipPool,
    num_frames: int,
    max_objects: int,
    *,
    with_gaps: bool = False,
    with_return: bool = False,
) -> Window:
    """A random window: any start, either direction, some at double speed; objects that hide are chosen more often.

    Args:
        rng: source of every random choice.
        pool: the clips.
        num_frames: of the window.
        max_objects: of the window.
        with_gaps: any frames of a clip, in order: what lies elsewhere all at once must be found by its looks.
        with_return: only windows of one object that hides and comes back, where such a one is soon found. Alone it
            settles what is remembered, as frames in which nothing is seen are not.
    """
    for attempt in range(1000):
        window = _any_window(rng, pool, num_frames, 1 if with_return else max_objects, with_gaps)
        if window is not None and (not with_return or attempt >= _ATTEMPTS or _comes_back(window)):
            return window
    raise ValueError(f"none of {len(pool)} clips shows an object of {MIN_FIRST_PX} pixels; make more clips")


def _comes_back(window: Window) -> bool:
    is_visible = np.asarray(window.masks.any((2, 3)))
    return bool((~is_visible[:, :-1] & is_visible[:, 1:]).any())


def _any_window(
    rng: np.random.Generator, pool: ClipPool, num_frames: int, max_objects: int, with_gaps: bool
) -> Window | None:
    """A window, or None when nothing is there in its first frame."""
    clip = pool[int(rng.integers(len(pool)))]
    length = len(clip.features)
    if with_gaps:
        frames = np.sort(rng.choice(length, num_frames, replace=False))
    else:
        stride = 2 if rng.random() < 0.35 and 2 * num_frames <= length else 1
        frames = int(rng.integers(length - stride * (num_frames - 1))) + stride * np.arange(num_frames)
    clip = clip[frames if rng.random() < 0.5 else frames[::-1]]
    areas = np.stack([np.bincount(instances.ravel(), minlength=256) for instances in clip.instance_maps])
    seen = [number for number in np.flatnonzero(areas[0] >= MIN_FIRST_PX).tolist() if number]
    if not seen:
        return None
    weights = np.array([3.0 if not areas[:, number].all() else 1.0 for number in seen])
    count = min(max_objects, len(seen))
    chosen = rng.choice(seen, count, replace=False, p=weights / weights.sum())
    return Window(clip, np.stack([clip.instance_maps == number for number in chosen]))


def click_inside(rng: np.random.Generator, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """A point (x, y), 0..1 over the picture, well inside a mask (H, W) that is not empty."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= min(depth.max(), rng.uniform(0.2, 0.9) * depth.max() + 0.5))
    index = int(rng.integers(len(rows)))
    return (columns[index] + 0.5) / mask.shape[1], (rows[index] + 0.5) / mask.shape[0]


def clicks_of(rng: np.random.Generator, masks: NDArray[np.bool_]) -> Hints:
    """One positive click for each mask (K, H, W)."""
    points = torch.tensor([[click_inside(rng, mask)] for mask in masks], dtype=torch.float32)
    return Hints(points, torch.full((len(masks), 1), POSITIVE))


def boxes_of(rng: np.random.Generator, masks: NDArray[np.bool_]) -> Hints:
    """A box around each mask (K, H, W), as if drawn by hand."""
    height, width = masks.shape[1:]
    corners = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        corners.append(np.reshape(drawn_box(box, rng, width), (2, 2)) / (width, height))
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]]).expand(len(masks), -1)
    return Hints(torch.from_numpy(np.stack(corners).astype(np.float32)), labels)


def roughened(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) as a detector might have found it: shrunk, grown, coarse, or with a part cut off; never empty."""
    kind = rng.choice(["as it is", "shrunk", "grown", "coarse", "cut"], p=[0.35, 0.15, 0.2, 0.2, 0.1])
    rough = mask
    if kind == "shrunk":
        rough = ndimage.binary_erosion(mask, iterations=int(rng.integers(1, 4)))
    elif kind == "grown":
        rough = ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 4)))
    elif kind == "coarse":
        cell = int(rng.choice([4, 7, 8]))
        height, width = (length // cell for length in mask.shape)
        share = mask[: height * cell, : width * cell].reshape(height, cell, width, cell).mean((1, 3))
        coarse = np.kron(share > rng.uniform(0.3, 0.6), np.ones((cell, cell), bool))
        rough = np.zeros_like(mask)
        rough[: height * cell, : width * cell] = coarse
    elif kind == "cut":
        rows, columns = np.nonzero(mask)
        angle = rng.uniform(0, 2 * np.pi)
        along = columns * np.cos(angle) + rows * np.sin(angle)
        kept = along < np.quantile(along, rng.uniform(0.6, 0.95))
        rough = np.zeros_like(mask)
        rough[rows[kept], columns[kept]] = True
    return rough if rough.any() else mask


def corrections(
    rng: np.random.Generator, found: NDArray[np.bool_], masks: NDArray[np.bool_]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A click on the largest error of each object, as points (K, 1, 2) and labels (K, 1).

    Args:
        rng: source of every random choice.
        found: (K, H, W) what was answered.
        masks: (K, H, W) the truth. An object that is rightly not found gets padding in place of a click.
    """
    points, labels = [], []
    for answer, mask in zip(found, masks, strict=True):
        missed, excess = mask & ~answer, answer & ~mask
        wrong, label = (missed, POSITIVE) if missed.sum() >= excess.sum() else (excess, NEGATIVE)
        if not wrong.any():
            wrong, label = (mask, POSITIVE) if mask.any() else (wrong, PADDING)
        if wrong.any():
            parts, count = ndimage.label(wrong)
            wrong = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])
        points.append(click_inside(rng, wrong) if wrong.any() else (0.0, 0.0))
        labels.append(label)
    return torch.tensor(points, dtype=torch.float32)[:, None], torch.tensor(labels)[:, None]
