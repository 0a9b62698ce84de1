"""The main job: a recipe comes in, a folder with an adapter, measurements before and after and a report comes out.

Everything is checked before anything is computed, every part is written when it is done, and a job that was stopped
goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sam3.checkpoint import load_sam3
from sam3.files import write_text
from sam3.model import Sam3
from workbench.adapter_files import read_manifest
from workbench.adapters import Adapter, add_adapter, fingerprint
from workbench.calibrate import Calibration
from workbench.compare import Comparison, compare
from workbench.costs import check, estimate
from workbench.domains.rendered import rendered_set
from workbench.evaluate import Evaluation, evaluate
from workbench.examples import Example, ExampleSet
from workbench.finetune import FinetuneResult, finetune
from workbench.guard import Retention, measure_retention, replay_set, retention_set
from workbench.negatives import MinedNegatives, mine, with_negatives
from workbench.processes import Processes
from workbench.recipe import PictureSource, Recipe, RenderedPictures, load_recipe, settings
from workbench.report import write_report
from workbench.report_panels import CalibrationPanel, RetentionPanel, RetentionRow
from workbench.run_events import RunEvent, Stopped, Watcher, unwatched
from workbench.run_folder import check_writable, claim, what_is_kept

_FORMAT = "workbench-run-1"


@dataclass(frozen=True)
class RunResult:
    """What came out of a recipe: measurements before and after, and what the model forgot."""

    comparison: Comparison
    retention: Retention | None


@dataclass(frozen=True)
class Pictures:
    """What is learnt from and what is measured on."""

    learn: ExampleSet
    test: ExampleSet


def run_recipe(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    resume: bool = True,
    device: torch.device | str | None = None,
    before: Evaluation | None = None,
    on_event: Watcher = unwatched,
) -> RunResult:
    """Adapts a model as the recipe says and measures it before and after on the same pictures.

    Started by `torchrun`, the processes share the training; the first one measures and writes.

    Args:
        recipe: or the path of its file.
        out: folder for the results: `adapter/` (for `load_adapter`), `adapter_best/`, `before.json`, `after.json`,
            `comparison.json`, `retention.json` (what was forgotten), `negatives.json` (mined phrases), `report.html`,
            `figures/`, `log.jsonl`, `recipe.yaml` (with every setting), and `run.json` and `state.pt`, from which an
            interrupted job goes on.
        progress: show bars.
        resume: go on with what the folder holds, of which nothing is made again; False deletes the results first.
        device: the CUDA device when left out and there is one, else the CPU.
        before: what the same model answers to the same pictures, when that is known from another job.
        on_event: is told what the job is doing, with every picture that is measured and every step; may raise
            `Stopped`.

    Returns:
        Before against after, as in `comparison.json`, and what was forgotten, None when the guard is off.

    Raises:
        ValueError: the recipe, the labels, the weights, the memory and the folder do not fit together; nothing was
            computed then.
        FloatingPointError: the training diverged.
        OSError: a file cannot be written.
        KeyboardInterrupt, Stopped: as always. A note on all but the first says what is kept.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out, processes = Path(out), Processes.found()
    check_writable(out)
    job = _load(recipe, out, progress and processes.is_first, device, on_event)
    if processes.is_first:
        claim(out, recipe, _identity(recipe, job.model, job.pictures), resume)
    processes.wait()
    try:
        if not (out / "after.json").is_file():
            if processes.is_first:
                (out / "report.html").unlink(missing_ok=True)
                job.measure_before(before)
            job.train_and_measure(processes)
        if processes.is_first and not (out / "report.html").is_file():
            job.write_report()
        processes.wait()
        return RunResult(compare(*job.evaluations), job.retention)
    except (KeyboardInterrupt, Stopped, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error.add_note(f"The disk of {out} is full: make room and run the same again.")
        error.add_note(what_is_kept(out))
        raise


def open_job(out: str | Path, *, progress: bool = True, device: torch.device | str | None = None) -> Job:
    """A finished job from its folder, with pictures and model loaded as they were before the adaptation.

    Raises:
        ValueError: the folder holds no finished job, or its pictures or weights are no longer the same.
    """
    out = Path(out)
    if not (out / "run.json").exists() or not (out / "after.json").exists():
        raise ValueError(f"{out} holds no finished job; expected a folder that `workbench adapt` has filled")
    recipe = load_recipe(out / "recipe.yaml")
    job = _load(recipe, out, progress, device)
    claim(out, recipe, _identity(recipe, job.model, job.pictures), resume=True)
    return job


def _load(
    recipe: Recipe, out: Path, progress: bool, device: torch.device | str | None, on_event: Watcher = unwatched
) -> Job:
    on_event(RunEvent("reading pictures"))
    pictures = read_pictures(recipe, progress)
    on_event(RunEvent("loading the model"))
    model = load_sam3(recipe.model, device=device or Processes.found().device)
    _check_phrases(model, (*pictures.learn.phrases, *pictures.test.phrases))
    return Job(recipe, model, pictures, out, progress, on_event)


@dataclass(frozen=True)
class Job:
    """A recipe with everything it names loaded, and the folder it fills; each step reads and writes files there."""

    recipe: Recipe
    model: Sam3
    pictures: Pictures
    out: Path
    progress: bool
    on_event: Watcher = unwatched

    @property
    def model_name(self) -> str:
        return self.recipe.model if not Path(self.recipe.model).exists() else Path(self.recipe.model).name

    @property
    def evaluations(self) -> tuple[Evaluation, Evaluation]:
        """Before and after, as written."""
        return Evaluation.load(self.out / "before.json"), Evaluation.load(self.out / "after.json")

    @property
    def retention(self) -> Retention | None:
        """What was forgotten, as written; None when the guard was off."""
        path = self.out / "retention.json"
        return Retention.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    @property
    def calibration(self) -> Calibration | None:
        """The working thresholds that `workbench calibrate` found; None when it was not run."""
        path = self.out / "calibration.json"
        return Calibration.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def evaluate(self, examples: ExampleSet, model_name: str, phase: str = "measuring") -> Evaluation:
        """The model as it is now."""
        return evaluate(
            self.model,
            examples,
            score_threshold=self.recipe.score_threshold,
            model_name=model_name,
            progress=self.progress,
            on_picture=self._tell(phase),
        )

    def _tell(self, phase: str) -> Callable[[], None]:
        """Tells the watcher of the phase, and gives what tells it again with each picture."""
        event = RunEvent(phase)
        self.on_event(event)
        return lambda: self.on_event(event)

    def measure_before(self, known: Evaluation | None = None) -> None:
        """Writes `before.json` unless it is there."""
        if not (self.out / "before.json").is_file():
            before = known or self.evaluate(self.pictures.test, self.model_name, "measuring before")
            before.save(self.out / "before.json")

    def train_and_measure(self, processes: Processes) -> None:
        """Adapts the model, and writes the adapter, `retention.json` and last `after.json`."""
        learn, guard = self.pictures.learn, self.recipe.guard
        adapter, result = self.train(self.with_negatives(learn, processes), self.out)
        if not processes.is_first:
            return
        after = self.evaluate(self.pictures.test, f"{self.model_name} + {self.recipe.name}", "measuring after")
        if guard.scenes:
            on_picture = self._tell("measuring what was forgotten")
            scenes = retention_set(guard.scenes)
            found = measure_retention(adapter, scenes, guard, progress=self.progress, on_picture=on_picture)
            write_text(self.out / "retention.json", json.dumps(found.to_dict(), indent=1))
        adapter.facts.update(
            recipe=self.recipe.name,
            model=self.model_name,
            pictures=[example.image_id for example in learn],
            trainable=adapter.num_trainable,
            steps=result.steps,
            best_step=result.best_step,
            seconds=round(result.seconds, 1),
            device=str(self.model.device),
        )
        adapter.save(self.out / "adapter")
        after.save(self.out / "after.json")

    def train(self, learn: ExampleSet, out: Path) -> tuple[Adapter, FinetuneResult]:
        """Adapts the model to these pictures.

        Raises:
            ValueError: the run would need more memory than there is.
        """
        recipe, held_out = self.recipe, None
        on_scene = self._tell("preparing the training")
        replay = replay_set(recipe.guard.replay, recipe.plan)
        if recipe.hold_out:
            learn, held_out = learn.few_shot(len(learn) - recipe.hold_out, recipe.seed)
        if not (out / "state.pt").exists():
            cost = estimate(self.model, recipe.plan, learn, recipe.train, replay.examples)
            check(cost, recipe.train)
            if self.progress:
                tqdm.write(f"expected: {cost}", file=sys.stderr)
        torch.manual_seed(recipe.seed)
        present = [concept.phrase for _, concept in learn.pairs() if concept.status == "positive"]
        adapter = add_adapter(self.model, recipe.plan, tuple(dict.fromkeys(present)))
        return adapter, finetune(
            self.model,
            adapter,
            learn,
            out,
            recipe.train,
            held_out=held_out,
            replay=replay,
            progress=self.progress,
            on_scene=on_scene,
            on_step=lambda line: self.on_event(RunEvent("adapting", line)),
        )

    def with_negatives(self, learn: ExampleSet, processes: Processes) -> ExampleSet:
        """The pictures with the phrases to refuse that teach most; the first process asks the model for them."""
        path, mined, config = self.out / "negatives.json", None, self.recipe.negatives
        if config.mine:
            if processes.is_first and not path.exists():
                on_picture = self._tell("looking for phrases to refuse")
                found = mine(self.model, learn, config.phrases, progress=self.progress, on_picture=on_picture)
                write_text(path, json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
            processes.wait()
            mined = MinedNegatives.from_dict(json.loads(path.read_text(encoding="utf-8")))
        return with_negatives(learn, mined, config.per_image)

    def write_report(self) -> None:
        """Writes `report.html`, `comparison.json` and `figures` from what the folder holds."""
        self.on_event(RunEvent("writing the report"))
        (before, after), kept, calibration = self.evaluations, self.retention, self.calibration
        write_report(
            self.out,
            before=before,
            after=after,
            comparison=compare(before, after),
            examples=self.pictures.test,
            log=self.out / "log.jsonl",
            facts=_facts(self.recipe, self.out),
            learned_ids=[example.image_id for example in self.pictures.learn],
            calibration=None if calibration is None else CalibrationPanel.of(calibration, after.records),
            retention=None if kept is None else _panel(kept),
            png_dir=self.out / "figures",
        )


def _panel(kept: Retention) -> RetentionPanel:
    """The guard's verdict as the report shows it."""
    rows = (
        RetentionRow("general phrases: cgF1", kept.cgf1_before, kept.cgf1_after, kept.max_cgf1_loss),
        RetentionRow("refusal of absent phrases", kept.refusal_before, kept.refusal_after, kept.max_refusal_loss),
    )
    return RetentionPanel(f"{kept.data}, {kept.pairs} questions", rows)


def _facts(recipe: Recipe, out: Path) -> dict[str, str]:
    """What the report lists as settings."""
    manifest, plan = read_manifest(out / "adapter"), recipe.plan
    known = manifest.facts
    seconds = f"{known['seconds']:.0f} s on {known['device']}"
    return {
        "recipe": recipe.name,
        "checkpoint": recipe.model,
        "adapter": str(out / "adapter"),
        "learnt from": f"{len(known['pictures'])} pictures, seed {recipe.seed}: {', '.join(known['pictures'])}",
        "phrases": ", ".join(manifest.phrases),
        "absent phrases": ", ".join(recipe.absent_phrases) or "those of other pictures only",
        "plan": f"{plan.name}: {plan.kind.summary}; {known['trainable']:,} numbers trained",
        "training": f"{known['steps']} steps at rate {recipe.train.rate or plan.kind.rate:g}, {seconds}",
    }


# ------------------------------------------------------------------------------------------------------------ pictures
def read_pictures(recipe: Recipe, progress: bool) -> Pictures:
    """The chosen pictures to learn from and those to measure on, all of them readable, none in both."""
    learn, test = (_read_set(recipe, key, source) for key, source in (("learn", recipe.learn), ("test", recipe.test)))
    try:
        learn, _ = learn.few_shot(recipe.shots, recipe.seed)
    except ValueError as error:
        raise ValueError(f"{recipe.learn}, shots: {error}") from error
    if not any(concept.status == "positive" for _, concept in test.pairs()):
        raise ValueError(
            f"{recipe.test}: no object of any phrase is labelled in its {len(test)} pictures; expected at "
            "least one, or nothing can be measured"
        )
    bar = tqdm([*learn, *test], desc="reading pictures", unit="picture", disable=not progress)
    digests = [_picture_digest(example) for example in bar]
    names = [example.image_id for example in learn]
    learnt = dict(zip(digests[: len(learn)], names, strict=True))
    for example, digest in zip(test, digests[len(learn) :], strict=True):
        if digest in learnt:
            raise ValueError(
                f"the picture {example.image_id!r} of {recipe.test} is also learnt from (there it is "
                f"{learnt[digest]!r}), so the result would flatter; expected other pictures to measure on. Remove it "
                "from one of the two files"
            )
        if example.image_id in names:
            raise ValueError(
                f"{example.image_id!r} names one picture of {recipe.learn} and another one of "
                f"{recipe.test}; expected different names. Rename one, or give its entry under `images` an "
                "`image_id` of its own"
            )
    return Pictures(learn, test)


def _read_set(recipe: Recipe, key: str, source: PictureSource) -> ExampleSet:
    try:
        if isinstance(source, RenderedPictures):
            examples = rendered_set(source.rendered, source.pictures, source.seed, phrases=recipe.phrases)
        else:
            examples = ExampleSet.from_coco(
                source.annotations, source.images, phrases=recipe.phrases, exhaustive=recipe.exhaustive
            )
        return examples.with_absent(recipe.absent_phrases)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _picture_digest(example: Example) -> str:
    """Of the file's bytes; reading the pixels as well finds a broken picture before the work starts."""
    pixels = example.load_image()
    content = example.image.read_bytes() if isinstance(example.image, Path) else pixels.tobytes()
    return hashlib.sha256(content).hexdigest()


def _check_phrases(model: Sam3, phrases: Iterable[str]) -> None:
    with torch.inference_mode():
        for phrase in dict.fromkeys(phrases):
            model.encode_text([phrase])


def _identity(recipe: Recipe, model: Sam3, pictures: Pictures) -> dict[str, Any]:
    """What must be equal for finished parts to be used again. Where files lie does not matter, what is in them does."""
    content = settings(recipe)
    for key in ("model", "learn", "test"):
        del content[key]
    return {
        "format": _FORMAT,
        "recipe": content,
        "weights": fingerprint(model),
        "pictures to learn from": _set_digest(pictures.learn),
        "pictures to measure on": _set_digest(pictures.test),
    }


def _set_digest(examples: ExampleSet) -> str:
    """Of pictures and labels."""
    names = "".join(f"{example.image_id} {example.digest()} " for example in examples)
    return hashlib.sha256(names.encode()).hexdigest()[:16]
