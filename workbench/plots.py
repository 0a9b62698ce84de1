"""Plots of calibrations and learning curves, in the style of `show`: frozen results come in, figures go out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.record_metrics import LOWER_IS_BETTER
from workbench.show import PALETTE, new_figure, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.learning_curve import LearningCurve
    from workbench.reliability import ReliabilityBin


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


def plot_learning_curve(curve: LearningCurve, metric: str = "cgF1", *, save: str | Path | None = None) -> Figure:
    """A metric over the number of pictures learnt from: every run a dot, the mean a line, its spread a band.

    Args:
        curve: of adaptations with different numbers of pictures and seeds.
        metric: one of its metrics.
        save: file to write.

    Raises:
        ValueError: no run has this metric.
    """
    points = [point for point in curve.points(metric) if np.isfinite(point.mean)]
    if not points:
        raise ValueError(f"no run of the learning curve has a value for {metric!r}; expected another metric")
    figure = new_figure(6.2, 3.8)
    axes = figure.subplots()
    blue = tuple(np.array(PALETTE[0]) / 255)
    places = np.arange(len(points))
    means, spreads = (100 * np.array([getattr(p, name) for p in points]) for name in ("mean", "spread"))
    axes.fill_between(places, means - spreads, means + spreads, color=blue, alpha=0.15, linewidth=0)
    axes.plot(places, means, "-", color=blue, linewidth=2)
    for place, point in zip(places, points, strict=True):
        axes.plot([place] * len(point.values), 100 * np.array(point.values), "o", color=blue, alpha=0.7, markersize=5)
    baseline = (curve.before or {}).get(metric, float("nan"))
    if np.isfinite(baseline):
        axes.axhline(100 * baseline, color="0.45", linewidth=1.2, linestyle="--")
        axes.annotate(
            "before adaptation", (1, 100 * baseline), xycoords=("axes fraction", "data"), fontsize=8, color="0.3",
            ha="right", xytext=(0, 3), textcoords="offset points",
        )  # fmt: skip
    axes.set_xticks(places, [str(point.shots) for point in points])
    axes.set_xlabel("pictures learnt from", fontsize=9)
    axes.set_ylabel(f"{metric}, per cent{' (lower is better)' if metric in LOWER_IS_BETTER else ''}", fontsize=9)
    _plain(axes)
    return saved(figure, save)


def _plain(axes: Any) -> None:
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
