"""The commands that look closer at a recipe: `workbench plans`, `sweep` and `calibrate`; `__main__.py` adds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.command_options import Debug, Device, RecipeFile, Settings

if TYPE_CHECKING:
    from workbench.calibrate import PhraseCalibration, Share

_SHOWN = ("cgF1", "pmF1", "IL_MCC", "IL_FPR")


def plans(
    recipe: RecipeFile,
    set_: Settings = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Compare the plans: numbers trained, time and memory, from a few trial steps each.

    \b
    Example:
      workbench plans recipes/coins.yaml
    """
    from dataclasses import replace

    from sam3.checkpoint import load_sam3
    from workbench.adapt import read_pictures
    from workbench.adapters import PLANS
    from workbench.costs import estimate
    from workbench.guard import replay_set
    from workbench.processes import Processes
    from workbench.recipe import load_recipe

    settings = load_recipe(recipe, set_ or ())
    learn = read_pictures(settings, progress=False).learn
    model = load_sam3(settings.model, device=device or Processes().device)
    train = settings.train
    typer.echo(f"{settings.model}, {len(learn)} pictures, {train.steps} steps of {train.images} pictures\n")
    typer.echo(f"{'plan':<10}{'trained':>12}{'s/step':>9}{'minutes':>9}{'GB':>7}   what it trains")
    for name, kind in PLANS.items():
        plan = replace(settings.plan, name=name)  # type: ignore[arg-type]
        cost = estimate(model, plan, learn, train, replay_set(settings.guard.replay, plan).examples)
        typer.echo(
            f"{name:<10}{cost.trainable:>12,}{cost.seconds_per_step:>9.2f}{cost.seconds / 60:>9.1f}"
            f"{cost.peak_bytes / 1e9:>7.1f}   {kind.summary}{'' if cost.fits else ' (does not fit here)'}"
        )


def sweep(
    recipe: RecipeFile,
    vary: Annotated[str, typer.Option(metavar="KEY=V1,V2,...", help="The setting and its values.")],
    out: Annotated[Path, typer.Option(help="Folder for all runs, sweep.json and sweep.png.")],
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Of the choice of pictures and the training.")] = "0,1,2",
    set_: Settings = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Run a recipe with several values of one setting and several seeds.

    What is one more picture worth, one more phrase to refuse, another plan? Every run is a whole job with its own
    report; a sweep that was stopped goes on where it stopped.

    \b
    Examples:
      workbench sweep recipes/coins.yaml --vary shots=1,2,5,10 --out runs/shots
      workbench sweep recipes/coins.yaml --vary negatives.per_image=0,2,8 --out runs/negatives
      workbench sweep recipes/coins.yaml --vary plan.name=presence,tokens,decoder --out runs/plans
    """
    import yaml

    from workbench.sweep import RETENTION
    from workbench.sweep import sweep as run

    key, equals, values = vary.partition("=")
    if not equals or not seeds.replace(",", "").isdigit():
        raise ValueError(f"received --vary {vary} --seeds {seeds}; expected such as --vary shots=1,2,5 --seeds 0,1,2")
    given = [yaml.safe_load(value) for value in values.split(",")]
    numbers = [int(seed) for seed in seeds.split(",") if seed]
    found = run(recipe, key, given, out, seeds=numbers, overrides=set_ or (), device=device)
    typer.echo(f"{found.name}, {found.model}, {len(numbers)} seeds; mean and standard deviation in points\n")
    names = [*_SHOWN, *([RETENTION] if RETENTION in found.runs[0].metrics else [])]
    typer.echo(f"{key:<22}" + "".join(f"{name:>18}" for name in names))
    typer.echo(f"{'before':<22}" + "".join(f"{100 * found.before.get(name, 0.0):>13.1f}     " for name in names))
    columns = [found.points(name) for name in names]
    for row in zip(*columns, strict=True):
        cells = "".join(f"{100 * point.mean:>13.1f} ±{100 * point.spread:>3.0f}" for point in row)
        typer.echo(f"{row[0].value!s:<22}{cells}")
    typer.echo(f"\nPicture: {out / 'sweep.png'}, numbers: {out / 'sweep.json'}")


def calibrate(
    run: Annotated[Path, typer.Argument(help="Folder that `workbench adapt` has filled.")],
    folds: Annotated[int, typer.Option(min=2, help="Trainings; as many as pictures leaves one out at a time.")] = 5,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Find working thresholds for an adapted model, from the pictures it learnt from.

    The adaptation is repeated, each time without some of the pictures, which then judge. What follows from it goes
    into the adapter and is used by `predict`, `evaluate` and `label`, not for videos; the
    report gets a section about it.

    \b
    Example:
      workbench calibrate runs/coins --folds 5
    """
    from workbench.cross_validation import cross_validate

    found = cross_validate(run, folds, device=device)
    metrics = found.pooled.metrics
    typer.echo(f"{found.pooled.model}, each picture judged unseen: " + _in_points(metrics))
    typer.echo(f"on the test pictures, recorded scores:   {_in_points(found.after)}")
    typer.echo(f"on the test pictures, calibrated scores: {_in_points(found.mended)}\n")
    typer.echo(f"{'phrase':<24}{'threshold':>10}{'precision expected':>22}{'recall expected':>22}")
    for curve in (*found.calibration.phrases, found.calibration.overall):
        typer.echo(_threshold_line(curve))
    typer.echo(f"\nStored in {run / 'adapter'}; report: {run / 'report.html'}")


def _in_points(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * metrics[name]:.1f}" for name in _SHOWN)


def _threshold_line(curve: PhraseCalibration) -> str:
    def words(share: Share | None) -> str:
        return "-" if share is None else f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"

    name = curve.phrase or "all phrases"
    return f"{name:<24}{curve.threshold:>10.2f}{words(curve.precision):>22}{words(curve.recall):>22}"
