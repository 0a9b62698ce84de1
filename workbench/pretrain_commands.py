"""Commands that make the tiny model: `pretrain` the image model, `pretrain-tracker` what takes clicks and follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from workbench.command_options import Debug, Device


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is continued.")],
    dense_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the first stage.")] = None,
    full_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the second stage.")] = None,
    outline_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the third stage.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    start: Annotated[str | None, typer.Option(help="Weights to begin stage 2 with, leaving stage 1 out.")] = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train the tiny image model from nothing.

    On rendered scenes, as the one that comes with the package was trained; takes hours.

    \b
    Example:
      workbench pretrain --out runs/tiny
      workbench pretrain --start tiny --full-steps 4000 --out runs/longer
    """
    from workbench.pretrain import PretrainConfig
    from workbench.pretrain import pretrain as train

    usual = PretrainConfig()
    config = PretrainConfig(
        seed=seed,
        dense_steps=dense_steps or usual.dense_steps,
        full_steps=full_steps or usual.full_steps,
        outline_steps=outline_steps or usual.outline_steps,
    )
    typer.echo(f"Weights: {train(out, config, device=device, start=start)}")


def pretrain_tracker(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is continued.")],
    start: Annotated[str, typer.Option(help="The image model; its weights stay as they are.")] = "tiny",
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Keep the tracker that the start has; teach it the last stage further.")
    ] = False,
    clips: Annotated[int | None, typer.Option(min=1, help="Rendered clips to learn from; 2.8 MB of disk each.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of all stages together, in the usual proportion.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Teach an image model to take clicks and to follow objects.

    On rendered clips, as the tracker of the tiny model was trained; takes about
    three hours on one core. Started by torchrun, processes share the work.

    \b
    Example:
      workbench pretrain-tracker --out runs/tracker
      torchrun --nproc-per-node 2 -m workbench pretrain-tracker --out runs/tracker
      workbench pretrain-tracker --start runs/tiny/model.safetensors --steps 8000 --out runs/longer
    """
    from workbench.pretrain import TrackingConfig
    from workbench.pretrain import pretrain_tracker as train

    usual = TrackingConfig(seed=seed)
    config = replace(usual.last_stage() if go_on else usual, clips=clips or usual.clips)
    config = config if steps is None else config.shortened(steps)
    typer.echo(f"Weights: {train(out, config, start=start, go_on=go_on, device=device)}")
