"""What is asked of a picture: a phrase with example boxes and points, or one object by clicks, a box or a mask.

Coordinates are pixels of the picture. All is validated when it is made, so that nothing deeper needs to check it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

VISUAL_PHRASE = "visual"  # what the released weights were taught to read when only exemplars are given


@dataclass(frozen=True, eq=False)
class Prompt:
    """One concept to search for: a short noun phrase, exemplars, or both.

    Args:
        phrase: for instance "red circle"; None when exemplars alone say what is meant.
        exemplar_boxes_xyxy_px: (N, 4) corners in pixels of the picture.
        exemplar_labels: (N,) 1 = positive (find such), 0 = negative (not such); all positive when left out.
        exemplar_points_xy_px: (N, 2) pixels.
        exemplar_point_labels: (N,) likewise.

    Raises:
        ValueError: neither phrase nor positive exemplar, an empty phrase, a box without area, labels that do not fit.

    Example:
        >>> Prompt("red circle", exemplar_boxes_xyxy_px=[[10, 10, 40, 40]]).exemplar_labels.tolist()
        [1]
    """

    phrase: str | None = None
    exemplar_boxes_xyxy_px: ArrayLike = ()
    exemplar_labels: ArrayLike | None = None
    exemplar_points_xy_px: ArrayLike = ()
    exemplar_point_labels: ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.phrase is not None and (not isinstance(self.phrase, str) or not self.phrase.strip()):
            raise ValueError(f"received the phrase {self.phrase!r}; expected a short noun phrase such as 'red circle'")
        boxes = _coordinates(self.exemplar_boxes_xyxy_px, 4, "exemplar_boxes_xyxy_px")
        points = _coordinates(self.exemplar_points_xy_px, 2, "exemplar_points_xy_px")
        if self.phrase is None and not len(boxes) and not len(points):
            raise ValueError("received neither phrase nor exemplar; give a phrase, an example box or an example point")
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if flat.any():
            raise ValueError(
                f"exemplar box {boxes[flat][0].tolist()} has no area; expected x0 < x1 and y0 < y1 in pixels (xyxy)"
            )
        object.__setattr__(self, "exemplar_boxes_xyxy_px", boxes)
        object.__setattr__(self, "exemplar_points_xy_px", points)
        object.__setattr__(self, "exemplar_labels", _labels(self.exemplar_labels, len(boxes), "exemplar_labels"))
        object.__setattr__(
            self, "exemplar_point_labels", _labels(self.exemplar_point_labels, len(points), "exemplar_point_labels")
        )
        if self.phrase is None and not np.any(self.exemplar_labels) and not np.any(self.exemplar_point_labels):
            raise ValueError(
                "received negative exemplars only, which say what is not meant; add a phrase or a positive exemplar"
            )

    @property
    def text(self) -> str:
        """What the text encoder reads."""
        return VISUAL_PHRASE if self.phrase is None else self.phrase

    @property
    def has_exemplars(self) -> bool:
        return bool(np.size(self.exemplar_boxes_xyxy_px) or np.size(self.exemplar_points_xy_px))

    def scaled(self, x: float, y: float) -> Prompt:
        """The same prompt on a picture resized by factors `x` and `y`."""
        return replace(
            self,
            exemplar_boxes_xyxy_px=np.asarray(self.exemplar_boxes_xyxy_px) * [x, y, x, y],
            exemplar_points_xy_px=np.asarray(self.exemplar_points_xy_px) * [x, y],
        )

    def on_input(self, picture_size: tuple[int, int], side: int) -> Prompt:
        """The same prompt on a picture (H, W) resized to `side` x `side`, as the model takes it.

        Raises:
            ValueError: an exemplar lies outside the picture.
        """
        height, width = picture_size
        boxes, points = np.asarray(self.exemplar_boxes_xyxy_px), np.asarray(self.exemplar_points_xy_px)
        beside = (boxes[:, :2] >= (width, height)).any(1) | (boxes[:, 2:] <= 0).any(1)
        astray = (points < 0).any(1) | (points > (width, height)).any(1)
        if beside.any() or astray.any():
            first = (boxes[beside] if beside.any() else points[astray])[0].tolist()
            raise ValueError(
                f"the exemplar {first} lies outside the picture, which is {width} pixels wide and {height} high; give "
                "coordinates in pixels of the picture, x before y"
            )
        return self.scaled(side / width, side / height)


@dataclass(frozen=True)
class Click:
    """One click on a picture, on the object or beside it.

    Args:
        x_px, y_px: pixels from the left and from the top of the picture.
        is_positive: whether the object is there; a negative click says what does not belong to it.

    Raises:
        ValueError: a coordinate is no finite number, or `is_positive` is no yes or no.

    Example:
        >>> Click(40, 25, is_positive=False)
        Click(x_px=40.0, y_px=25.0, is_positive=False)
    """

    x_px: float
    y_px: float
    is_positive: bool = True

    def __post_init__(self) -> None:
        try:
            x, y = float(self.x_px), float(self.y_px)
        except (TypeError, ValueError) as error:
            raise ValueError(f"received the click ({self.x_px!r}, {self.y_px!r}); expected two numbers") from error
        if not np.isfinite([x, y]).all():
            raise ValueError(f"received the click ({x}, {y}); expected finite numbers, in pixels of the picture")
        if self.is_positive not in (0, 1):
            raise ValueError(f"received is_positive={self.is_positive!r}; expected True on the object, False beside it")
        object.__setattr__(self, "x_px", x)
        object.__setattr__(self, "y_px", y)
        object.__setattr__(self, "is_positive", bool(self.is_positive))


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """One object to cut out: clicks, a box around it, a rough mask, or several of these.

    Args:
        clicks: on the object and beside it.
        box_xyxy_px: (4,) corners in pixels of the picture.
        mask: (H, W) bool, a rough mask of the whole picture, in any resolution.
        mask_logits: (h, w) logits of an earlier answer, in place of a mask.

    Raises:
        ValueError: nothing is given, a box without area, or a mask of another kind.

    Example:
        >>> ObjectPrompt([Click(40, 25)], box_xyxy_px=[10, 10, 60, 50]).box_xyxy_px.tolist()
        [10.0, 10.0, 60.0, 50.0]
    """

    clicks: Sequence[Click] = ()
    box_xyxy_px: ArrayLike | None = None
    mask: ArrayLike | None = None
    mask_logits: ArrayLike | None = None

    def __post_init__(self) -> None:
        clicks = (self.clicks,) if isinstance(self.clicks, Click) else tuple(self.clicks)
        if wrong := [click for click in clicks if not isinstance(click, Click)]:
            raise ValueError(f"received {wrong[0]!r} among the clicks; expected Click(x_px, y_px)")
        object.__setattr__(self, "clicks", clicks)
        if self.box_xyxy_px is not None:
            box = _coordinates(np.reshape(self.box_xyxy_px, (1, -1)), 4, "box_xyxy_px")
            if not len(box) or (box[0, 2:] <= box[0, :2]).any():
                raise ValueError(f"the box {box.tolist()} has no area; expected x0 < x1 and y0 < y1 in pixels (xyxy)")
            object.__setattr__(self, "box_xyxy_px", box[0])
        if self.mask is not None and self.mask_logits is not None:
            raise ValueError("received a mask and mask logits; give one of them")
        if self.mask is not None:
            mask = np.array(self.mask)
            if mask.ndim != 2 or mask.dtype != bool or not mask.size:
                raise ValueError(f"received a mask of shape {mask.shape} and type {mask.dtype}; expected (H, W) bool")
            object.__setattr__(self, "mask", mask)
        if self.mask_logits is not None:
            logits = np.array(self.mask_logits, dtype=np.float32)
            if logits.ndim != 2 or not logits.size or not np.isfinite(logits).all():
                raise ValueError(f"received mask logits of shape {logits.shape}; expected finite numbers (h, w)")
            object.__setattr__(self, "mask_logits", logits)
        if not clicks and self.box_xyxy_px is None and self.mask is None and self.mask_logits is None:
            raise ValueError("received nothing that says which object is meant; give a click, a box or a mask")


def as_prompts(prompts: Prompt | str | Sequence[Prompt | str]) -> list[Prompt]:
    """A list of prompts from one or several phrases or prompts.

    Raises:
        ValueError: the list is empty.
    """
    items = [prompts] if isinstance(prompts, Prompt | str) else list(prompts)
    if not items:
        raise ValueError("received no prompt; give at least one phrase or Prompt")
    return [item if isinstance(item, Prompt) else Prompt(item) for item in items]


def _coordinates(values: ArrayLike, columns: int, name: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float32)  # a copy: the prompt must not change with the caller's array
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}; expected numbers (N, {columns}) in pixels") from error
    if array.size == 0:
        return np.zeros((0, columns), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
        raise ValueError(f"{name}: received shape {array.shape}; expected finite numbers (N, {columns}) in pixels")
    return array


def _labels(values: ArrayLike | None, count: int, name: str) -> np.ndarray:
    array = np.ones(count) if values is None or not np.size(values) else np.array(values).reshape(-1)
    if len(array) != count or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name}: received {array.tolist()}; expected {count} labels, 1 positive or 0 negative")
    return array.astype(np.int64)
