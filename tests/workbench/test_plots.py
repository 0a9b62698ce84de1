"""Curves of a training under way, and numbers in their order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.plots import plot_lines, plot_progress


def test_a_training_under_way_shows_its_loss_with_the_mean_of_ten_steps(tmp_path) -> None:
    values = [10.0, 8.0, 9.0, *[5.0] * 12]
    figure = plot_progress(list(enumerate(values, start=1)), save=tmp_path / "a.png")
    (axes,) = figure.axes
    raw, mean = (np.asarray(line.get_ydata()) for line in axes.lines)
    assert raw.tolist() == values
    assert mean[:3] == pytest.approx([10, 9, 9]) and mean[9] == pytest.approx(6.2) and mean[-1] == pytest.approx(5)
    assert (tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match="received no loss"):
        plot_progress([])


def test_held_out_scores_have_a_panel_of_their_own_in_per_cent() -> None:
    losses, scores = plot_progress([(1, 3.0)], [(1, 0.25), (2, -0.1)]).axes
    assert scores.lines[0].get_xydata().tolist() == [[1, 25], [2, -10]] and scores.get_ylim()[0] < -10
    assert len(losses.lines[0].get_xydata()) == 1


def test_lines_are_named_and_may_have_gaps() -> None:
    figure = plot_lines({"score": [1.0, 0.5], "J": [0.9, math.nan]}, "one object", "frame", mark=0.5)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["score", "J"]
    assert axes.get_xlabel() == "frame" and len(axes.lines) == 3 and math.isnan(axes.lines[1].get_ydata()[1])
