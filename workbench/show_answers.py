"""Pictures of single answers: what was found for each prompt with the marks that asked for it, masks of one object, and
maps of numbers over a picture. Pictures and answers come in; figures that notebooks show go out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sam3.interactive import Segmentation
from sam3.pictures import Picture, read_picture
from sam3.predictor import Prediction
from sam3.prompts import Click, ObjectPrompt, Prompt
from workbench.paint import PALETTE, overlay
from workbench.show import new_figure, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = {True: "#{:02x}{:02x}{:02x}".format(*PALETTE[2]), False: "#{:02x}{:02x}{:02x}".format(*PALETTE[3])}
_PANEL_IN = 3.1  # inches


def show_answers(
    image: Picture,
    answers: Sequence[Prediction],
    prompts: Sequence[Prompt | None] = (),
    *,
    titles: Sequence[str] = (),
    columns: int = 4,
    save: str | Path | None = None,
) -> Figure:
    """One panel for each answer about a picture: what was found, how sure, and the example marks that asked for it.

    Args:
        image: what was asked about; see `read_picture`.
        answers: about that picture, at least one.
        prompts: of the answers, in the same order, whose example boxes and points are drawn; None or a shorter list
            draws none. Green marks are positive, orange ones negative.
        titles: of the answers, before what was asked, such as "before" and "after"; none when left out.
        columns: panels side by side, at most.
        save: file to write (PNG, PDF or SVG by its ending).

    Raises:
        ValueError: no answer, one about a picture of another size, or titles that are not one each.
    """
    pixels = read_picture(image)
    if not answers:
        raise ValueError("received no answer; expected at least one prediction of this picture")
    if titles and len(titles) != len(answers):
        raise ValueError(f"received {len(titles)} titles for {len(answers)} answers; expected one each, or none")
    asked = [*prompts, *[None] * len(answers)][: len(answers)]
    panels = []
    heads = [f"{title}: " for title in titles] or [""] * len(answers)
    for head, answer, prompt in zip(heads, answers, asked, strict=True):
        if tuple(answer.image_size) != pixels.shape[:2]:
            raise ValueError(
                f"the answer for {answer.phrase!r} is about a picture of {tuple(answer.image_size)} pixels (H, W), "
                f"this one has {pixels.shape[:2]}; pass the picture that was asked about"
            )
        found = f"{len(answer)} found, presence {answer.presence_score:.2f}"
        tags = [f"{score:.2f}" for score in answer.scores.tolist()]
        panels.append((overlay(pixels, answer.masks, labels=tags), f"{head}{_asked(answer, prompt)}\n{found}"))
    figure, grid = _panels(panels, columns)
    for axes, prompt in zip(grid, asked, strict=True):
        if prompt is not None:
            _draw_boxes(axes, np.asarray(prompt.exemplar_boxes_xyxy_px), np.asarray(prompt.exemplar_labels))
            _draw_points(axes, np.asarray(prompt.exemplar_points_xy_px), np.asarray(prompt.exemplar_point_labels))
    return saved(figure, save)


def show_object(
    image: Picture, answer: Segmentation, prompt: ObjectPrompt | None = None, *, save: str | Path | None = None
) -> Figure:
    """One panel for each mask of one object, best first, with the clicks and the box that asked for it.

    Args:
        image: what was asked about. answer: of `ImagePredictor.segment`. prompt: of the answer. save: file to write.
    """
    pixels = read_picture(image)
    panels = [
        (overlay(pixels, mask[None], labels=[""]), f"mask {number}: expected fit {score:.2f}")
        for number, (mask, score) in enumerate(zip(answer.masks, answer.iou_scores.tolist(), strict=True), start=1)
    ]
    figure, grid = _panels(panels, columns=4)
    if prompt is not None:
        for axes in grid:
            _draw_clicks(axes, prompt)
    return saved(figure, save)


def show_maps(
    image: Picture,
    maps: Mapping[str, ArrayLike],
    *,
    points_xy_px: Sequence[tuple[float, float]] = (),
    columns: int = 4,
    save: str | Path | None = None,
) -> Figure:
    """Maps of numbers laid over a picture, one panel each, dark for the lowest number and yellow for the highest.

    Every panel has a colour scale of its own; its title gives the two ends.

    Args:
        image: the picture, as large as it is.
        maps: title -> (h, w) numbers of any grid over the picture.
        points_xy_px: marked in every panel, in pixels of the picture.
        columns: panels side by side, at most.
        save: file to write.

    Raises:
        ValueError: no map, or one that has not two dimensions.
    """
    pixels = read_picture(image)
    if not maps:
        raise ValueError("received no map; expected at least one title with numbers (h, w)")
    grids = {title: np.asarray(values, dtype=np.float32) for title, values in maps.items()}
    if wrong := [f"{title!r} of shape {grid.shape}" for title, grid in grids.items() if grid.ndim != 2]:
        raise ValueError(f"received {wrong[0]}; expected numbers (h, w), one for each cell of a grid")
    grey = np.repeat(pixels.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    titles = [f"{title}\n{_ends(grid)}" for title, grid in grids.items()]
    figure, panels = _panels([(grey, title) for title in titles], columns)
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    for axes, grid in zip(panels, grids.values(), strict=False):
        axes.imshow(grid, extent=extent, cmap="inferno", alpha=0.75, interpolation="nearest")
        _draw_points(axes, np.reshape(points_xy_px, (-1, 2)), np.ones(len(points_xy_px)))
    return saved(figure, save)


def _asked(answer: Prediction, prompt: Prompt | None) -> str:
    """What was asked, in words."""
    marks = 0 if prompt is None else np.size(np.asarray(prompt.exemplar_labels))
    marks += 0 if prompt is None else np.size(np.asarray(prompt.exemplar_point_labels))
    examples = f"{marks} example{'s' if marks > 1 else ''}" if marks else ""
    return " + ".join(filter(None, (answer.phrase, examples))) or "by example"


def _ends(grid: np.ndarray) -> str:
    """The lowest and the highest number; what is nothing beside the other is 0."""
    low, high = float(grid.min()), float(grid.max())
    largest = max(abs(low), abs(high))
    return " to ".join(f"{0 if abs(value) < 1e-3 * largest else value:.2g}" for value in (low, high))


def _panels(panels: Sequence[tuple[np.ndarray, str]], columns: int) -> tuple[Figure, list[Any]]:
    """A figure with pictures in rows, and the axes of those pictures."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    height, width = panels[0][0].shape[:2]
    num_lines = 1 + max(title.count("\n") for _, title in panels)
    figure = new_figure(_PANEL_IN * columns, (_PANEL_IN * height / width + 0.17 * num_lines + 0.1) * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (pixels, title) in zip(grid, panels, strict=False):
        axes.imshow(pixels)
        axes.set_title(title, fontsize=9, loc="left")
    for axes in grid:
        axes.set_axis_off()
    return figure, grid[: len(panels)]


def _draw_clicks(axes: Any, prompt: ObjectPrompt) -> None:
    clicks: Sequence[Click] = tuple(prompt.clicks)
    _draw_points(
        axes, np.reshape([(c.x_px, c.y_px) for c in clicks], (-1, 2)), np.array([c.is_positive for c in clicks])
    )
    if prompt.box_xyxy_px is not None:
        _draw_boxes(axes, np.asarray(prompt.box_xyxy_px), np.ones(1))


def _draw_boxes(axes: Any, boxes_xyxy_px: np.ndarray, labels: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for (x0, y0, x1, y1), label in zip(np.reshape(boxes_xyxy_px, (-1, 4)), np.reshape(labels, -1), strict=True):
        for colour, width in (("white", 4.0), (_MARKS[bool(label)], 2.0)):
            axes.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, linestyle="--")
            )


def _draw_points(axes: Any, points_xy_px: np.ndarray, labels: np.ndarray) -> None:
    for (x, y), label in zip(np.reshape(points_xy_px, (-1, 2)), np.reshape(labels, -1), strict=True):
        marker = "P" if label else "X"
        axes.plot(x, y, marker, markersize=11, color=_MARKS[bool(label)], markeredgecolor="white", markeredgewidth=1.4)
