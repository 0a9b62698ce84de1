"""A GPU that is lent for one call at a time, as a Space with ZeroGPU does; everywhere else nothing changes.

The call runs in another process, a copy of the server from before: what it changes in memory is lost, so a handler
gives back all that counts, or writes it into files. A training is done in parts, each going on where the one before
stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import torch

from apps.refusals import spoken
from workbench.adapt import run_recipe
from workbench.recipe import Recipe
from workbench.run_events import RunEvent, Stopped, Watcher, unwatched

Handler = TypeVar("Handler", bound=Callable[..., Any])

IS_LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
CALL_SECONDS = 60  # a call may take
PART_SECONDS = 45.0  # of training, after which a part saves what it has and ends


def on_gpu(handler: Handler) -> Handler:
    """The handler, with a GPU while it runs; itself where none is lent."""
    if not IS_LENT:
        return handler
    import spaces

    return spaces.GPU(duration=CALL_SECONDS)(handler)


def run_in_parts(
    recipe: Recipe,
    out: Path,
    *,
    progress: bool = False,
    device: torch.device | str | None = None,
    on_event: Watcher = unwatched,
) -> None:
    """`run_recipe` in parts that fit into the time a GPU is lent for; `on_event` is told between them.

    Raises:
        ValueError: a part was too short to get any further, or went wrong.
        Stopped: `on_event` asked for it.
    """
    num_lines, done = 0, None
    while True:
        on_event(RunEvent("adapting"))
        try:
            is_finished = _part(recipe, out, progress, device)
        except gr.Error as error:
            raise ValueError(error.message) from error
        lines = _lines(out)
        for line in lines[num_lines:]:
            on_event(RunEvent("adapting", line))
        if is_finished:
            return
        now = (lines[-1:], sorted(path.name for path in out.iterdir()))
        if now == done:
            raise ValueError(
                f"{PART_SECONDS:g} s on the lent GPU were too short to get any further. Take fewer or smaller "
                "pictures, or duplicate the Space on hardware of your own"
            )
        num_lines, done = len(lines), now


RUN = run_in_parts if IS_LENT else run_recipe  # what a training job calls


@on_gpu
@spoken
def _part(recipe: Recipe, out: Path, progress: bool, device: torch.device | str | None) -> bool:
    """Does as much as fits into the time; whether the job is finished."""
    end = time.monotonic() + PART_SECONDS

    def watch(_: RunEvent) -> None:
        if time.monotonic() > end:
            raise Stopped

    try:
        run_recipe(recipe, out, progress=progress, device=device, on_event=watch)
    except Stopped:
        return False
    return True


def _lines(out: Path) -> list[dict[str, Any]]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
