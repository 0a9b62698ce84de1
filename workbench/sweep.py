"""One recipe with one setting varied and several seeds: what another picture, negative or plan is worth.

A recipe and the values of one setting come in; every run is a whole job in a folder of its own; a `Sweep` with all
runs, means and spreads goes out and is written to one JSON file. `plots.plot_sweep` draws it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm

from workbench.adapt import RunResult, run_recipe
from workbench.evaluate import Evaluation, write_json
from workbench.recipe import Recipe, load_recipe

SEEDS = (0, 1, 2)
RETENTION = "retention_cgF1"
_FORMAT = "workbench-sweep-1"
# These change what is measured, or are varied by `seeds`.
_FIXED = ("seed", "name", "model", "test", "phrases", "absent_phrases", "exhaustive", "score_threshold")

Value = str | int | float | bool | None


@dataclass(frozen=True)
class SweepRun:
    """One adaptation: the value of the varied setting, the seed, and what was measured.

    `metrics` are those of the adapted model (fractions, NaN where undefined), with the change of cgF1 on the retention
    set under `RETENTION` when the guard was on.
    """

    value: Value
    seed: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class SweepPoint:
    """One metric at one value.

    Args:
        value: of the varied setting.
        values: one per seed.
        mean: of the defined values; NaN when there is none.
        spread: standard deviation between seeds; 0 with one value, which says nothing about the spread.
    """

    value: Value
    values: tuple[float, ...]
    mean: float
    spread: float


@dataclass(frozen=True)
class Sweep:
    """All runs, in the order of the values; made by `sweep`.

    Args:
        name: of the recipe; model: that was adapted.
        key: the setting that was varied.
        runs: one per value and seed.
        before: metrics of the model before any adaptation.
    """

    name: str
    model: str
    key: str
    runs: tuple[SweepRun, ...]
    before: dict[str, float]

    def points(self, metric: str) -> tuple[SweepPoint, ...]:
        """Mean and spread of a metric for every value.

        Example:
            >>> runs = [SweepRun(1, seed, {"cgF1": value}) for seed, value in enumerate((0.2, 0.4))]
            >>> [point] = Sweep("coins", "tiny", "shots", tuple(runs), {}).points("cgF1")
            >>> point.value, round(point.mean, 3), round(point.spread, 3)
            (1, 0.3, 0.141)
        """
        points = []
        for value in dict.fromkeys(run.value for run in self.runs):
            values = np.array([run.metrics.get(metric, math.nan) for run in self.runs if run.value == value])
            known = values[np.isfinite(values)]
            mean = float(known.mean()) if len(known) else math.nan
            spread = float(known.std(ddof=1)) if len(known) > 1 else 0.0
            points.append(SweepPoint(value, tuple(values.tolist()), mean, spread))
        return tuple(points)

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all; NaN becomes null."""
        write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a sweep, or its content is damaged.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path} is no sweep, expected the format {_FORMAT!r} of Sweep.save()")
        try:
            runs = tuple(SweepRun(r["value"], r["seed"], _with_nan(r["metrics"])) for r in content["runs"])
            before = _with_nan(content["before"])
            return cls(content["name"], content["model"], content["key"], runs, before)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


def sweep(
    recipe: str | Path,
    key: str,
    values: Sequence[Value],
    out: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    overrides: Sequence[str] = (),
    progress: bool = True,
    device: torch.device | str | None = None,
) -> Sweep:
    """Runs a recipe for every value of one setting and every seed, always measured on the same unseen pictures.

    Args:
        recipe: path of its file.
        key: what is varied, such as "shots", "negatives.per_image" or "plan.name".
        values: at least one, in the order of the plot.
        out: folder for one job per run, `sweep.json` and `sweep.png`. Jobs found there are not repeated.
        seeds: of the choice of pictures and of the training; one alone shows no spread.
        overrides: further changes to the recipe, such as "train.steps=60".
        progress: show bars.
        device: the CUDA device when left out and there is one, else the CPU.

    Raises:
        ValueError: a setting or value the recipe does not take, no value or no seed, one of them twice, or one that
            changes what is measured, so that the runs cannot be compared. Nothing was computed then.
    """
    from workbench.plots import plot_sweep

    out = Path(out)
    for name, given in (("values", values), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{name} are {list(given)}; expected at least one, and none twice")
    if key.split(".")[0] in _FIXED:
        raise ValueError(
            f"{key} cannot be varied: {', '.join(_FIXED)} must be the same in all runs, or they could not be compared"
        )
    jobs = [(value, seed, _varied(recipe, overrides, key, value, seed)) for value in values for seed in seeds]
    runs: list[SweepRun] = []
    known: Evaluation | None = None
    for value, seed, job in tqdm(jobs, desc=f"varying {key}", unit="run", disable=not progress):
        folder = out / f"{key}={value}" / f"seed{seed}"
        result = run_recipe(job, folder, progress=progress, device=device, before=known)
        known = known or Evaluation.load(folder / "before.json")
        runs.append(SweepRun(value, seed, _measured(result)))
    assert known is not None
    found = Sweep(jobs[0][2].name, known.model, key, tuple(runs), dict(known.metrics))
    found.save(out / "sweep.json")
    plot_sweep(found, save=out / "sweep.png")
    return found


def _varied(recipe: str | Path, overrides: Sequence[str], key: str, value: Value, seed: int) -> Recipe:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return load_recipe(recipe, [*overrides, f"{key}={text}", f"seed={seed}"])


def _measured(result: RunResult) -> dict[str, float]:
    metrics = {name: delta.after for name, delta in result.comparison.metrics.items()}
    kept = result.retention
    return metrics if kept is None else {**metrics, RETENTION: kept.cgf1_after - kept.cgf1_before}


def _with_nan(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}
