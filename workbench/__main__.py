"""The command line: doctor, import, plans, adapt, sweep, calibrate, predict, evaluate, compare, label, track,
compare-video, export, merge, pretrain, pretrain-tracker, app, space.

Every command reads its arguments, makes one call and says what came out. Imports that take long wait until a command
runs.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from workbench.app_commands import PASSED_ON, app_page, space
from workbench.command_options import (
    AdapterFolder,
    Debug,
    Device,
    Model,
    Precision,
    RecipeFile,
    Settings,
    Threshold,
    load_model,
    name_of,
)
from workbench.data_commands import export_labels, import_labels, label
from workbench.model_commands import merge_adapter
from workbench.pretrain_commands import pretrain, pretrain_tracker
from workbench.study_commands import calibrate, plans, sweep
from workbench.video_commands import compare_video, track

if TYPE_CHECKING:
    from sam3.prompts import Prompt
    from workbench.compare import Comparison

Command = TypeVar("Command", bound=Callable[..., None])
_MASK_METRICS = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "AP")
_BOX_METRICS = ("box_cgF1", "box_pmF1", "IL_MCC", "IL_FPR", "box_AP")

app = typer.Typer(
    help="SAM 3 on your own concepts: adapt it to a handful of labelled pictures, and see what that did.",
    epilog="Start with: workbench adapt recipes/coins.yaml --out runs/coins",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def patient_threads() -> None:
    # Threads that wait by spinning make a busy machine many times slower; this must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def readable_errors(command: Command) -> Command:
    """The command, with errors as one message on standard error and exit code 2 (130 when stopped by Ctrl-C)."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            show = warnings.showwarning
            warnings.showwarning = lambda message, kind, *place: (
                typer.echo(f"Note: {message}", err=True) if kind is UserWarning else show(message, kind, *place)
            )
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt as error:
                _complain("Stopped.", error)
                raise typer.Exit(130) from error
            except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
                message = str(error)
                if isinstance(error, RuntimeError):
                    if "out of memory" not in message:
                        raise
                    message = (
                        f"{message.splitlines()[0]} Try --set train.images=1, --set plan.name=decoder, --device cpu."
                    )
                if kwargs["debug"]:
                    raise
                _complain(f"Error: {message}", error)
                raise typer.Exit(2) from error

    return wrapped  # type: ignore[return-value]


def _complain(message: str, error: BaseException) -> None:
    for line in (message, *getattr(error, "__notes__", ())):
        typer.echo(line, err=True)


@app.command()
@readable_errors
def adapt(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Folder for adapter, measurements and report.")],
    set_: Settings = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Delete the results in the folder first.")] = False,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Adapt a model to a few labelled pictures.

    It is measured before and after on other pictures. When the job is stopped with Ctrl-C, the same command goes on
    from there. When the model has forgotten more of what it knew than the recipe allows, everything is written all the
    same and the command ends with code 3.

    \b
    Example:
      workbench adapt recipes/coins.yaml --out runs/coins --set train.steps=60
    """
    from workbench.adapt import run_recipe
    from workbench.processes import Processes
    from workbench.recipe import load_recipe

    start = time.perf_counter()
    overrides = [*(set_ or ()), *([] if seed is None else [f"seed={seed}"])]
    result = run_recipe(load_recipe(recipe, overrides), out, resume=not restart, device=device)
    if not Processes.found().is_first:
        return
    _show(result.comparison)
    typer.echo(f"{time.perf_counter() - start:.0f} s in all. Report: {out / 'report.html'}, adapter: {out / 'adapter'}")
    if result.retention is not None and result.retention.complaints:
        typer.echo("\nThe adapted model has forgotten something:", err=True)
        for complaint in result.retention.complaints:
            typer.echo(f"  {complaint}", err=True)
        typer.echo(
            "A larger train.replay_weight, fewer steps or the plan 'tokens' forget less; limits are under guard.",
            err=True,
        )
        raise typer.Exit(3)


@app.command()
@readable_errors
def doctor(
    model: Annotated[str, typer.Option(help="Weights to look for: tiny, a file, a folder or a hub name.")] = "tiny",
    out: Annotated[Path, typer.Option(help="Folder where results are going to be written.")] = Path("."),
    debug: Debug = False,
) -> None:
    """Check Python, packages, device, memory, disk and weights, and say what to do about each.

    \b
    Example:
      workbench doctor --model facebook/sam3
    """
    from workbench.doctor import examine

    findings = examine(out, model)
    for finding in findings:
        typer.echo(str(finding))
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
@readable_errors
def predict(
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    out: Annotated[Path, typer.Option(help="Folder for the overlays and predictions.json.")],
    phrase: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="What to find; can be repeated.")] = None,
    box: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Around an example, in pixels; can be repeated.")
    ] = None,
    negative_box: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Around something that is not meant.")
    ] = None,
    point: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="On an example.")] = None,
    negative_point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="On something that is not meant.")
    ] = None,
    model: Model = "tiny",
    adapter: AdapterFolder = None,
    threshold: Threshold = 0.5,
    precision: Precision = "fp32",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Find what a phrase or examples name.

    Every object in the picture that fits a phrase, or that is like the example boxes or points. Without either, the
    phrases of the adapter are asked.

    \b
    Examples:
      workbench predict photo.jpg --phrase "gold coin" --phrase key --out runs/photo
      workbench predict photo.jpg --box 20,30,90,95 --negative-box 120,30,180,90 --out runs/photo
    """
    from sam3.predictor import ImagePredictor
    from workbench.calibrated_predictor import predictor_for
    from workbench.predict import predict_picture

    exemplars: dict[str, Any] = {}
    boxes, exemplars["exemplar_labels"] = _exemplars("box", 4, box, negative_box)
    points, exemplars["exemplar_point_labels"] = _exemplars("point", 2, point, negative_point)
    exemplars |= {"exemplar_boxes_xyxy_px": boxes, "exemplar_points_xy_px": points}
    has_exemplars = bool(boxes or points)
    if has_exemplars and phrase and len(phrase) > 1:
        raise ValueError(f"{len(phrase)} phrases came with examples; expected one phrase, or none, that they belong to")
    if not has_exemplars and not phrase and adapter is None:
        raise ValueError("nothing is asked; expected --phrase, --box, --point, or an --adapter with its phrases")
    loaded, its_adapter = load_model(model, adapter, device, precision)
    phrases = phrase or (its_adapter.phrases if its_adapter and not has_exemplars else (None,))
    prompts = [_prompt(text, exemplars) for text in phrases]
    predictor = predictor_for(its_adapter, threshold) if its_adapter else ImagePredictor(loaded, threshold)
    answers = predict_picture(predictor, image, prompts, out)
    for answer in answers:
        name = answer.phrase or "like the examples"
        typer.echo(f"{name}: {len(answer)} found, presence {answer.presence_score:.2f}")
    typer.echo(f"Overlays and predictions.json are in {out}")


@app.command()
@readable_errors
def evaluate(
    annotations: Annotated[Path, typer.Option(help="COCO annotation file.")],
    images: Annotated[Path, typer.Option(help="Folder of its pictures.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    model: Model = "tiny",
    adapter: AdapterFolder = None,
    phrase: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY=PHRASE", help="What to ask for a category in place of its name; can be repeated."
        ),
    ] = None,
    absent: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A phrase that is in none of the pictures; can be repeated."),
    ] = None,
    threshold: Threshold = 0.5,
    precision: Precision = "fp32",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Measure a model on labelled pictures.

    \b
    Example:
      workbench evaluate --annotations data/coins/test.json --images data/coins/images \\
        --adapter runs/coins/adapter --out after.json
    """
    from workbench.calibrated_predictor import predictor_for
    from workbench.evaluate import evaluate as measure
    from workbench.examples import ExampleSet

    phrases: dict[str, str | None] = dict(_pair(text) for text in phrase or ())
    examples = ExampleSet.from_coco(annotations, images, phrases=phrases).with_absent(absent or ())
    loaded, its_adapter = load_model(model, adapter, device, precision)
    asked = loaded if its_adapter is None else predictor_for(its_adapter)
    name = name_of(Path(model).name, adapter, precision)
    evaluation = measure(asked, examples, score_threshold=threshold, model_name=name)
    evaluation.save(out)
    typer.echo(f"{name} on {evaluation.data}, {len(evaluation.records)} questions, {evaluation.seconds:.1f} s:")
    for metric, value in evaluation.metrics.items():
        typer.echo(f"  {metric:12} {100 * value:6.1f}")
    for note in evaluation.notes:
        typer.echo(note)
    typer.echo(f"Written to {out}")


@app.command()
@readable_errors
def compare(
    before: Annotated[Path, typer.Argument(help="Measurement written by adapt or evaluate.")],
    after: Annotated[Path, typer.Argument(help="Another one, of the same pictures and phrases.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    debug: Debug = False,
) -> None:
    """Compare two measurements.

    Every metric with the interval of its change, and every question, those first that are answered worse.

    \b
    Example:
      workbench compare before.json after.json --out comparison.json
    """
    from workbench.compare import compare as set_side_by_side
    from workbench.evaluate import Evaluation

    comparison = set_side_by_side(Evaluation.load(before), Evaluation.load(after))
    comparison.save(out)
    _show(comparison)
    typer.echo(f"Written to {out}")


for command in (plans, sweep, calibrate, track, label, pretrain, pretrain_tracker, space):
    app.command()(readable_errors(command))
app.command("import")(readable_errors(import_labels))
app.command("export")(readable_errors(export_labels))
app.command("merge")(readable_errors(merge_adapter))
app.command("app", context_settings=PASSED_ON)(readable_errors(app_page))
app.command("compare-video")(readable_errors(compare_video))


def _prompt(phrase: str | None, exemplars: dict[str, Any]) -> Prompt:
    from sam3.prompts import Prompt

    return Prompt(phrase, **exemplars)


def _exemplars(
    name: str, count: int, positive: list[str] | None, negative: list[str] | None
) -> tuple[list[list[float]], list[int]]:
    """Coordinates and labels of boxes or points given as texts."""
    found = []
    for prefix, texts in (("", positive), ("negative-", negative)):
        for text in texts or ():
            try:
                numbers = [float(number) for number in text.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != count:
                expected = "x0,y0,x1,y1" if count == 4 else "x,y"
                raise ValueError(f"--{prefix}{name} received {text!r}; expected {expected} in pixels")
            found.append(numbers)
    return found, [1] * len(positive or ()) + [0] * len(negative or ())


def _pair(text: str) -> tuple[str, str]:
    category, equals, phrase = text.partition("=")
    if not equals or not phrase.strip():
        raise ValueError(f"--phrase received {text!r}; expected CATEGORY=PHRASE, for instance coin='gold coin'")
    return category, phrase


def _show(comparison: Comparison) -> None:
    """A short table for people, in points."""
    import math

    from rich.console import Console
    from rich.table import Table

    from workbench.show import change_in_words

    metrics = _MASK_METRICS if math.isfinite(comparison.metrics["cgF1"].delta) else _BOX_METRICS
    models = f"{comparison.before['model']} against {comparison.after['model']}"
    typer.echo(f"{models}: {comparison.num_images} pictures, {len(comparison.pairs)} questions")
    table = Table()
    for column in ("metric", "before", "after", "change [95 % interval]"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name in metrics:
        delta = comparison.metrics[name]
        label = f"{name} (lower is better)" if name == "IL_FPR" else name
        table.add_row(label, f"{100 * delta.before:.1f}", f"{100 * delta.after:.1f}", change_in_words(delta))
    Console().print(table, highlight=False)
    worse = f"{len(comparison.regressions)} of {len(comparison.pairs)} questions are answered worse than before."
    seconds = f"{comparison.before['seconds']:.1f} s and {comparison.after['seconds']:.1f} s in the model."
    typer.echo(f"{worse} {seconds} {comparison.note}".strip())


if __name__ == "__main__":
    app(prog_name="workbench")
