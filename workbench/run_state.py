"""What a training run keeps on disk, and how it goes on or back: state, log, best and last adapter.

Everything is written atomically. A run that was stopped at any moment goes on from its last state.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from sam3.files import write_atomically, write_folder_atomically, write_text
from workbench.adapters import Adapter

_MAX_ROLLBACKS = 3


class RunState:
    """What a run keeps on disk: log, state, best and last adapter. Only the first process writes."""

    def __init__(
        self,
        out: Path,
        adapter: Adapter,
        optimiser: torch.optim.Optimizer,
        description: dict[str, Any],
        writes: bool,
    ):
        self.out, self.adapter, self.optimiser, self.writes = out, adapter, optimiser, writes
        self.description = json.dumps(description, sort_keys=True)
        self.step, self.seconds, self.seconds_before = 0, 0.0, 0.0
        self.caution, self.rollbacks = 1.0, 0  # the rate is multiplied by `caution`
        self.best_step, self.best_value, self.num_worse = 0, math.inf, 0
        self.is_validated = False
        self.best = adapter.state()
        self.lines: list[dict[str, Any]] = []
        self.is_mid_step = False
        out.mkdir(parents=True, exist_ok=True)

    def finish_step(self, losses: dict[str, float], seconds: float) -> None:
        """Lets the optimiser move the adapter and notes the step."""
        self.is_mid_step = True
        self.optimiser.step()
        self.step += 1
        self.seconds = self.seconds_before + seconds
        self.lines.append({"step": self.step, "seconds": round(self.seconds, 2), **losses})
        if not self.is_validated:
            # The best state is the one after the ten steps with the lowest mean loss: a single step says little.
            window = [line["loss"] for line in self.lines[-10:]]
            mean = sum(window) / 10 if len(window) == 10 else math.inf
            if mean < self.best_value or len(window) < 10:
                self.best_step, self.best_value, self.best = self.step, mean, self.adapter.state()
        self.is_mid_step = False

    def note_validation(self, cgf1: float) -> None:
        """Held-out pictures decide from now on which state is the best."""
        self.lines[-1]["held_out_cgF1"] = round(cgf1, 5)
        if not self.is_validated or cgf1 > self.best_value:
            self.best_step, self.best_value, self.best, self.num_worse = self.step, cgf1, self.adapter.state(), 0
        else:
            self.num_worse += 1
        self.is_validated = True

    def is_stale(self, patience: int) -> bool:
        return self.is_validated and self.num_worse >= patience

    def roll_back(self) -> str:
        """Back to the last state on disk with half the rate; says so.

        Raises:
            FloatingPointError: that was done several times already.
        """
        if self.rollbacks == _MAX_ROLLBACKS:
            raise FloatingPointError(
                f"the loss was not finite in {_MAX_ROLLBACKS + 1} attempts; the last good state is kept. Look at the "
                "labels of the pictures, or run again with a lower rate in a new folder"
            )
        rollbacks, caution = self.rollbacks + 1, self.caution / 2
        self.resume()
        self.rollbacks, self.caution = rollbacks, caution
        return f"back to step {self.step}, on with {caution:g} times the rate"

    def save(self) -> None:
        """State first, then the adapters, so that what can be continued is never older than what can be used.

        When the run was stopped within an update, or the update broke the weights, the files stay as they are.
        """
        last = self.adapter.state()
        if not self.writes or self.is_mid_step or not all(tensor.isfinite().all() for tensor in last.values()):
            return
        state = {
            "description": self.description,
            "step": self.step,
            "seconds": self.seconds,
            "caution": self.caution,
            "rollbacks": self.rollbacks,
            "best_step": self.best_step,
            "best_value": self.best_value,
            "num_worse": self.num_worse,
            "is_validated": self.is_validated,
            "best": self.best,
            "adapter": last,
            "optimiser": self.optimiser.state_dict(),
            "lines": json.dumps(self.lines),
        }
        content = io.BytesIO()  # torch's own writer hides that a disk is full
        torch.save(state, content)
        write_atomically(self.out / "state.pt", lambda path: path.write_bytes(content.getbuffer()))
        write_text(self.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines))
        if self.step:
            folder, best = self.adapter.save(self.out / "adapter"), self.out / "adapter_best"
            if self.best_step == self.step:
                write_folder_atomically(best, lambda draft: shutil.copytree(folder, draft, dirs_exist_ok=True))
            else:
                self.adapter.save(best, self.best)

    def resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to start the training anew") from error
        if state["description"] != self.description:
            raise ValueError(
                f"{self.out} holds a run with other settings, pictures or weights; choose another folder, or delete "
                "it to start anew"
            )
        self.adapter.restore(state["adapter"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.lines, self.seconds_before = json.loads(state["lines"]), state["seconds"]
        for name in (
            "step",
            "seconds",
            "caution",
            "rollbacks",
            "best_step",
            "best_value",
            "num_worse",
            "is_validated",
            "best",
        ):
            setattr(self, name, state[name])
