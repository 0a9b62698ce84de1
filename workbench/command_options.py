"""Arguments and options that several commands share, and the loading of what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sam3.model import Sam3
    from workbench.adapters import Adapter

RecipeFile = Annotated[Path, typer.Argument(help="YAML file with the settings.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; can be repeated.")
]
Model = Annotated[str, typer.Option(help="'tiny', a weight file, a transformers folder, or a hub name.")]
AdapterFolder = Annotated[Path | None, typer.Option(help="The folder `adapter` that `workbench adapt` wrote.")]
Device = Annotated[str | None, typer.Option(help="For instance cpu or cuda; the first CUDA device if there is one.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16; int8 on a CPU: quicker, less exact.")]
Threshold = Annotated[float, typer.Option(help="Objects with at least this score count as found, 0 to 1.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")]


def load_model(
    model: str, adapter: Path | None, device: str | None, precision: str = "fp32"
) -> tuple[Sam3, Adapter | None]:
    """The model, and the adapter in it if one was named."""
    import torch

    from sam3.checkpoint import load_sam3
    from sam3.speed import as_precision, set_precision
    from workbench.adapters import load_adapter

    numbers = as_precision(precision)
    usual = "cuda" if torch.cuda.is_available() and numbers != "int8" else "cpu"
    loaded = load_sam3(model, device=device or usual)
    its_adapter = None if adapter is None else load_adapter(loaded, adapter)
    return set_precision(loaded, numbers), its_adapter


def name_of(model: str, adapter: Path | None, precision: str) -> str:
    """What reports and labels call a model."""
    with_adapter = f"{model} + {adapter}" if adapter else model
    return with_adapter if precision == "fp32" else f"{with_adapter} in {precision}"
