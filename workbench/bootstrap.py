"""How sure is a change? Paired bootstrap over pictures or clips, for any metrics that can be computed from weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

MIN_GROUPS_FOR_INTERVAL = 3
FEW_GROUPS = 20
_MIN_DEFINED = 0.95  # share of the draws
_CHUNK_CELLS = 2_000_000  # cells of a (resamples, rows) array held at once

Values = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights (R, P) -> name -> (R,)


@dataclass(frozen=True)
class Delta:
    """One metric before and after.

    Args:
        before, after, delta: fractions; delta = after - before. NaN where undefined.
        ci95: 95 % interval of delta from resampled images; None when it cannot be told.
    """

    before: float
    after: float
    delta: float
    ci95: tuple[float, float] | None

    @property
    def is_certain(self) -> bool:
        """True when the interval leaves out 0, so that the sign of the change does not hang on the choice of images."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Plain values for JSON; NaN becomes None."""
        numbers = {name: getattr(self, name) for name in ("before", "after", "delta")}
        plain = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**plain, "ci95": None if self.ci95 is None else list(self.ci95)}


def paired_deltas(
    before: Values, after: Values, group_of_row: np.ndarray, *, num_resamples: int = 2000, seed: int = 0
) -> dict[str, Delta]:
    """The change of every metric with its interval.

    All rows of a group (an image, a clip) are drawn together, and both sides see the same draw, so the difficulty of
    the groups cancels out of the change. Few groups get wider intervals, see `interval_percentiles`.

    Args:
        before, after: how often each of P rows counts, (R, P), -> name -> (R,) values; the same names.
        group_of_row: (P,) number of the group of each row, from 0.
        num_resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        Name -> Delta; the interval is None for fewer than `MIN_GROUPS_FOR_INTERVAL` groups, and where more than one
        draw in twenty has no value: then too few groups tell anything.

    Raises:
        ValueError: `num_resamples` is below 1.

    Example:
        >>> def mean_of(rows):
        ...     return lambda weights: {"mean": weights @ np.array(rows) / weights.sum(axis=1)}
        >>> change = paired_deltas(mean_of([1.0, 2.0, 3.0]), mean_of([2.0, 3.0, 4.0]), np.arange(3))["mean"]
        >>> change.delta, change.is_certain
        (1.0, True)
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}, expected at least 1 (2000 gives steady intervals)")
    num_groups, num_rows = int(group_of_row.max()) + 1, len(group_of_row)
    once = np.ones((1, num_rows))
    olds, news = before(once), after(once)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(olds)
    if num_groups >= MIN_GROUPS_FOR_INTERVAL:
        draws = np.random.default_rng(seed).multinomial(num_groups, [1 / num_groups] * num_groups, size=num_resamples)
        changes: dict[str, list[np.ndarray]] = {name: [] for name in olds}
        for some_draws in np.array_split(draws, math.ceil(num_resamples * num_rows / _CHUNK_CELLS)):
            weights = some_draws[:, group_of_row].astype(np.float64)
            some_olds, some_news = before(weights), after(weights)
            for name in olds:
                changes[name].append(some_news[name] - some_olds[name])
        intervals = {name: _interval(np.concatenate(values), num_groups) for name, values in changes.items()}
    return {
        name: Delta(
            before=float(olds[name][0]),
            after=float(news[name][0]),
            delta=float(news[name][0] - olds[name][0]),
            ci95=intervals[name],
        )
        for name in olds
    }


def _interval(changes: np.ndarray, num_groups: int) -> tuple[float, float] | None:
    """Middle part of the changes; draws in which the metric is undefined are left out, unless there are many."""
    defined = changes[np.isfinite(changes)]
    if len(defined) < _MIN_DEFINED * len(changes):
        return None
    low, high = np.percentile(defined, interval_percentiles(num_groups))
    return float(low), float(high)


def interval_percentiles(num_groups: int) -> tuple[float, float]:
    """The percentiles of resampled changes that make a 95 % interval: 2.5 and 97.5 for many groups, wider for few.

    Resampling n groups spreads the changes too little by sqrt((n - 1) / n), and takes the normal distribution where the
    spread is estimated from the same n groups; both are made up for as with a mean (expanded percentiles).

    Args:
        num_groups: n, at least 2.

    Example:
        >>> [[round(value, 1) for value in interval_percentiles(number)] for number in (5, 40, 4000)]
        [[0.1, 99.9], [2.0, 98.0], [2.5, 97.5]]
    """
    distance = math.sqrt(num_groups / (num_groups - 1)) * stdtrit(num_groups - 1, 0.975)
    return float(100 * ndtr(-distance)), float(100 * ndtr(distance))
