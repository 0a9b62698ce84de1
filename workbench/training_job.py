"""A recipe that runs in the background, for pages and notebooks: started, stopped, looked at, and taken up again.

The work is `run_recipe` in a thread. What can be seen of it from outside are immutable snapshots. Jobs of one process
take turns: a second one waits until the first has ended. Training draws from torch's one random generator, so that
this is what makes a job end with the weights it would have alone; predictions draw nothing and may go on beside it.
Whatever else draws from that generator meanwhile changes the dropout of a step, never more.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench.adapt import run_recipe
from workbench.recipe import Recipe, load_recipe
from workbench.run_events import RunEvent, Stopped
from workbench.run_folder import holds_settings_of, what_is_kept

_TURN = threading.Lock()
_LOOK_SECONDS = 0.2
_SECONDS_TO_SAVE = 60.0  # that a job gets when Python ends


@dataclass(frozen=True)
class JobSnapshot:
    """A job at one moment.

    Attributes:
        phase: "not started", "waiting for its turn", one of `RunEvent.phase`, "stopping", "stopped", "failed" or
            "finished".
        step, steps: of the training: done, and wanted.
        losses: (step, loss) of the steps done.
        scores: (step, cgF1 on held-out pictures, 0..1) where that was measured.
        seconds_left: of the training, from the pace so far; None when it is not under way.
        is_running: the thread works, or waits for its turn.
        is_finished: everything is in the folder.
        error: what went wrong, in words.
        out: the folder, as `run_recipe` fills it.
        note: what a stopped job keeps.
    """

    phase: str
    step: int
    steps: int
    losses: tuple[tuple[int, float], ...]
    scores: tuple[tuple[int, float], ...]
    seconds_left: float | None
    is_running: bool
    is_finished: bool
    error: str | None
    out: Path
    note: str = ""


class TrainingJob:
    """A recipe with the folder it fills; nothing runs before `start`.

    Args:
        recipe: or the path of its file.
        out: folder for the results. A finished one shows as finished, one that a job left half done (of this process
            or an earlier one) goes on from there when it is started, one of another job makes it fail in words.
        device: as for `run_recipe`.
        run: does the work, called as `run_recipe` is.

    Raises:
        ValueError: the recipe cannot be read.

    Example:
        >>> learn, test = ({"rendered": "shapes", "pictures": 12, "seed": seed} for seed in (0, 1))
        >>> job = TrainingJob(Recipe(name="shapes", learn=learn, test=test), "runs/example")
        >>> job.snapshot.phase, job.snapshot.steps, job.snapshot.is_running
        ('not started', 200, False)
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        out: str | Path,
        device: torch.device | str | None = None,
        run: Callable[..., object] = run_recipe,
    ):
        self.recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        self.out, self.device, self.run = Path(out), device, run
        self._thread: threading.Thread | None = None
        self._is_stop_wanted = threading.Event()
        self._changes = threading.Lock()
        self._pace: tuple[float, int] | None = None  # when the training went on, and at which step
        self._snapshot = _found(self.out, self.recipe)

    @property
    def snapshot(self) -> JobSnapshot:
        """The job as it is now."""
        return self._snapshot

    def start(self) -> None:
        """Begins, or goes on; a job that runs or is finished stays as it is."""
        with self._changes:
            if self._snapshot.is_running or self._snapshot.is_finished:
                return
            self._is_stop_wanted.clear()
            found = _found(self.out, self.recipe)
            self._snapshot = replace(found, phase="waiting for its turn", is_running=True, is_finished=False, note="")
            # The context says who asked, which counts where a GPU is lent to visitors.
            work = partial(copy_context().run, self._run)
            self._thread = threading.Thread(target=work, name=f"training {self.out.name}", daemon=True)
            self._thread.start()
        atexit.register(self._leave)

    def stop(self) -> None:
        """Asks the job to stop after the step or picture it is at; what is done is kept."""
        with self._changes:
            if self._snapshot.is_running:
                self._is_stop_wanted.set()
                self._snapshot = replace(self._snapshot, phase="stopping", seconds_left=None)

    def wait(self, timeout: float | None = None) -> JobSnapshot:
        """The snapshot once the job no longer runs, or after so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._snapshot

    async def ended(self) -> JobSnapshot:
        """The snapshot once the job no longer runs, awaited: in a notebook buttons act meanwhile (ipykernel 7.4)."""
        while self._thread is not None and self._thread.is_alive():
            await asyncio.sleep(_LOOK_SECONDS)
        return self._snapshot

    def _run(self) -> None:
        try:
            with training_turn(self._is_stop_wanted.is_set):
                self.run(self.recipe, self.out, progress=False, device=self.device, on_event=self._hear)
            self._end(phase="finished", is_finished=True)
        except Stopped:
            self._end(
                phase="stopped", note=what_is_kept(self.out).replace("the same command", "the job, started again,")
            )
        except BaseException as error:  # whatever it is, somebody who looks at the job must learn of it
            logging.getLogger(__name__).warning("the job in %s failed", self.out, exc_info=error)
            self._end(phase="failed", error=_in_words(error))
        finally:
            atexit.unregister(self._leave)

    def _hear(self, event: RunEvent) -> None:
        """Notes what `run_recipe` tells."""
        if self._is_stop_wanted.is_set():
            self._note(event, phase="stopping")
            raise Stopped
        self._note(event, phase=event.phase)

    def _note(self, event: RunEvent, phase: str) -> None:
        line, seen = event.line, self._snapshot
        if line is None:
            self._pace = None
            changed = replace(seen, phase=phase, seconds_left=None)
        else:
            self._pace = self._pace or (time.monotonic(), line["step"])
            step = line["step"]  # after a loss that was not finite the training goes some steps back
            losses = (*(pair for pair in seen.losses if pair[0] < step), (step, float(line["loss"])))
            scores = tuple(pair for pair in seen.scores if pair[0] < step) + _scores([line])
            left = self._seconds_left(step)
            changed = replace(seen, phase=phase, step=step, losses=losses, scores=scores, seconds_left=left)
        with self._changes:
            self._snapshot = replace(changed, phase="stopping" if self._is_stop_wanted.is_set() else phase)

    def _seconds_left(self, step: int) -> float | None:
        if self._pace is None or step <= self._pace[1]:
            return None
        since, first = self._pace
        return (time.monotonic() - since) / (step - first) * (self.recipe.train.steps - step)

    def _end(self, **changes: Any) -> None:
        with self._changes:
            self._snapshot = replace(self._snapshot, is_running=False, seconds_left=None, **changes)

    def _leave(self) -> None:
        """When Python ends in the middle of a job, its last step is saved."""
        self.stop()
        self.wait(_SECONDS_TO_SAVE)


@contextmanager
def training_turn(is_given_up: Callable[[], bool]) -> Iterator[None]:
    """Waits until no job of this process trains, and keeps others waiting meanwhile.

    Args:
        is_given_up: asked while waiting.

    Raises:
        Stopped: it said yes.
    """
    while not _TURN.acquire(timeout=0.1):
        if is_given_up():
            raise Stopped
    try:
        yield
    finally:
        _TURN.release()


def _found(out: Path, recipe: Recipe) -> JobSnapshot:
    """What an earlier job has left in the folder; nothing of one with other settings, which `run_recipe` refuses."""
    is_ours = holds_settings_of(out, recipe)
    is_finished = is_ours and all((out / name).is_file() for name in ("run.json", "after.json", "report.html"))
    lines: list[dict[str, Any]] = []
    if is_ours and (log := out / "log.jsonl").is_file():
        try:
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            lines = []  # the state beside it is what counts
    return JobSnapshot(
        phase="finished" if is_finished else "stopped" if is_ours else "not started",
        step=len(lines),
        steps=recipe.train.steps,
        losses=tuple((line["step"], float(line["loss"])) for line in lines),
        scores=_scores(lines),
        seconds_left=None,
        is_running=False,
        is_finished=is_finished,
        error=None,
        out=out,
    )


def _scores(lines: list[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((line["step"], float(line["held_out_cgF1"])) for line in lines if "held_out_cgF1" in line)


def _in_words(error: BaseException) -> str:
    """The message with its notes; the kind of the error too where no message was written for people."""
    is_plain = isinstance(error, ValueError | OSError | FloatingPointError) and str(error)
    message = str(error) if is_plain else f"{type(error).__name__}: {error}"
    return " ".join((message, *getattr(error, "__notes__", ())))
