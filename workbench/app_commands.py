"""The commands `workbench app` and `workbench space`: the page in the browser, here or on the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.command_options import Debug

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def app_page(context: typer.Context, debug: Debug = False) -> None:
    """Start the app in the browser: segment, label, adapt, compare, follow objects in videos.

    All options are those of `python -m apps`; see `workbench app -- --help`.

    \b
    Example:
      workbench app --port 7860 --model tiny --model facebook/sam3
    """
    # The page is a program of its own, so that this package needs no Gradio. This process becomes it where it can.
    command = [sys.executable, "-m", "apps", *context.args]
    if os.name == "posix":
        os.execv(command[0], command)
    raise typer.Exit(subprocess.call(command))


def space(
    out: Annotated[Path, typer.Option(help="A new folder.")],
    title: Annotated[str, typer.Option(help="Of the Space.")] = "SAM 3 Workbench",
    debug: Debug = False,
) -> None:
    """Write a folder that is the app as a Hugging Face Space, ready to be pushed.

    \b
    Example:
      workbench space --out space
      hf upload USER/NAME space . --repo-type space
    """
    from workbench.space import write_space

    files = write_space(out, title)
    typer.echo(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.0f} MB in {out}. Try it:")
    typer.echo(f"  cd {out} && python app.py")
