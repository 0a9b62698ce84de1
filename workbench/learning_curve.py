"""How much each further picture is worth: the same adaptation with 1, 2, 5 and 10 pictures and several seeds.

A function that adapts and measures comes in; a `LearningCurve` with every run, means and spreads goes out and is
written to one JSON file. `plots.plot_learning_curve` draws it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.evaluate import write_json

if TYPE_CHECKING:
    from workbench.evaluate import Evaluation

SHOTS = (1, 2, 5, 10)
SEEDS = (0, 1, 2)
_FORMAT = "workbench-learning-curve-1"


@dataclass(frozen=True)
class CurveRun:
    """One adaptation: its number of pictures, its seed, and what was measured (fractions, NaN where undefined)."""

    shots: int
    seed: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class CurvePoint:
    """One metric at one number of pictures.

    Args:
        shots: pictures learnt from.
        values: one per seed.
        mean: of the defined values; NaN when there is none.
        spread: standard deviation between seeds; 0 with one value, which says nothing about the spread.
    """

    shots: int
    values: tuple[float, ...]
    mean: float
    spread: float


@dataclass(frozen=True)
class LearningCurve:
    """All runs, fewest pictures first; made by `learning_curve`.

    Args:
        runs: one per number of pictures and seed.
        before: metrics of the model before any adaptation; None when it was not measured.
    """

    runs: tuple[CurveRun, ...]
    before: dict[str, float] | None = None

    def points(self, metric: str) -> tuple[CurvePoint, ...]:
        """Mean and spread of a metric for every number of pictures.

        Example:
            >>> runs = [CurveRun(1, seed, {"cgF1": value}) for seed, value in enumerate((0.2, 0.4))]
            >>> [point] = LearningCurve(tuple(runs)).points("cgF1")
            >>> point.shots, round(point.mean, 3), round(point.spread, 3)
            (1, 0.3, 0.141)
        """
        points = []
        for shots in sorted({run.shots for run in self.runs}):
            values = np.array([run.metrics.get(metric, math.nan) for run in self.runs if run.shots == shots])
            known = values[np.isfinite(values)]
            mean = float(known.mean()) if len(known) else math.nan
            spread = float(known.std(ddof=1)) if len(known) > 1 else 0.0
            points.append(CurvePoint(shots, tuple(values.tolist()), mean, spread))
        return tuple(points)

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all; NaN becomes null."""
        write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> LearningCurve:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a learning curve, or its content is damaged.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path} is no learning curve, expected the format {_FORMAT!r} of LearningCurve.save()")
        try:
            runs = tuple(CurveRun(r["shots"], r["seed"], _with_nan(r["metrics"])) for r in content["runs"])
            return cls(runs, None if content["before"] is None else _with_nan(content["before"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


def learning_curve(
    adapt_and_evaluate: Callable[[int, int], Evaluation],
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    before: Evaluation | None = None,
    progress: bool = True,
) -> LearningCurve:
    """Adapts and measures for every number of pictures and every seed.

    Args:
        adapt_and_evaluate: (shots, seed) -> evaluation of a model adapted to that many pictures, chosen and trained
            with that seed, always on the same unseen pictures. Nothing is kept between calls; a function that may be
            interrupted should keep its own results.
        shots: numbers of pictures.
        seeds: of choice and training; one alone shows no spread.
        before: of the model as it is, to compare with.
        progress: show a bar.

    Returns:
        The curve, fewest pictures first.

    Raises:
        ValueError: no number of pictures or no seed, one of them twice, or fewer than one picture; or a run was
            measured on other pairs than the first one, so that the runs cannot be compared.

    Example:
        >>> from workbench.evaluate import Evaluation, PairRecord
        >>> pair = PairRecord("a", "cup", "absent", 0.1, (), (), (), 0, ())
        >>> def adapt(shots, seed):
        ...     return Evaluation("tiny", "cups", 0.5, (pair,), {"cgF1": 0.1 * shots + 0.01 * seed}, 1.0)
        >>> [round(p.mean, 2) for p in learning_curve(adapt, shots=(1, 5), progress=False).points("cgF1")]
        [0.11, 0.51]
    """
    from tqdm.auto import tqdm

    for name, numbers, least in (("shots", shots, 1), ("seeds", seeds, 0)):
        if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < least:
            raise ValueError(f"{name} are {list(numbers)}; expected at least one number, none twice, from {least} on")
    jobs = [(number, seed) for number in sorted(shots) for seed in seeds]
    asked = None if before is None else _pairs(before)
    runs = []
    for number, seed in tqdm(jobs, desc="learning curve", unit="run", disable=not progress):
        evaluation = adapt_and_evaluate(number, seed)
        asked = asked or _pairs(evaluation)
        if _pairs(evaluation) != asked:
            raise ValueError(
                f"the run with {number} shots and seed {seed} was measured on {len(_pairs(evaluation))} pairs, others "
                f"on {len(asked)}, and they are not the same; expected one test set for all runs"
            )
        runs.append(CurveRun(number, seed, dict(evaluation.metrics)))
    return LearningCurve(tuple(runs), None if before is None else dict(before.metrics))


def _pairs(evaluation: Evaluation) -> set[tuple[str, str]]:
    return {(record.image_id, record.phrase) for record in evaluation.records}


def _with_nan(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}
