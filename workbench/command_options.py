"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="YAML file with the settings.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; can be repeated.")
]
Model = Annotated[str, typer.Option(help="'tiny', a weight file, a transformers folder, or a hub name.")]
AdapterFolder = Annotated[Path | None, typer.Option(help="The folder `adapter` that `workbench adapt` wrote.")]
Device = Annotated[str | None, typer.Option(help="For instance cpu or cuda; the first CUDA device if there is one.")]
Threshold = Annotated[float, typer.Option(help="Objects with a higher score count as found, 0 to 1.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")]
