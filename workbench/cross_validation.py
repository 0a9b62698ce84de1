"""What ten labelled pictures say about themselves: each is judged by a model that learnt from the others.

A finished job comes in; its adaptation is repeated once per fold. Out come measurements that need no further labels,
and working thresholds per phrase, which are stored in the job's adapter and shown in its report.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from sam3.files import write_text
from workbench.adapt import Job, open_job
from workbench.adapter_files import add_facts
from workbench.adapters import remove_adapter
from workbench.calibrate import Calibration, calibrate, calibrated
from workbench.evaluate import Evaluation, metrics_of, pool_folds
from workbench.examples import ExampleSet
from workbench.processes import Processes


@dataclass(frozen=True)
class CrossValidation:
    """What came out.

    Attributes:
        pooled: every picture that was learnt from, judged by a model that had not seen it.
        calibration: thresholds and temperatures that follow from it.
        after, mended: metrics of the adapted model on the test pictures, with recorded and with calibrated scores.
    """

    pooled: Evaluation
    calibration: Calibration
    after: dict[str, float]
    mended: dict[str, float]


def cross_validate(
    out: str | Path, folds: int = 5, *, progress: bool = True, device: torch.device | str | None = None
) -> CrossValidation:
    """Repeats the adaptation of a finished job once per fold, and calibrates its adapter.

    Each fold takes as long as the training of the job. A call that was stopped goes on where it stopped.

    Args:
        out: folder of a job that `run_recipe` has finished. `folds/`, `calibration.json` and the report are written
            there, and the calibration goes into the manifest of `adapter`.
        folds: parts the pictures are split into; as many as pictures leaves one out at a time.
        progress: show bars.
        device: the CUDA device when left out and there is one, else the CPU.

    Raises:
        ValueError: no finished job, or fewer pictures than folds.
    """
    out = Path(out)
    job = open_job(out, progress=progress, device=device)
    pooled_file = out / "folds" / f"of_{folds}.json"
    if not pooled_file.exists():
        parts = list(job.pictures.learn.k_fold(folds, job.recipe.seed))
        bar = tqdm(parts, desc="folds", unit="fold", disable=not progress)
        judged = [
            _judged(job, learn, judge, out / "folds" / f"{number}_of_{folds}")
            for number, (learn, judge) in enumerate(bar, start=1)
        ]
        pool_folds(
            judged,
            model_name=f"{job.model_name} + {job.recipe.name}, {folds} folds",
            data=job.pictures.learn.name,
        ).save(pooled_file)
    pooled = Evaluation.load(pooled_file)
    calibration, (_, after) = calibrate(pooled.records), job.evaluations
    write_text(out / "calibration.json", json.dumps(calibration.to_dict(), indent=1, ensure_ascii=False))
    add_facts(out / "adapter", calibration=calibration.to_dict())
    job.write_report()
    mended = metrics_of(calibrated(after.records, calibration), after.score_threshold)
    return CrossValidation(pooled, calibration, after.metrics, mended)


def _judged(job: Job, learn: ExampleSet, judge: ExampleSet, out: Path) -> Evaluation:
    """One fold, read from its folder when it is there."""
    if not (out / "judge.json").exists():
        adapter, _ = job.train(job.with_negatives(learn, Processes()), out)
        job.evaluate(judge, out.name).save(out / "judge.json")
        remove_adapter(adapter)
    return Evaluation.load(out / "judge.json")
