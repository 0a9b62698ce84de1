"""The pre-training run: three stages, averaged weights, resumable state.

Schedules count steps and every batch follows from seed and step number alone, so an interrupted run goes on where it
stopped. Under `torchrun` the batch is shared out over processes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from sam3.config import Sam3Config
from sam3.detector.criterion import LossWeights
from sam3.files import write_atomically
from sam3.model import Sam3
from workbench.domains import shapes
from workbench.finetune import rate_factor
from workbench.pretrain.batches import ScenePool, draw_scenes
from workbench.pretrain.initialise import new_model
from workbench.pretrain.losses import DenseHeads, dense_loss, full_loss, masked_parts, outline_stage_loss

STAGES = ("dense", "full", "outline")


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe of the embedded default.

    Attributes:
        dense_steps, full_steps, outline_steps: optimiser steps of the stages.
        images: pictures per step, over all processes.
        phrases: (picture, phrase) pairs per picture in stages 2 and 3, half of them absent.
        scenes: size of the pool of scenes; each is shown again flipped and turned.
        exemplar_share: share of present pairs that get example boxes or points.
        fine_share: share of the steps of stage 2 that train fine maps and masks, which cost more than all the rest; two
            fifths of it in stage 1.
        anchor_share: share of stage 2, from its start, in which queries answer for the objects nearest to
            their anchors.
        plain_share: share of plain scenes at the start of stage 2; they are left behind at half its length.
        ema: decay of the averaged weights, which are what is saved.
        seed: of all random numbers.
        dense_rate, full_rate, outline_rate: peaks of the learning rate in the stages; warmup: steps until there.
        weight_decay: of matrices. checkpoint_every: steps between states on disk. loss: weights of its terms.
    """

    seed: int = 0
    dense_steps: int = 6000
    full_steps: int = 6000
    outline_steps: int = 1000
    images: int = 8
    phrases: int = 4
    scenes: int = 12000
    dense_rate: float = 6e-4
    full_rate: float = 6e-4
    outline_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 100
    exemplar_share: float = 0.3
    fine_share: float = 0.35
    anchor_share: float = 0.25
    plain_share: float = 0.4
    ema: float = 0.998
    checkpoint_every: int = 250
    loss: LossWeights = field(
        default_factory=lambda: LossWeights(classification=150.0, positive=3.0, mask=60.0, dice=20.0, presence=2.5)
    )


class Run:
    """One pre-training run in a folder: state, log and the averaged weights; `train` does what is left to do."""

    def __init__(
        self,
        out: Path,
        config: PretrainConfig,
        model_config: Sam3Config,
        device: torch.device,
        start: Sam3 | None = None,
    ):
        self.out, self.config, self.device = out, config, device
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.images % self.world:
            raise ValueError(
                f"{config.images} pictures per step cannot be shared by {self.world} processes; change images"
            )
        seed, size = config.seed * 1000 + self.rank, config.scenes // self.world
        self.pools = ScenePool(size, seed), ScenePool(size // 4, seed, is_plain=True)
        model = start or new_model(model_config, sample_patches(model_config, config.seed), config.seed)
        self.model = model.to(device)
        self.heads = DenseHeads(model_config).to(device)
        self.average = copy.deepcopy(self.model)
        self.stage, self.step = "dense" if start is None else "full", 0

    def train(self, validate: Callable[[Sam3], dict[str, float]] | None = None, validate_every: int = 500) -> Sam3:
        """Runs what is left of all stages and returns the averaged model."""
        state = self._load()
        for stage in STAGES[STAGES.index(self.stage) :]:
            steps, rate = self._schedule(stage)
            if stage != self.stage:
                self.stage, self.step = stage, 0
                self.model.load_state_dict(self.average.state_dict())
            if stage == "outline":
                self.model.requires_grad_(False)
                for part in masked_parts(self.model):
                    part.requires_grad_(True)
            optimiser = make_optimiser(self.model, self.heads, rate, self.config.weight_decay)
            if state is not None:
                optimiser.load_state_dict(state["optimiser"])
                state = None
            for _ in self._steps(steps):
                self._set_rate(optimiser, rate, steps)
                values = self._one_step(optimiser)
                self.step += 1
                is_last = self.step == steps
                if self.rank == 0 and (self.step % 25 == 0 or is_last):
                    self._log({"stage": stage, "step": self.step, **values})
                if self.step % self.config.checkpoint_every == 0 or is_last:
                    self._save(optimiser)
                if stage != "dense" and validate is not None and (self.step % validate_every == 0 or is_last):
                    if self.rank == 0:
                        self._log({"stage": "validation", "step": self.step, **validate(self.average.eval())})
                    if dist.is_initialized():
                        dist.barrier()
        return self.average.eval()

    def _schedule(self, stage: str) -> tuple[int, float]:
        """Steps and peak rate of a stage."""
        return getattr(self.config, f"{stage}_steps"), getattr(self.config, f"{stage}_rate")

    def _steps(self, steps: int) -> Iterator[int]:
        remaining = range(self.step, steps)
        return iter(
            tqdm(
                remaining,
                initial=self.step,
                total=steps,
                desc=f"stage {self.stage}",
                disable=self.rank > 0,
                mininterval=5,
            )
        )

    def _one_step(self, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        rng = np.random.default_rng([self.config.seed, STAGES.index(self.stage), self.step, self.rank])
        # Plain scenes are left behind at half the length of a stage; stage 1 begins with nothing else.
        steps, _ = self._schedule(self.stage)
        at_first = {"dense": 1.0, "full": self.config.plain_share, "outline": 0.0}[self.stage]
        plain = max(0.0, 1 - 2 * self.step / steps) * at_first
        batch = draw_scenes(self.pools, plain, rng, self.config.images // self.world, self.device)
        self.model.train(self.stage != "outline")
        # All processes take the expensive branch in the same steps, or one would wait for the other.
        if self.stage == "dense":
            shared = np.random.default_rng([self.config.seed, 2, self.step])
            use_fine = shared.random() < self.config.fine_share * 0.4
            loss, values = dense_loss(self.model, self.heads, batch, rng, use_fine=use_fine)
        elif self.stage == "outline":
            asked, share = self.config.phrases, self.config.exemplar_share
            loss, values = outline_stage_loss(self.model, batch, rng, phrases=asked, exemplar_share=share)
        else:
            shared = np.random.default_rng([self.config.seed, 3, self.step])
            with_masks = shared.random() < self.config.fine_share
            loss, values = full_loss(
                self.model,
                self.heads,
                batch,
                rng,
                phrases=self.config.phrases,
                exemplar_share=self.config.exemplar_share,
                weights=self.config.loss,
                with_masks=with_masks,
                by_anchor=self.step < self.config.anchor_share * steps,
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        share_gradients(parameters, self.world)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at step {self.step} of stage {self.stage}; resume from the last "
                "checkpoint with a lower rate"
            )
        optimiser.step()
        if self.step % 5 == 0:
            decay = min(self.config.ema, (self.step + 1) / (self.step + 10)) ** 5
            with torch.no_grad():
                for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)
        return {"loss": loss.item(), "gradient": norm.item(), **values}

    def _set_rate(self, optimiser: torch.optim.Optimizer, rate: float, steps: int) -> None:
        factor = rate_factor(self.step, steps, self.config.warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate * factor * group["scale"]

    def _log(self, values: dict[str, Any]) -> None:
        line = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 1), **line}) + "\n")

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        if self.rank:
            return
        state = {
            "stage": self.stage,
            "step": self.step,
            "config": json.dumps(asdict(self.config)),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        write_atomically(self.out / "state.pt", lambda path: torch.save(state, path))

    def _load(self) -> dict[str, Any] | None:
        path = self.out / "state.pt"
        if not path.exists():
            return None
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["config"] != json.dumps(asdict(self.config)):
            raise ValueError(
                f"{self.out} holds a pre-training with other settings; choose another folder, or delete {path} to "
                "start anew"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.heads.load_state_dict(state["heads"])
        self.stage, self.step = state["stage"], state["step"]
        is_over = self.step >= self._schedule(self.stage)[0] and self.stage != STAGES[-1]
        return None if is_over else state


def make_optimiser(model: nn.Module, heads: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW over what requires a gradient; no weight decay on vectors and embeddings."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for module in (model, heads):
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            (vectors if parameter.ndim < 2 or "embed" in name or "anchors" in name else matrices).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": decay, "scale": 1.0},
            {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def join_processes(device: str | torch.device | None) -> torch.device:
    """Lets the processes that `torchrun` started find each other, and returns the device of this one; by default CUDA
    when there is one, else the CPU."""
    if torch.distributed.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and dist.is_initialized():
        chosen = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(chosen)
    return chosen


def share_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Averages gradients over the processes; a parameter without gradient counts as zero."""
    if world == 1:
        return
    used = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in used])
    dist.all_reduce(flat)
    flat /= world
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def sample_patches(config: Sam3Config, seed: int, count: int = 6000) -> np.ndarray:
    """Random patches (count, p, p, 3) of rendered scenes, from which the first filters are made."""
    rng = np.random.default_rng([seed, 2])
    patch = config.image_encoder.patch_size
    patches = []
    for _ in range(count // 100):
        image = shapes.render_scene(rng, size=config.image_encoder.image_size).image
        for y, x in rng.integers(0, image.shape[0] - patch, (100, 2)):
            patches.append(image[y : y + patch, x : x + patch])
    return np.stack(patches)
