"""What a running job tells whoever watches it, and how a watcher stops it: a function is called with each `RunEvent`,
and may raise `Stopped`, which keeps what is done as Ctrl-C does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Stopped(Exception):
    """Somebody asked a job to stop; what it has done is kept, and it goes on from there when it is started again."""


@dataclass(frozen=True)
class RunEvent:
    """A sign of life.

    Attributes:
        phase: what the job is doing: "reading pictures", "loading the model", "measuring before", "looking for phrases
            to refuse", "preparing the training", "adapting", "measuring after", "measuring what was forgotten" or
            "writing the report". The same phase comes again with every picture that is measured.
        line: of the log, after a training step.
    """

    phase: str
    line: dict[str, Any] | None = None


Watcher = Callable[[RunEvent], None]


def unwatched(event: RunEvent) -> None:
    """The watcher of a job that nobody watches."""
