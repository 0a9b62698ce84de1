"""The main job: a recipe comes in, a folder with an adapter, measurements before and after and a report comes out.

Everything is checked before anything is computed, every part is written when it is done, and a job that was stopped
goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
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
from workbench.compare import Comparison, compare
from workbench.evaluate import Evaluation, evaluate
from workbench.examples import Example, ExampleSet
from workbench.finetune import FinetuneResult, finetune
from workbench.guard import Retention, measure_retention, replay_set, retention_set
from workbench.negatives import MinedNegatives, mine, with_negatives
from workbench.recipe import LabelledPictures, Recipe, load_recipe, save_recipe, settings
from workbench.report import write_report
from workbench.report_panels import RetentionPanel, RetentionRow

OUTPUTS = (
    "run.json",
    "recipe.yaml",
    "before.json",
    "after.json",
    "comparison.json",
    "negatives.json",
    "retention.json",
    "report.html",
    "figures",
    "log.jsonl",
    "state.pt",
    "adapter",
    "adapter_best",
)
_FORMAT = "workbench-run-1"


def run_recipe(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    resume: bool = True,
    device: torch.device | str | None = None,
) -> RunResult:
    """Adapts a model as the recipe says and measures it before and after on the same pictures.

    Args:
        recipe: or the path of its file.
        out: folder for the results: `adapter/` (for `load_adapter`), `adapter_best/`, `before.json`, `after.json`,
            `comparison.json`, `retention.json` (what was forgotten), `negatives.json` (mined phrases), `report.html`,
            `figures/`, `log.jsonl`, `recipe.yaml` (with every setting), and `run.json` and `state.pt`, from which an
            interrupted job goes on.
        progress: show bars.
        resume: go on with what the folder holds; False deletes the results in it first.
        device: the CUDA device when left out and there is one, else the CPU.

    Returns:
        Before against after, as in `comparison.json`, and what was forgotten, None when the guard is off.

    Raises:
        ValueError: the recipe, the labels, the weights and the folder do not fit together; nothing was computed then.
        FloatingPointError: the training diverged.
        OSError: a file cannot be written.
        KeyboardInterrupt: as always. A note on the last three says what is kept.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out = Path(out)
    _check_writable(out)
    pictures = read_pictures(recipe, progress)
    model = load_sam3(recipe.model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _check_phrases(model, (*pictures.learn.phrases, *pictures.test.phrases))
    _claim(out, recipe, _identity(recipe, model, pictures), resume)
    try:
        return _adapt_and_measure(recipe, model, pictures, out, progress)
    except (KeyboardInterrupt, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error.add_note(f"The disk of {out} is full: make room and run the same again.")
        error.add_note(what_is_kept(out))
        raise


def what_is_kept(out: str | Path) -> str:
    """One sentence on what a stopped job left in its folder and how to go on."""
    out = Path(out)
    found = [name for name in OUTPUTS if (out / name).exists() and name not in ("run.json", "recipe.yaml", "state.pt")]
    if not found:
        return f"Nothing was finished yet in {out}; the same command starts again."
    log, steps = out / "log.jsonl", ""
    if log.exists():
        steps = f" (training up to step {len(log.read_text(encoding='utf-8').splitlines())})"
    return f"{out} keeps {', '.join(found)}{steps}; the same command goes on from there."


@dataclass(frozen=True)
class RunResult:
    """What came out of a recipe: measurements before and after, and what the model forgot."""

    comparison: Comparison
    retention: Retention | None


@dataclass(frozen=True)
class _Pictures:
    """What is learnt from and what is measured on."""

    learn: ExampleSet
    test: ExampleSet


def _adapt_and_measure(recipe: Recipe, model: Sam3, pictures: _Pictures, out: Path, progress: bool) -> RunResult:
    learn, test = pictures.learn, pictures.test
    name = recipe.model if not Path(recipe.model).exists() else Path(recipe.model).name

    def measure(model_name: str) -> Evaluation:
        return evaluate(model, test, score_threshold=recipe.score_threshold, model_name=model_name, progress=progress)

    if not (out / "before.json").is_file():
        measure(name).save(out / "before.json")
    before = Evaluation.load(out / "before.json")
    if not (out / "after.json").is_file():
        adapter, result = _train(recipe, model, learn, out, progress)
        after = measure(f"{name} + {recipe.name}")
        if recipe.guard.scenes:
            found = measure_retention(adapter, retention_set(recipe.guard.scenes), recipe.guard, progress=progress)
            write_text(out / "retention.json", json.dumps(found.to_dict(), indent=1))
        adapter.facts.update(
            recipe=recipe.name,
            model=name,
            pictures=[example.image_id for example in learn],
            trainable=adapter.num_trainable,
            steps=result.steps,
            best_step=result.best_step,
            seconds=round(result.seconds, 1),
            device=str(model.device),
        )
        adapter.save(out / "adapter")
        after.save(out / "after.json")
    after = Evaluation.load(out / "after.json")
    comparison, kept = compare(before, after), _read_retention(out)
    write_report(
        out,
        before=before,
        after=after,
        comparison=comparison,
        examples=test,
        log=out / "log.jsonl",
        facts=_facts(recipe, out),
        learned_ids=[example.image_id for example in learn],
        retention=None if kept is None else _panel(kept),
        png_dir=out / "figures",
    )
    return RunResult(comparison, kept)


def _train(recipe: Recipe, model: Sam3, learn: ExampleSet, out: Path, progress: bool) -> tuple[Adapter, FinetuneResult]:
    """Chooses negatives and what is replayed with the model as it is, then adapts it."""
    learn = _with_negatives(recipe, model, learn, out, progress)
    replay, held_out = None, None
    # Learnt words change nothing but their own phrases: there is nothing to replay.
    if recipe.guard.replay and recipe.plan.name != "tokens":
        replay = replay_set(model, recipe.guard.replay, progress=progress)
    if recipe.hold_out:
        learn, held_out = learn.few_shot(len(learn) - recipe.hold_out, recipe.seed)
    torch.manual_seed(recipe.seed)
    present = [concept.phrase for _, concept in learn.pairs() if concept.status == "positive"]
    adapter = add_adapter(model, recipe.plan, tuple(dict.fromkeys(present)))
    result = finetune(model, adapter, learn, out, recipe.train, held_out=held_out, replay=replay, progress=progress)
    return adapter, result


def _with_negatives(recipe: Recipe, model: Sam3, learn: ExampleSet, out: Path, progress: bool) -> ExampleSet:
    path, mined = out / "negatives.json", None
    if recipe.negatives.mine:
        if not path.exists():
            mined = mine(model, learn, recipe.negatives.phrases, progress=progress)
            write_text(path, json.dumps(mined.to_dict(), indent=1, ensure_ascii=False))
        mined = MinedNegatives.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return with_negatives(learn, mined, recipe.negatives.per_image)


def _read_retention(out: Path) -> Retention | None:
    path = out / "retention.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["complaints"]
    return Retention(**content)


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


# -------------------------------------------------------------------------------------------------------------- checks
def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"the folder {out} cannot be written ({error.strerror}); choose another one") from error


def read_pictures(recipe: Recipe, progress: bool) -> _Pictures:
    """The chosen pictures to learn from and those to measure on, all of them readable, none in both."""
    learn, test = (
        _read_set(recipe, key, labelled) for key, labelled in (("learn", recipe.learn), ("test", recipe.test))
    )
    try:
        learn, _ = learn.few_shot(recipe.shots, recipe.seed)
    except ValueError as error:
        raise ValueError(f"{recipe.learn.annotations}, shots: {error}") from error
    if not any(concept.status == "positive" for _, concept in test.pairs()):
        raise ValueError(
            f"{recipe.test.annotations}: no object of any phrase is labelled in its {len(test)} pictures; expected at "
            "least one, or nothing can be measured"
        )
    bar = tqdm([*learn, *test], desc="reading pictures", unit="picture", disable=not progress)
    digests = [_picture_digest(example) for example in bar]
    names = [example.image_id for example in learn]
    learnt = dict(zip(digests[: len(learn)], names, strict=True))
    for example, digest in zip(test, digests[len(learn) :], strict=True):
        if digest in learnt:
            raise ValueError(
                f"the picture {example.image_id!r} of {recipe.test.annotations} is also learnt from (there it is "
                f"{learnt[digest]!r}), so the result would flatter; expected other pictures to measure on. Remove it "
                "from one of the two files"
            )
        if example.image_id in names:
            raise ValueError(
                f"{example.image_id!r} names one picture of {recipe.learn.annotations} and another one of "
                f"{recipe.test.annotations}; expected different names. Rename one, or give its entry under `images` an "
                "`image_id` of its own"
            )
    return _Pictures(learn, test)


def _read_set(recipe: Recipe, key: str, labelled: LabelledPictures) -> ExampleSet:
    try:
        examples = ExampleSet.from_coco(
            labelled.annotations, labelled.images, phrases=recipe.phrases, exhaustive=recipe.exhaustive
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


# -------------------------------------------------------------------------------------------------------------- resume
def _identity(recipe: Recipe, model: Sam3, pictures: _Pictures) -> dict[str, Any]:
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


def _claim(out: Path, recipe: Recipe, identity: dict[str, Any], resume: bool) -> None:
    """Makes the folder the folder of this job, or refuses it."""
    path = out / "run.json"
    found = [name for name in OUTPUTS if (out / name).exists()]
    if found and not path.exists():
        raise ValueError(
            f"{out} holds {found[0]}, which no job of this workbench wrote there; choose a new folder, so that "
            "nothing is overwritten"
        )
    if found and not resume:
        for name in reversed(found):  # run.json last, so that the folder stays ours until it is empty
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    elif found:
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            differences = _differences(other, identity)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose a new folder") from error
        if differences:
            raise ValueError(
                f"{out} holds another job: {'; '.join(differences)}. Choose a new folder, or delete what it holds and "
                "start anew with resume=False (on the command line: --restart)"
            )
    write_text(path, json.dumps(identity, indent=1, ensure_ascii=False))
    if not (out / "recipe.yaml").exists():
        save_recipe(recipe, out / "recipe.yaml")


def _differences(other: dict[str, Any], identity: dict[str, Any], prefix: str = "") -> list[str]:
    differences = []
    for key in dict.fromkeys((*other, *identity)):
        there, here = other.get(key), identity.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            differences += _differences(there, here, f"{prefix}{key}.")
        elif prefix:
            differences.append(f"{prefix.removeprefix('recipe.')}{key} is {there!r} there and {here!r} here")
        else:
            differences.append(f"the {key} differ")
    return differences
