"""Pictures and plots: labelled pictures side by side, answers before and after with their verdicts, training curves.
Examples, records and comparisons come in; uint8 arrays or matplotlib figures go out; pyplot stays untouched."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from workbench.examples import Concept, Example, ExampleSet, boxes_of_masks
from workbench.paint import PALETTE, Colour, anchors_of, fit_boxes, fit_image, fit_masks, overlay, tagged
from workbench.record_metrics import LOWER_IS_BETTER

__all__ = [
    "PALETTE",
    "Verdict",
    "change_in_words",
    "draw_answer",
    "draw_truth",
    "new_figure",
    "overlay",
    "plot_metrics",
    "plot_training",
    "records_of",
    "saved",
    "show_batch",
    "show_results",
    "verdict_of",
    "worth_seeing",
]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.compare import Comparison, PairChange
    from workbench.evaluate import Evaluation, PairRecord

TRUTH, HIT, FALSE_ALARM, MISS = PALETTE[2], PALETTE[0], PALETTE[3], PALETTE[6]
HIT_IOU = 0.5
LOSS_TERMS = (
    *("total", "loss", "box", "giou", "classification", "presence", "mask", "dice", "semantic", "semantic_dice"),
    "replay",
)
MAX_TAGS = 8  # best candidates that carry their score in a picture
MAX_LEGEND = 6  # phrases named below one picture of show_batch


# ------------------------------------------------------------------------------------------------------------ verdicts
@dataclass(frozen=True)
class Verdict:
    """Which candidates hit an object at IoU 0.5, which hit none, which objects no candidate hits (indices)."""

    hits: tuple[int, ...]
    false_alarms: tuple[int, ...]
    misses: tuple[int, ...]
    num_truth: int

    @property
    def is_right(self) -> bool:
        """True without any miss or false alarm."""
        return not self.misses and not self.false_alarms

    def __str__(self) -> str:
        count = len(self.false_alarms)
        alarms = f"{count} false alarm{'s' if count > 1 else ''}"
        if not self.num_truth:
            return alarms if count else "rightly nothing"
        found = f"{len(self.hits)} of {self.num_truth} found"
        return f"{found}, {alarms}" if count else found


def verdict_of(record: PairRecord, score_threshold: float) -> Verdict:
    """What is right and wrong in one answer, for the candidates with at least this score.

    Masks are compared, or boxes where the labels are boxes only; candidates and objects are assigned as in the metrics.
    """
    overlaps = record.overlaps(boxes=not record.has_masks)[: record.num_kept(score_threshold)]
    candidates, objects = linear_sum_assignment(overlaps, maximize=True)
    is_hit = overlaps[candidates, objects] >= HIT_IOU
    hits, found = set(candidates[is_hit].tolist()), set(objects[is_hit].tolist())
    return Verdict(
        hits=tuple(sorted(hits)),
        false_alarms=tuple(sorted(set(range(len(overlaps))) - hits)),
        misses=tuple(sorted(set(range(record.num_truth)) - found)),
        num_truth=record.num_truth,
    )


def draw_truth(example: Example, phrase: str, side: int = 480) -> np.ndarray:
    """The picture with the labelled objects of a phrase, longest side `side` pixels."""
    concept = example.concept(phrase)
    if concept is None:
        raise ValueError(f"image {example.image_id!r} does not mention {phrase!r}; expected one of its phrases.")
    pixels = fit_image(example.load_image(), side)
    masks, boxes = _fitted(example, concept, pixels)
    return overlay(pixels, masks, boxes, colours=[TRUTH] * len(boxes))


def _fitted(example: Example, concept: Concept, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks and boxes of the concept in the pixels of the scaled picture."""
    size = pixels.shape[:2]
    return fit_masks(concept.masks, size), fit_boxes(concept.boxes_xyxy_px, (example.height, example.width), size)


def draw_answer(example: Example, record: PairRecord, score_threshold: float, side: int = 480) -> np.ndarray:
    """The picture with what a model found: hits, false alarms and, as outlines, the objects it missed."""
    verdict = verdict_of(record, score_threshold)
    concept = example.concept(record.phrase)
    if concept is None or concept.num_objects != record.num_truth:
        raise ValueError(
            f"image {example.image_id!r}: {record.phrase!r} has {record.num_truth} objects in the record and "
            f"{concept.num_objects if concept else 'no entry'} in the examples; expected those it was measured on."
        )
    pixels = fit_image(example.load_image(), side)
    masks, boxes = _fitted(example, concept, pixels)
    missed = list(verdict.misses)
    masks = masks[missed] if concept.has_masks else masks
    canvas = overlay(pixels, masks, boxes[missed], None, [""] * len(missed), [MISS] * len(missed), fill=0.0)
    answers = fit_masks(record.masks(score_threshold), pixels.shape[:2])
    visible = np.flatnonzero(answers.any((1, 2)))  # an object of a few pixels can vanish in a smaller picture
    kinds = [("", HIT) if number in verdict.hits else ("false ", FALSE_ALARM) for number in visible]
    tags = [f"{word}{record.scores[number]:.2f}" for number, (word, _) in zip(visible, kinds, strict=True)]
    tags[MAX_TAGS:] = [""] * len(tags[MAX_TAGS:])  # more would hide the picture
    colours = [colour for _, colour in kinds]
    canvas = overlay(canvas, answers[visible], None, None, [""] * len(visible), colours)
    anchors = anchors_of(answers[visible], boxes_of_masks(answers[visible])), anchors_of(masks, boxes[missed])
    return tagged(
        canvas, np.concatenate(anchors), [*tags, *["missed"] * len(missed)], [*colours, *[MISS] * len(missed)]
    )


def worth_seeing(comparison: Comparison, limit: int) -> tuple[PairChange, ...]:
    """Pairs to show to a person: regressions first, then the largest gains, then what is still wrong, then the rest.

    When there are more regressions than fit, a third of the places is kept for gains; among these, phrases that are
    there and phrases that are refused take turns.
    """
    worse = [pair for pair in comparison.pairs if pair.delta < 0]
    gains = sorted((pair for pair in comparison.pairs if pair.delta > 0), key=lambda pair: -pair.delta)
    kinds = [pair for pair in gains if pair.num_truth], [pair for pair in gains if not pair.num_truth]
    better = [pair for both in zip_longest(*kinds) for pair in both if pair is not None]
    wrong = [pair for pair in comparison.pairs if pair.delta == 0 and pair.f1_after < 1]
    right = [pair for pair in comparison.pairs if pair.delta == 0 and pair.f1_after >= 1]
    kept = min(len(worse), max(limit - len(better), limit - limit // 3))
    return tuple([*worse[:kept], *better, *wrong, *right][:limit])


# ------------------------------------------------------------------------------------------------------------- figures
@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that notebooks show even when nothing has imported pyplot."""

        def _repr_png_(self) -> bytes:
            from io import BytesIO

            file = BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return ShownFigure


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty white figure of this size in inches that notebooks show; matplotlib finds the places, or the caller."""
    return _figure_class()(figsize=(width, height), layout=layout, facecolor="white")


def saved(figure: Figure, save: str | Path | None) -> Figure:
    """The figure, written to a file (PNG, PDF or SVG by its ending) unless that is None."""
    if save is not None:
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(save, dpi=110)
    return figure


def _show(axes: Any, pixels: np.ndarray, title: str, legend: dict[str, Colour | None] | None = None) -> None:
    axes.imshow(pixels)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_axis_off()
    axes.set(xticks=[], yticks=[])  # hidden ticks would be measured all the same
    if legend:
        axes.set_anchor("N")  # the legend takes the room below the picture
        handles = _patches(legend)
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(-0.04, 0.0), fontsize=8, frameon=False, labelspacing=0.2
        )


def _patches(legend: dict[str, Colour | None]) -> list[Any]:
    from matplotlib.patches import Patch

    return [
        Patch(color="none" if colour is None else "#{:02x}{:02x}{:02x}".format(*colour), label=name)
        for name, colour in legend.items()
    ]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def show_batch(
    examples: ExampleSet | Sequence[Example], *, rows: int = 2, columns: int = 4, save: str | Path | None = None
) -> Figure:
    """The first pictures with their labels; below each one its phrases in their colours, and the absent ones.

    Args:
        examples: labelled pictures.
        rows, columns: of the grid.
        save: file to write (PNG, PDF or SVG by its ending).

    Raises:
        ValueError: there is no picture.
    """
    chosen = list(examples[: rows * columns])
    if not chosen:
        raise ValueError("0 pictures to show; expected at least one.")
    columns = min(columns, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    parts = [_labelled_picture(example) for example in chosen]
    num_lines = max(len("\n".join(legend).split("\n")) for _, _, legend in parts)
    figure = new_figure(3.0 * columns, (3.3 + 0.17 * num_lines) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, part in zip(grid.flat, parts, strict=False):
        _show(axes, *part)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    return saved(figure, save)


def _labelled_picture(example: Example) -> tuple[np.ndarray, str, dict[str, Colour | None]]:
    """The picture with all its labels, its title, and the legend: what -> colour (None: nothing is drawn for it)."""
    present = [concept for concept in example.concepts if concept.status == "positive"]
    pixels = fit_image(example.load_image(), 480)
    legend: dict[str, Colour | None] = {}
    for number, concept in enumerate(present):
        colour = PALETTE[number % len(PALETTE)]
        masks, boxes = _fitted(example, concept, pixels)
        pixels = overlay(pixels, masks, boxes, None, [""] * len(boxes), [colour] * len(boxes), fill=0.3)
        if number < MAX_LEGEND:
            legend[f"{_short(concept.phrase, 32)} ({concept.num_objects})"] = colour
    if len(present) > MAX_LEGEND:
        legend[f"and {len(present) - MAX_LEGEND} more"] = None
    absent = ", ".join(concept.phrase for concept in example.concepts if concept.status == "absent")
    if absent:
        legend[textwrap.fill(f"absent: {_short(absent, 110)}", 38)] = None
    return pixels, _short(example.image_id, 36), legend


def show_results(
    examples: ExampleSet,
    before: Evaluation,
    after: Evaluation,
    *,
    comparison: Comparison | None = None,
    limit: int = 6,
    save: str | Path | None = None,
) -> Figure:
    """One row per (picture, phrase): labels, answer before, answer after, each with its verdict; regressions first.

    Args:
        examples: the pictures both evaluations were made on.
        before, after: evaluations of the same pairs.
        comparison: of the two, if there already is one.
        limit: number of rows at most.
        save: file to write.
    """
    if comparison is None:
        from workbench.compare import compare

        comparison = compare(before, after, num_resamples=1)
    pairs = worth_seeing(comparison, limit)
    olds, news = records_of(before), records_of(after)
    width, height, title, foot = 9.2, 3.4 * len(pairs) + 0.35, 0.4, 0.35
    figure = new_figure(width, height, layout=None)
    places = {"left": 0.05 / width, "right": 1 - 0.05 / width, "bottom": foot / height, "top": 1 - title / height}
    grid = figure.subplots(len(pairs), 3, squeeze=False, gridspec_kw={**places, "wspace": 0.03, "hspace": title / 3})
    for row, pair in zip(grid, pairs, strict=True):
        example, key = examples.example(pair.image_id), (pair.image_id, pair.phrase)
        truth = f"{pair.num_truth} labelled" if pair.num_truth else "absent"
        _show(
            row[0], draw_truth(example, pair.phrase), f"{_short(pair.phrase, 40)}: {truth}\n{_short(pair.image_id, 40)}"
        )
        for axes, name, record, evaluation in (
            (row[1], "before", olds[key], before),
            (row[2], "after", news[key], after),
        ):
            verdict = verdict_of(record, evaluation.score_threshold)
            answer = draw_answer(example, record, evaluation.score_threshold)
            _show(axes, answer, f"{name}: {verdict}\npresence {record.presence_score:.2f}")
    handles = _patches({"labelled": TRUTH, "found": HIT, "false alarm": FALSE_ALARM, "missed": MISS})
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=9, frameon=False)
    return saved(figure, save)


def records_of(evaluation: Evaluation) -> dict[tuple[str, str], PairRecord]:
    """The records of an evaluation by (image_id, phrase)."""
    return {(record.image_id, record.phrase): record for record in evaluation.records}


def plot_metrics(comparison: Comparison, *, save: str | Path | None = None) -> Figure:
    """Every metric as a line from before (hollow) to after (full), with its change and interval in words."""
    metrics = {name: delta for name, delta in comparison.metrics.items() if math.isfinite(delta.delta)}
    figure = new_figure(8.0, 0.38 * len(metrics) + 1.0)
    axes = figure.subplots()
    for place, (name, delta) in enumerate(metrics.items()):
        is_better = (delta.delta > 0) != (name in LOWER_IS_BETTER)
        colour = np.array((PALETTE[0] if is_better else PALETTE[3]) if delta.is_certain else (130, 130, 130)) / 255
        before, after = 100 * delta.before, 100 * delta.after
        axes.plot([before, after], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt", zorder=1)
        axes.plot(before, place, "o", markersize=8, markerfacecolor="white", markeredgecolor=colour, zorder=2)
        axes.plot(after, place, "o", markersize=8, color=colour, zorder=3)
        axes.text(1.02, place, change_in_words(delta), transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(
        range(len(metrics)), [f"{name} (lower is better)" if name in LOWER_IS_BETTER else name for name in metrics]
    )
    axes.invert_yaxis()
    lowest = min([0.0] + [100 * min(delta.before, delta.after) for delta in metrics.values()])
    axes.set_xlim(lowest - 3, 103)
    axes.set_xlabel("per cent; hollow: before, full: after; blue: better, orange: worse, grey: not sure", fontsize=9)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=9, length=0)
    return saved(figure, save)


def change_in_words(delta: Any, *, scale: float = 100.0) -> str:
    """A change with its interval, e.g. "+58.7 [+40.0, +70.0]"."""
    text = f"{scale * delta.delta:+z.1f}" if math.isfinite(delta.delta) else "\u2013"
    return text if delta.ci95 is None else f"{text} [{scale * delta.ci95[0]:+z.1f}, {scale * delta.ci95[1]:+z.1f}]"


def plot_training(log_path: str | Path, *, save: str | Path | None = None) -> Figure:
    """The losses of a training run over its steps.

    Args:
        log_path: JSON Lines, one object per step, as `finetune` writes it; `total` or `loss`, `loss_*`, the terms
            of the criterion and the replay are drawn.
        save: file to write.

    Raises:
        ValueError: the file holds no step with a loss.
    """
    curves = _loss_curves(Path(log_path))
    figure = new_figure(8.0, 3.2)
    axes = figure.subplots()
    for place, (name, points) in enumerate(curves.items()):
        steps, values = np.array(points).T
        is_sum = name in ("total", "loss")
        axes.plot(
            steps,
            values,
            color=(0.1, 0.1, 0.1) if is_sum else np.array(PALETTE[place % len(PALETTE)]) / 255,
            linewidth=2.2 if is_sum else 1.2,
            marker="o" if len(steps) == 1 else None,
            label=name,
        )
    axes.set_yscale("log")
    shown = [value for points in curves.values() for _, value in points if value > 0]
    axes.set_ylim(bottom=float(np.quantile(shown, 0.01)) / 2)  # a term that begins near 0 leaves room to the others
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return saved(figure, save)


def _loss_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Name of the loss -> (step, value); the sum first, terms that are always 0 left out."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is no JSON ({error}); expected one object per line.") from error
        for name, value in _losses(entry).items():
            curves.setdefault(name, []).append((float(entry.get("step", number)), value))
    drawn = {name: points for name, points in curves.items() if any(value > 0 for _, value in points)}
    if not drawn:
        raise ValueError(
            f"{path} holds no loss; expected JSON Lines with 'step' and 'total' or 'loss'. Pass the log of a training."
        )
    return dict(sorted(drawn.items(), key=lambda item: item[0] not in ("total", "loss")))


def _losses(entry: Any) -> dict[str, float]:
    if not isinstance(entry, dict):
        return {}
    return {
        name: float(value)
        for name, value in entry.items()
        if (name in LOSS_TERMS or name.startswith("loss_")) and isinstance(value, int | float) and math.isfinite(value)
    }
