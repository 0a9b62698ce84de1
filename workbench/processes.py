"""The processes of a run: one, or those that `torchrun` started, which share the work and give one result."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from workbench.adapters import Adapter


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1

    @classmethod
    def found(cls) -> Processes:
        """As `torchrun` started them; one when it did not.

        Raises:
            RuntimeError: the processes of `torchrun` cannot talk to each other.
        """
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if wanted == 1:
            return cls()
        from accelerate import PartialState

        # One process measures while the others wait, which can take long.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=2))
        if state.num_processes != wanted:
            raise RuntimeError(
                f"torchrun started {wanted} processes, but {state.num_processes} found each other; every one would "
                "train on its own. Check the network, or train with one process"
            )
        return cls(state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The CUDA device of this process when there is one, else the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def add_up(self, adapter: Adapter, values: dict[str, float]) -> dict[str, float]:
        """Replaces the gradients by their sums over all processes and returns the sums of the values."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        for parameter in adapter.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = reduce(parameter.grad, "sum")
        total = reduce(torch.tensor(list(values.values()), device=adapter.model.device), "sum")
        return dict(zip(values, total.tolist(), strict=True))

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
