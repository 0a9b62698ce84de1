"""The last stage of the embedded default: an image model learns to take clicks and to follow, everything else frozen.

The trunk's maps of all clips are computed once; a step costs the tracker's pyramid and the tracker. Every window
follows from seed and step number alone, so an interrupted run goes on where it stopped. Under `torchrun` the windows of
a step are shared out over processes.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from sam3.config import TrackerConfig
from sam3.files import write_atomically
from sam3.layers import Attention
from sam3.model import Sam3
from sam3.tracker.tracker import Tracker
from workbench.finetune import rate_factor
from workbench.pretrain.clip_pool import ClipPool
from workbench.pretrain.initialise import look_at_neighbours
from workbench.pretrain.matching import start_matching
from workbench.pretrain.run import share_gradients
from workbench.pretrain.tracking_losses import MIN_MEMORY_FRAMES, mean_values, window_loss
from workbench.pretrain.tracking_recipe import Position, TrackingConfig, rate_shares
from workbench.pretrain.windows import draw_window

_WINDOWS_AT_ONCE = 2
_COMPARED_CLIPS = 100  # that tell how to begin with memory


def with_new_tracker(model: Sam3, tracker: TrackerConfig, seed: int) -> Sam3:
    """A copy of an image model with an untrained tracker, frozen but for the tracker and its feature pyramid.

    The pyramid starts as a copy of the detector's, and memory attention by looking at the own cell of earlier frames.
    """
    config = replace(
        model.config, image_encoder=replace(model.config.image_encoder, has_tracker_pyramid=True), tracker=tracker
    )
    torch.manual_seed(seed)
    whole = Sam3(config)
    new_parts = ("tracker.", "image_encoder.tracker_pyramid.")
    known = {name: value for name, value in model.state_dict().items() if not name.startswith(new_parts)}
    missing, unexpected = whole.load_state_dict(known, strict=False)
    assert not unexpected and all(name.startswith(new_parts) for name in missing)
    pyramid, new = tracked_parts(whole)
    pyramid.load_state_dict(model.image_encoder.pyramid.state_dict())
    with torch.no_grad():
        for name, value in pyramid[2].named_parameters():
            if name.startswith("conv3."):
                value.mul_(0.5)  # so that what is seen does not drown place codes
    _start(new)
    return with_only_tracker_trained(whole)


def with_only_tracker_trained(model: Sam3) -> Sam3:
    """The model, frozen but for the tracker and its feature pyramid."""
    model.requires_grad_(False)
    for part in tracked_parts(model):
        part.requires_grad_(True)
    return model


def tracked_parts(model: Sam3) -> tuple[nn.ModuleList, Tracker]:
    """What this stage trains: the tracker's feature pyramid and the tracker."""
    tracker, pyramid = model.require_tracker(), model.image_encoder.tracker_pyramid
    assert pyramid is not None  # a config with a tracker has one
    return pyramid, tracker


@torch.no_grad()
def _start(tracker: Tracker) -> None:
    """Priors that cost no parameter: tokens look at the place they name, frames at the same place in earlier ones."""
    for module in tracker.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    nn.init.normal_(tracker.prompt_encoder.no_mask_embed.weight, std=0.02)
    for parameter in tracker.prompt_encoder.mask_layers[-1].parameters():
        parameter.mul_(4.0)  # a told mask is not to be overlooked
    nn.init.constant_(tracker.mask_downsample.weight, 1 / tracker.mask_downsample.weight.numel())
    if tracker.mask_downsample.bias is not None:
        nn.init.zeros_(tracker.mask_downsample.bias)
    for name, module in tracker.named_modules():
        if not isinstance(module, Attention):
            continue
        if name.endswith(".memory_attention"):
            look_at_neighbours(module, ((0, 0),), 1.0)
        elif name.startswith("mask_decoder.") and not name.endswith(".self_attention"):
            module.q.weight.mul_(1.5)
            module.k.weight.copy_(module.q.weight)  # what is alike, in place or in looks, finds each other


class TrackerRun:
    """The training of a tracker in a folder: clips, state, log and the averaged weights."""

    def __init__(self, out: Path, config: TrackingConfig, model: Sam3, device: torch.device):
        self.out, self.config, self.device = out, config, device
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.model = model.to(device).eval()
        self.pyramid, self.tracker = tracked_parts(model)
        self.average = copy.deepcopy(nn.ModuleList([self.pyramid, self.tracker]))
        if self.rank:
            dist.barrier()  # the first process makes the files
        self.pool = ClipPool(
            out / "pool", model.image_encoder, size=config.clips, num_frames=config.clip_frames, seed=config.seed
        )
        if self.world > 1 and not self.rank:
            dist.barrier()
        self.optimiser = self._new_optimiser()
        self.step = 0

    def train(self, validate: Callable[[Sam3], dict[str, float]] | None = None, validate_every: int = 300) -> Sam3:
        """Runs what is left to do and returns the model with averaged weights."""
        self._load()
        steps = self.config.steps
        recent: list[dict[str, float]] = []
        bar = tqdm(
            range(self.step, steps),
            initial=self.step,
            total=steps,
            desc="tracker",
            mininterval=5,
            disable=self.rank > 0,
        )
        for _ in bar:
            recent.append(self._one_step())
            self.step += 1
            is_last = self.step == steps
            if self.rank:
                continue
            if self.step % 20 == 0 or is_last:
                values = mean_values(recent)
                recent.clear()
                self._log({"stage": "tracker", "step": self.step, **values})
                bar.set_postfix(loss=f"{values['loss']:.2f}", fit=f"{values['fit']:.2f}", refresh=False)
            if self.step % self.config.checkpoint_every == 0 or is_last:
                self._save()
            if validate is not None and (self.step % validate_every == 0 or is_last):
                self._log({"stage": "validation", "step": self.step, **validate(self.averaged())})
        return self.averaged()

    def averaged(self) -> Sam3:
        """A copy of the model with the averaged weights, in evaluation mode."""
        model = copy.deepcopy(self.model)
        for part, mean in zip(tracked_parts(model), self.average, strict=True):
            part.load_state_dict(mean.state_dict())
        return model.eval()

    def _one_step(self) -> dict[str, float]:
        config, rng = self.config, np.random.default_rng([self.config.seed, 5, self.step])
        position = config.at(self.step)
        stage = position.stage
        if position.begins_stage:
            self._begin(position)
        rate = config.rate if stage.cycle == 0 else config.later_rate
        rate *= rate_factor(position.frames_seen, position.frames, config.warmup)
        shares = rate_shares(stage)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * shares[group["kind"]]
            for parameter in group["params"]:
                parameter.requires_grad_(shares[group["kind"]] > 0)
        self.tracker.train()
        self.optimiser.zero_grad(set_to_none=True)
        windows = [
            draw_window(
                rng,
                self.pool,
                stage.frames,
                stage.objects,
                with_gaps=bool(rng.random() < stage.with_gaps),
                with_return=bool(rng.random() < stage.with_return),
            )
            for _ in range(stage.windows)
        ]
        # Which frames are remembered depends on how well a window's objects are seen; of so few, all are.
        size = _WINDOWS_AT_ONCE if stage.frames <= MIN_MEMORY_FRAMES else 1
        batches = [windows[start : start + size] for start in range(0, len(windows), size)]
        if len(batches) % self.world:
            raise ValueError(
                f"{len(batches)} batches of windows per step cannot be shared by {self.world} processes; start another "
                "number of them"
            )
        parts = []
        for index in range(self.rank, len(batches), self.world):
            rng = np.random.default_rng([config.seed, 6, self.step, index])
            loss, values = window_loss(
                self.tracker, self.pyramid, batches[index], rng, config.hinting, learnt=stage.learnt
            )
            (self.world * loss / len(batches)).backward()
            parts.append(values)
        trained = [p for group in self.optimiser.param_groups for p in group["params"] if p.requires_grad]
        share_gradients(trained, self.world)
        norm = float(nn.utils.clip_grad_norm_(trained, 1.0))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at step {self.step}; resume from the last checkpoint with a lower rate"
            )
        self.optimiser.step()
        decay = min(config.ema, (position.step + 1) / (position.step + 10))
        with torch.no_grad():
            for mean, part in zip(self.average, (self.pyramid, self.tracker), strict=True):
                for slow, value in zip(mean.parameters(), part.parameters(), strict=True):
                    slow.lerp_(value, 1 - decay)
        return {**mean_values(parts), "gradient": norm}

    def _begin(self, position: Position) -> None:
        """What happens before the first step of a stage. Where memory starts within a cycle it has learnt nothing yet:
        the optimiser's moments are those of the other parts, which go on."""
        if position.begins_cycle or position.stage.starts_memory:
            for part, mean in zip((self.pyramid, self.tracker), self.average, strict=True):
                part.load_state_dict(mean.state_dict())
        if position.begins_cycle:
            self.optimiser = self._new_optimiser()
        if position.stage.starts_memory:
            clips = [self.pool[index] for index in range(min(_COMPARED_CLIPS, len(self.pool)))]
            start_matching(self.tracker, self.pyramid[2], clips)
            self.average[1].load_state_dict(self.tracker.state_dict())

    def _new_optimiser(self) -> torch.optim.Optimizer:
        """AdamW with a group for each of `rate_shares`, no weight decay on vectors and embeddings."""
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in nn.ModuleDict({"pyramid": self.pyramid, "tracker": self.tracker}).named_parameters():
            is_matrix = parameter.ndim > 1 and "embed" not in name
            groups.setdefault((_kind_of(name), is_matrix), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": parameters, "kind": kind, "weight_decay": self.config.weight_decay if is_matrix else 0.0}
                for (kind, is_matrix), parameters in groups.items()
            ],
            lr=self.config.rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def _log(self, values: dict[str, Any]) -> None:
        line = {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 1), **line}) + "\n")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "config": self._description(),
            "pyramid": self.pyramid.state_dict(),
            "tracker": self.tracker.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_atomically(self.out / "state.pt", lambda path: torch.save(state, path))

    def _load(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["config"] != self._description():
            raise ValueError(
                f"{self.out} holds a training with other settings; choose another folder, or delete {path} to start "
                "anew"
            )
        self.pyramid.load_state_dict(state["pyramid"])
        self.tracker.load_state_dict(state["tracker"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def _description(self) -> str:
        return json.dumps([asdict(self.config), self.model.config.to_dict()])


def _kind_of(name: str) -> str:
    """The entry of `rate_shares` that a parameter belongs to."""
    if name.startswith("pyramid."):
        return "looks" if name.startswith("pyramid.2.") else "pyramid"
    if not name.startswith(("tracker.memory_attention.", "tracker.memory_encoder.")):
        return "rest"
    if any(part in name for part in (".memory_attention.q.", ".memory_attention.k.", ".image_project.")):
        return "comparison"
    return "passage" if "norm" in name or name.startswith("tracker.memory_encoder.out.") else "memory"
