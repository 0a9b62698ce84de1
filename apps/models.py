"""The models that answer, loaded once and shared: one request at a time asks a model, with or without an adapter.

An adapter is put into the shared model when it is asked for and stays there, switched off for everybody else, until
another one is needed; so memory does not grow with the number of visitors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from apps.state import Workspace
from sam3 import ImagePredictor, VideoPredictor, load_sam3
from sam3.model import Sam3
from workbench.adapter_files import read_manifest
from workbench.adapters import Adapter, load_adapter, remove_adapter
from workbench.calibrated_predictor import CalibratedPredictor, predictor_for
from workbench.video_predictor import video_predictor_for

TINY_IN_WORDS = (
    "**tiny** knows rendered shapes and colours (“red circle”, “star”), not photographs. It needs no download, and "
    "becomes useful on your pictures after learning from about ten of them."
)


@dataclass(frozen=True)
class Loan:
    """A model for the time of one request.

    Attributes:
        model: that answers; carries `adapter`, which is on, or an adapter that is off.
        adapter: None for the model as it is.
        label: its name for people.
    """

    model: Sam3
    adapter: Adapter | None
    label: str

    def predictor(self, score_threshold: float = 0.5) -> ImagePredictor | CalibratedPredictor:
        if self.adapter is None:
            return ImagePredictor(self.model, score_threshold)
        return predictor_for(self.adapter, score_threshold)

    def video_predictor(self) -> VideoPredictor:
        return VideoPredictor(self.model) if self.adapter is None else video_predictor_for(self.adapter)


class _Slot:
    """One model, loaded when first asked."""

    def __init__(self, name: str, device: str):
        self.name, self.device, self.lock = name, device, threading.Lock()
        self.model: Sam3 | None = None
        self.adapter: Adapter | None = None
        self.worn: tuple[Path, int] | None = None

    def bare(self) -> Sam3:
        """The model with no adapter in it."""
        if self.model is None:
            self.model = load_sam3(self.name, device=self.device)
        if self.adapter is not None:
            remove_adapter(self.adapter)
            self.adapter = self.worn = None
        return self.model

    def wearing(self, folder: Path) -> Adapter:
        """The adapter of that folder, in the model."""
        key = (folder, max(path.stat().st_mtime_ns for path in folder.iterdir()))
        if self.adapter is None or self.worn != key:
            self.adapter = load_adapter(self.bare(), folder)
            self.worn = key
        return self.adapter


class Shelf:
    """The models of the app.

    Args:
        names: what `load_sam3` accepts; the first one answers unless another is chosen.
        device: the first CUDA device if there is one, else the CPU.
    """

    def __init__(self, names: Sequence[str] = ("tiny",), device: str | None = None):
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.slots = {_short(name): _Slot(name, self.device) for name in names}

    def load(self) -> None:
        """Loads every model now and not when it is first asked, so that processes forked from this one have them."""
        for slot in self.slots.values():
            slot.bare()

    def choices(self, workspace: Workspace | None = None) -> list[str]:
        """The models, and the visitor's own adapted ones."""
        return [*self.slots, *(f"{self._base_of(workspace, run)} + {run}" for run in self._runs(workspace))]

    def _runs(self, workspace: Workspace | None) -> list[str]:
        return [] if workspace is None else workspace.run_names(finished=True)

    def _base_of(self, workspace: Workspace | None, run: str) -> str:
        assert workspace is not None
        return _short(str(read_manifest(workspace.run(run) / "adapter").facts.get("model", "tiny")))

    def split(self, choice: str, workspace: Workspace) -> tuple[str, Path | None]:
        """The model's name and the folder of the adapter that a choice means.

        Raises:
            ValueError: there is no such model or run.
        """
        base, plus, run = (choice or "").partition(" + ")
        if base not in self.slots:
            raise ValueError(f"there is no model {base!r} here; choose one of {', '.join(self.slots)}.")
        return base, workspace.run(run) / "adapter" if plus else None

    def weights_of(self, base: str) -> str:
        """What `load_sam3` is to be given."""
        return self.slots[base].name

    @contextmanager
    def lent(self, choice: str, workspace: Workspace, *, is_bare: bool = False) -> Iterator[Loan]:
        """The model of a choice, for one request; `is_bare` takes even a switched off adapter out."""
        base, folder = self.split(choice, workspace)
        slot = self.slots[base]
        with slot.lock:
            if folder is not None and not is_bare:
                adapter = slot.wearing(folder)
                yield Loan(adapter.model, adapter, choice)
            elif is_bare or slot.adapter is None:
                yield Loan(slot.bare(), None, base)
            else:
                with slot.adapter.disabled() if slot.adapter else nullcontext():
                    yield Loan(slot.adapter.model, None, base)

    def in_words(self, choice: str) -> str:
        """What the chosen model can do, for the banner."""
        base, plus, run = (choice or "").partition(" + ")
        if plus:
            return (
                f"**{run}** is yours: {base} after learning from your pictures. Ask it for the phrases it has learnt."
            )
        return TINY_IN_WORDS if base == "tiny" else f"**{base}** answers."


def _short(name: str) -> str:
    return Path(name).name if Path(name).exists() else name
