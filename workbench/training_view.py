"""A training in a notebook: how far it is, how long it will take, its curve, and buttons that stop it and go on.

The training itself is a `TrainingJob`, which runs in the background; the view looks at its snapshots and draws them. It
can be made and used without a browser, and without the package `ipywidgets` until it is displayed.
"""

from __future__ import annotations

import math
import threading
import time
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from workbench.plots import plot_progress

if TYPE_CHECKING:
    from workbench.training_job import JobSnapshot, TrainingJob

_LOOK_SECONDS = 0.3  # between two looks at the job
_DRAW_SECONDS = 2.0  # between two drawings of the curve: they take time from the training


class TrainingView:
    """A notebook's view of a training: the last line of a cell shows it, and it follows the job from then on.

    Args:
        job: started or not; the buttons start it, stop it, and go on.

    Example:
        >>> from pathlib import Path
        >>> from workbench.training_job import TrainingJob
        >>> view = TrainingView(TrainingJob(Path("recipes/coins.yaml"), "runs/coins"))
        >>> view.job.snapshot.is_running
        False
    """

    def __init__(self, job: TrainingJob):
        self.job = job
        self._widget: Any = None
        self._parts: dict[str, Any] = {}
        self._shown: JobSnapshot | None = None
        self._drawn: tuple[int, int] = (0, 0)
        self._drawn_at = -math.inf
        self._is_closed = threading.Event()

    @property
    def widget(self) -> Any:
        """The `ipywidgets.Widget` that is displayed.

        Raises:
            ImportError: the package `ipywidgets` is not installed.
        """
        if self._widget is None:
            self._widget = self._built()
            self._refresh()
            threading.Thread(target=self._follow, name="training view", daemon=True).start()
        return self._widget

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    @property
    def text(self) -> str:
        """What the line above the curve says."""
        return describe(self.job.snapshot)

    def close(self) -> None:
        """Looks at the job no longer; the job itself goes on."""
        self._is_closed.set()

    def _refresh(self) -> None:
        """Shows the job as it is now, if anything has changed since the last look."""
        snapshot = self.job.snapshot
        if snapshot is not self._shown:
            self._shown = snapshot
            bar, words, go, stop = (self._parts[name] for name in ("bar", "words", "go", "stop"))
            bar.max, bar.value = max(snapshot.steps, 1), snapshot.step
            bar.bar_style = "danger" if snapshot.error else "success" if snapshot.is_finished else "info"
            words.value = f"<span style='font-variant-numeric:tabular-nums'>{escape(describe(snapshot))}</span>"
            go.description = "Go on" if snapshot.step else "Start"
            go.disabled, stop.disabled = snapshot.is_running or snapshot.is_finished, not snapshot.is_running
        self._draw(snapshot)

    def _draw(self, snapshot: JobSnapshot) -> None:
        known = len(snapshot.losses), len(snapshot.scores)
        is_time = not snapshot.is_running or time.monotonic() - self._drawn_at >= _DRAW_SECONDS
        if known == self._drawn or not snapshot.losses or not is_time:
            return
        file = BytesIO()
        plot_progress(snapshot.losses, snapshot.scores).savefig(file, format="png", dpi=90)
        self._parts["curve"].value = file.getvalue()
        self._parts["curve"].layout.display = None
        self._drawn, self._drawn_at = known, time.monotonic()

    def _follow(self) -> None:
        while not self._is_closed.wait(_LOOK_SECONDS):
            self._refresh()

    def _built(self) -> Any:
        try:
            import ipywidgets
        except ImportError as error:
            raise ImportError(
                "displaying needs the package ipywidgets, which is not installed; pip install "
                "'sam3-workbench[notebooks]'"
            ) from error
        go = ipywidgets.Button(description="Start", icon="play", layout={"width": "90px"})
        stop = ipywidgets.Button(description="Stop", icon="stop", layout={"width": "90px"}, disabled=True)
        bar = ipywidgets.IntProgress(layout={"width": "260px"})
        words = ipywidgets.HTML()
        curve = ipywidgets.Image(format="png", layout={"display": "none", "max_width": "760px"})
        go.on_click(lambda _: self.job.start())
        stop.on_click(lambda _: self.job.stop())
        for part, name in ((go, "go"), (stop, "stop"), (bar, "bar"), (words, "words"), (curve, "curve")):
            self._parts[name] = part
            part.add_class(f"sw-training-{name}")
        return ipywidgets.VBox([ipywidgets.HBox([go, stop, bar]), words, curve])


def describe(snapshot: JobSnapshot) -> str:
    """A snapshot in one line, such as "training: step 58 of 200, loss 6.31, about 2 min left"."""
    if snapshot.error:
        return f"failed: {snapshot.error}"
    parts = [f"step {snapshot.step} of {snapshot.steps}"] if snapshot.steps else []
    if snapshot.losses:
        parts.append(f"loss {snapshot.losses[-1][1]:.2f}")
    if snapshot.scores:
        parts.append(f"cgF1 {100 * snapshot.scores[-1][1]:.1f} at step {snapshot.scores[-1][0]}")
    if snapshot.is_running and snapshot.seconds_left is not None:
        parts.append(f"about {_duration(snapshot.seconds_left)} left")
    return f"{snapshot.phase}: {', '.join(parts)}" if parts else snapshot.phase


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
