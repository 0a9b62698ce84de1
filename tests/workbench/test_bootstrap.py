"""Intervals of changes, for any metric that can be computed from weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from workbench import bootstrap
from workbench.bootstrap import Delta, paired_deltas


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def of(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": weights @ values / weights.sum(axis=1)}

    return of


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    chance = np.random.default_rng(0)
    before, change = chance.normal(5, 3, 40), chance.normal(0.4, 1, 40)
    delta = paired_deltas(mean_of(before), mean_of(before + change), np.arange(40), num_resamples=20_000)["mean"]
    assert delta.delta == pytest.approx(change.mean())
    reach = 2.0227 * change.std(ddof=1) / np.sqrt(40)  # Student's t with 39 degrees of freedom
    assert delta.ci95 == pytest.approx((change.mean() - reach, change.mean() + reach), abs=0.02)


def test_rows_of_a_group_are_drawn_together() -> None:
    values = np.repeat([0.0, 1.0, 5.0, 2.0], 10)
    groups = np.repeat(np.arange(4), 10)
    together = paired_deltas(mean_of(0 * values), mean_of(values), groups)["mean"]
    apart = paired_deltas(mean_of(0 * values), mean_of(values), np.arange(40))["mean"]
    assert together.ci95 is not None and apart.ci95 is not None
    assert together.ci95[1] - together.ci95[0] > 2 * (apart.ci95[1] - apart.ci95[0])


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(9.0)
    whole = paired_deltas(mean_of(0 * values), mean_of(values), np.arange(9), num_resamples=101)
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 50)
    assert paired_deltas(mean_of(0 * values), mean_of(values), np.arange(9), num_resamples=101) == whole


def test_what_cannot_be_told_has_no_interval() -> None:
    two = paired_deltas(mean_of(np.zeros(2)), mean_of(np.ones(2)), np.arange(2))["mean"]
    assert two == Delta(0.0, 1.0, 1.0, None) and not two.is_certain
    never = paired_deltas(mean_of(np.full(5, np.nan)), mean_of(np.ones(5)), np.arange(5), num_resamples=10)["mean"]
    assert never.ci95 is None and never.to_dict() == {"before": None, "after": 1.0, "delta": None, "ci95": None}
    with pytest.raises(ValueError, match="num_resamples is 0"):
        paired_deltas(mean_of(np.zeros(2)), mean_of(np.ones(2)), np.arange(2), num_resamples=0)


def test_no_interval_where_hardly_any_group_has_a_value() -> None:
    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"rare": np.where(weights[:, 7] > 0, 1.0, np.nan)}

    assert paired_deltas(values, values, np.arange(48))["rare"].ci95 is None
