"""Plots of calibrations, sweeps, trainings under way and values in order, in the style of `show`: results come in,
figures go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.record_metrics import LOWER_IS_BETTER
from workbench.show import PALETTE, new_figure, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.reliability import ReliabilityBin
    from workbench.sweep import Sweep

SWEPT = ("cgF1", "pmF1", "IL_MCC")


def plot_reliability(
    before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin], *, save: str | Path | None = None
) -> Figure:
    """The share of candidates that hit an object over their score, and how many there are; on the diagonal scores are
    probabilities.

    Args:
        before, after: recorded and calibrated scores of the same candidates, from `reliability`.
        save: file to write.
    """
    figure = new_figure(5.4, 5.2)
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    shares.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=1)
    for name, bins, colour, fill in (("recorded", before, (0.5, 0.5, 0.5), "white"), ("calibrated", after, None, None)):
        colour = tuple(np.array(PALETTE[0]) / 255) if colour is None else colour
        scores, hits = [b.mean_score for b in bins], [b.hit_share for b in bins]
        shares.plot(scores, hits, "o-", color=colour, markerfacecolor=fill or colour, linewidth=1.6, label=name)
        edges = [b.low for b in bins]
        widths = [b.high - b.low for b in bins]
        heights = [b.count for b in bins]
        counts.bar(
            edges,
            heights,
            widths,
            align="edge",
            label=name,
            facecolor=(*colour, 0.25) if fill is None else "none",
            edgecolor=colour,
        )
    shares.set_ylabel("share that hits an object", fontsize=9)
    shares.set_ylim(-0.03, 1.03)
    shares.legend(fontsize=9, frameon=False, loc="lower right")
    counts.set_ylabel("candidates", fontsize=9)
    counts.set_xlabel("score", fontsize=9)
    counts.set_xlim(-0.02, 1.02)
    for axes in (shares, counts):
        _plain(axes)
    return saved(figure, save)


def plot_sweep(found: Sweep, metrics: Sequence[str] = SWEPT, *, save: str | Path | None = None) -> Figure:
    """Metrics over the values of the setting that was varied: every run a dot, the mean a line, its spread a band.

    Args:
        found: what `sweep` returned.
        metrics: some of its metrics, one colour each.
        save: file to write.

    Raises:
        ValueError: no run has a value for one of the metrics.
    """
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    names = [str(point.value) for point in found.points(metrics[0])]
    is_ordered = all(isinstance(run.value, int | float) for run in found.runs)
    for number, metric in enumerate(metrics):
        points, colour = found.points(metric), tuple(np.array(PALETTE[number]) / 255)
        if not any(np.isfinite(point.mean) for point in points):
            raise ValueError(f"no run of the sweep has a value for {metric!r}; expected another metric")
        places = np.arange(len(points)) + 0.08 * (number - (len(metrics) - 1) / 2)
        means, spreads = (100 * np.array([getattr(p, name) for p in points]) for name in ("mean", "spread"))
        label = f"{metric}{' (lower is better)' if metric in LOWER_IS_BETTER else ''}"
        if is_ordered:
            axes.fill_between(places, means - spreads, means + spreads, color=colour, alpha=0.12, linewidth=0)
            axes.plot(places, means, "-", color=colour, linewidth=2, label=label)
        else:
            axes.errorbar(places, means, spreads, fmt="D", color=colour, capsize=4, markersize=6, label=label)
        for place, point in zip(places, points, strict=True):
            axes.plot([place] * len(point.values), 100 * np.array(point.values), "o", color=colour, alpha=0.5, ms=4)
        baseline = found.before.get(metric, float("nan"))
        if np.isfinite(baseline):
            axes.axhline(100 * baseline, color=colour, linewidth=1.1, linestyle="--", alpha=0.7)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("pictures learnt from" if found.key == "shots" else found.key, fontsize=9)
    axes.set_ylabel("per cent", fontsize=9)
    seeds = len({run.seed for run in found.runs})
    title = f"{found.name}, {found.model}: {seeds} seed{'s' if seeds > 1 else ''}; dashed: before adaptation"
    axes.set_title(title, fontsize=9, loc="left", color="0.3")
    axes.legend(fontsize=9, frameon=False, loc="best")
    _plain(axes)
    return saved(figure, save)


def plot_progress(
    losses: Sequence[tuple[int, float]], scores: Sequence[tuple[int, float]] = (), *, save: str | Path | None = None
) -> Figure:
    """A training under way: the loss of every step with its running mean, and cgF1 on held-out pictures.

    Args:
        losses: (step, loss), at least one.
        scores: (step, cgF1 of 1); without any, the loss has the figure to itself.
        save: file to write.

    Raises:
        ValueError: there is no loss yet.
    """
    if not losses:
        raise ValueError("received no loss; expected at least one (step, loss)")
    figure = new_figure(8.0 if scores else 6.0, 2.8)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    steps, values = np.array(losses, dtype=float).T
    weights = np.ones(min(10, len(values)))
    means = np.convolve(values, weights)[: len(values)] / np.convolve(np.ones(len(values)), weights)[: len(values)]
    colour = tuple(np.array(PALETTE[0]) / 255)
    axes[0].plot(steps, values, color="0.75", linewidth=1, marker="o" if len(steps) == 1 else None)
    axes[0].plot(steps, means, color=colour, linewidth=2)
    axes[0].set_title("loss of each step; blue: mean of ten", fontsize=9, loc="left", color="0.3")
    if scores:
        places, found = np.array(scores, dtype=float).T
        axes[1].plot(places, 100 * found, "o-", color=tuple(np.array(PALETTE[2]) / 255), linewidth=2)
        axes[1].set_ylim(min(0.0, 100 * found.min()) - 3, 103)
        axes[1].set_title("cgF1 on pictures held out, per cent", fontsize=9, loc="left", color="0.3")
    for part in axes:
        part.set_xlabel("step", fontsize=9)
        part.locator_params(axis="x", integer=True)
        _plain(part)
    return saved(figure, save)


def plot_lines(
    values: Mapping[str, Sequence[float]],
    title: str,
    x_label: str,
    *,
    mark: float | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Numbers in their order, of every frame of a video or every layer of a model, as lines.

    Args:
        values: name of the line -> its numbers, NaN where there is none; not more lines than colours.
        title: what the numbers are. x_label: what they are counted by.
        mark: a number that decides something, drawn as a dashed line.
        save: file to write.
    """
    figure = new_figure(7.0, 2.8)
    axes = figure.subplots()
    for (name, numbers), colour in zip(values.items(), PALETTE, strict=False):
        axes.plot(range(len(numbers)), numbers, "o-", ms=4, linewidth=1.8, color=np.array(colour) / 255, label=name)
    if mark is not None:
        axes.axhline(mark, color="0.5", linewidth=1.1, linestyle="--")
    axes.locator_params(axis="x", integer=True)
    axes.set_title(title, fontsize=9, loc="left", color="0.3")
    axes.set_xlabel(x_label, fontsize=9)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _plain(axes)
    return saved(figure, save)


def _plain(axes: Any) -> None:
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
