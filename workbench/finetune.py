"""The one training loop: a model with an adapter, a handful of labelled pictures, a few hundred steps.

Every batch follows from the seed and the step number alone. State is written atomically, so an interrupted run goes on
where it stopped and ends where it would have ended.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sam3.boxes import xyxy_to_cxcywh
from sam3.detector.criterion import LossWeights, criterion
from sam3.detector.matcher import Targets
from sam3.files import write_atomically, write_text
from sam3.image_encoder import ImageFeatures
from sam3.model import Sam3
from sam3.predictor import to_pixel_values
from sam3.prompts import Prompt
from workbench.adapters import Adapter
from workbench.augment import AugmentConfig, View, ViewConcept, drawn_box, make_view
from workbench.examples import ExampleSet


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a run; the defaults suit ten pictures.

    Attributes:
        steps: optimiser steps.
        rate: peak learning rate (AdamW).
        images: pictures per step.
        phrases: phrases asked of each picture in a step, at most.
        absent_share: wanted share of absent phrases among them; without absent phrases a model learns to say yes.
        exemplar_share: share of present phrases that also get an example box, so that the model still answers to boxes.
        views: different crops and turns of each picture over the whole run; fewer when their features would not fit.
        cache_gb: memory for image features kept from step to step when the image encoder is frozen.
        warmup: steps until the peak rate; after it the rate falls as half a cosine.
        weight_decay: of the adapter.
        one_to_many: train a second half of the queries several to one (released recipe; costs memory).
        checkpoint_every: steps between states on disk.
        loss: weights of the loss terms. The released recipe counts a match ten times; with ten pictures several
            queries then claim the same object, so it counts twice here (measured with the tiny model).
    """

    steps: int = 200
    rate: float = 3e-3
    images: int = 6
    phrases: int = 4
    absent_share: float = 0.5
    exemplar_share: float = 0.2
    views: int = 12
    cache_gb: float = 4.0
    warmup: int = 10
    weight_decay: float = 0.01
    one_to_many: bool = False
    checkpoint_every: int = 25
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossWeights = field(
        default_factory=lambda: LossWeights(classification=40.0, positive=2.0, mask=40.0, dice=12.0)
    )

    def __post_init__(self) -> None:
        for name in ("steps", "images", "phrases", "views", "warmup", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"received {name}={getattr(self, name)}; expected at least 1")
        if not self.rate > 0:
            raise ValueError(f"received rate={self.rate}; expected a positive learning rate")
        if not self.cache_gb >= 0:
            raise ValueError(f"received cache_gb={self.cache_gb}; expected gigabytes, 0 keeps no features")
        for name in ("absent_share", "exemplar_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"received {name}={getattr(self, name)}; expected a share from 0 to 1")


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended: steps done, seconds spent training, the best smoothed loss and its step."""

    steps: int
    seconds: float
    best_step: int
    best_loss: float
    was_resumed: bool


@dataclass(frozen=True)
class Asked:
    """One phrase asked of one view."""

    view: int
    concept: ViewConcept
    prompt: Prompt


class ViewPool:
    """Views of the learning pictures by (picture, number), and their image features when the encoder is frozen.

    Features of the released model take 111 MB per view. There are only as many views as `cache_gb` holds, at least two
    per picture; when not even those fit, no features are kept.
    """

    def __init__(self, model: Sam3, examples: ExampleSet, config: FinetuneConfig, *, is_frozen: bool):
        self.model, self.examples, self.config = model, examples, config
        self.size = model.config.image_encoder.image_size
        fitting = int(config.cache_gb * 1e9 / (len(examples) * bytes_per_view(model)))
        self.keep_features = is_frozen and fitting >= min(2, config.views)
        self.num_views = min(config.views, fitting) if self.keep_features else config.views
        # Twice the grid of the masks the model predicts: finer truth than prediction, at little cost.
        self.mask_size = model.config.image_encoder.grid_size * 8
        self._views: dict[tuple[int, int], View] = {}
        self._features: dict[tuple[int, int], ImageFeatures] = {}

    def view(self, picture: int, number: int) -> View:
        """View `number` of a picture; number 0 is the picture itself."""
        key = (picture, number)
        if key not in self._views:
            augment = self.config.augment if number else None
            seed = (self.config.seed, picture, number)
            self._views[key] = make_view(self.examples[picture], self.size, self.mask_size, augment, seed)
        return self._views[key]

    def features(self, keys: list[tuple[int, int]]) -> ImageFeatures:
        """Image features of several views as a batch; computed once per view when the encoder is frozen."""
        if not self.keep_features:
            return self.model.image_encoder(self._pixels(keys))
        for key in keys:
            if key not in self._features:
                with torch.no_grad():
                    self._features[key] = self.model.image_encoder(self._pixels([key]))
        levels = zip(*(self._features[key].pyramid for key in keys), strict=True)
        return ImageFeatures(tuple(torch.cat(level) for level in levels))

    def _pixels(self, keys: list[tuple[int, int]]) -> Tensor:
        values = torch.stack([to_pixel_values(self.view(*key).pixels, self.size) for key in keys])
        return values.to(self.model.device, self.model.dtype)


def bytes_per_view(model: Sam3) -> int:
    """Memory of one picture's features: the pyramid's levels, side by side."""
    sides = [model.config.image_encoder.grid_size * scale for scale in model.config.image_encoder.pyramid_scales[:3]]
    cells = sum(int(side) ** 2 for side in sides)
    return cells * model.config.detector.width * model.dtype.itemsize


def finetune(
    model: Sam3,
    adapter: Adapter,
    examples: ExampleSet,
    out: str | Path,
    config: FinetuneConfig | None = None,
    *,
    progress: bool = True,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> FinetuneResult:
    """Trains the adapter on a few labelled pictures.

    Args:
        model: carries the adapter.
        adapter: from `add_adapter`; afterwards it holds the weights of the last step.
        examples: pictures to learn from; unknown pairs are never used.
        out: folder for `adapter` (after the last step), `adapter_best` (where the loss was lowest), `log.jsonl` and
            `state.pt`. A state of the same settings found there is continued.
        config: settings.
        progress: show a bar.
        on_step: called with every log line.

    Raises:
        ValueError: no picture with a positive phrase, or the folder holds a run with other settings.
        FloatingPointError: the loss or its gradient is not finite; the state before that step is kept.
        KeyboardInterrupt: the steps done are kept.
    """
    config = config or FinetuneConfig()
    out = Path(out)
    if not any(concept.status == "positive" for _, concept in examples.pairs()):
        raise ValueError(
            f"{examples.name!r} shows no object at all; label at least one object of one phrase before training"
        )
    examples = examples.subset(dict.fromkeys(example.image_id for example, _ in examples.pairs()), examples.name)
    pool = ViewPool(model, examples, config, is_frozen=adapter.plan.freezes_image_encoder)
    optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=config.rate, weight_decay=config.weight_decay)
    run = _Run(out, adapter, optimiser, describe_run(adapter, examples, config))
    run.resume()
    was_resumed, start = run.step > 0, time.perf_counter()
    bar = tqdm(total=config.steps, initial=run.step, desc="adapting", unit="step", disable=not progress)
    try:
        while run.step < config.steps:
            for group in optimiser.param_groups:
                group["lr"] = config.rate * rate_factor(run.step, config.steps, config.warmup)
            losses = _gradients(model, adapter, pool, config, run.step)
            run.finish_step(losses, time.perf_counter() - start)
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.2f}", refresh=False)
            if on_step is not None:
                on_step(run.lines[-1])
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                run.save()
    except (KeyboardInterrupt, FloatingPointError):
        run.save()
        raise
    finally:
        bar.close()
        model.eval()
    return FinetuneResult(run.step, run.seconds, run.best_step, run.best_loss, was_resumed)


def _gradients(model: Sam3, adapter: Adapter, pool: ViewPool, config: FinetuneConfig, step: int) -> dict[str, float]:
    """Leaves the clipped gradients of one step in the adapter and returns what the log says about it."""
    rng = np.random.default_rng([config.seed, 1, step])
    torch.manual_seed(int(rng.integers(2**31)))  # dropout
    model.train()
    if adapter.plan.freezes_image_encoder:
        model.image_encoder.eval()  # kept features must not carry the noise of one step
    keys, asked = ask(pool, config, rng, step)
    prompts: list[list[Prompt]] = [[a.prompt for a in asked if a.view == row] for row in range(len(keys))]
    # Only what is there has masks to learn from.
    present = torch.tensor([row for row, a in enumerate(asked) if a.concept.is_present], dtype=torch.long)
    output = model.detect(
        pool.features(keys),
        prompts,
        with_masks=len(present) > 0,
        mask_pairs=present.to(model.device),
        one_to_many=config.one_to_many,
    )
    losses = criterion(output, targets_of(asked, pool.mask_size, model.device), config.loss)
    for parameter in adapter.parameters.values():
        parameter.grad = None
    losses.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(adapter.parameters.values(), 1.0)
    if not (torch.isfinite(losses.total) and torch.isfinite(norm)):
        raise FloatingPointError(
            f"the loss is not finite in step {step + 1}; the state before it is kept. Run again with a lower rate than "
            f"{config.rate:g} in a new folder"
        )
    values = losses.to_floats()
    terms = {name: value for name, value in values.items() if getattr(config.loss, name, 0)}
    counts = {"present": len(present), "absent": len(asked) - len(present)}
    return {"loss": values["total"], **terms, "gradient": float(norm), **counts}


def ask(
    pool: ViewPool, config: FinetuneConfig, rng: np.random.Generator, step: int
) -> tuple[list[tuple[int, int]], list[Asked]]:
    """The views of one step and what is asked of them. Pictures come in shuffled rounds, so all are seen equally
    often."""
    count, size = len(pool.examples), min(config.images, len(pool.examples))
    keys: list[tuple[int, int]] = []
    asked: list[Asked] = []
    for slot in range(size):
        turn = step * size + slot
        order = np.random.default_rng([config.seed, 2, turn // count]).permutation(count)
        picture, number = int(order[turn % count]), int(rng.integers(pool.num_views))
        if not pool.view(picture, number).concepts:
            number = 0  # the crop left every answer open; the whole picture has them
        concepts = pool.view(picture, number).concepts
        present = [c for c in concepts if c.is_present]
        absent = [c for c in concepts if not c.is_present]
        # The share is kept also where few phrases are present: more absent ones would cost time and teach little.
        chosen = [present[i] for i in rng.permutation(len(present))[: config.phrases]]
        wanted = max(1.0, len(chosen)) * config.absent_share / max(1 - config.absent_share, 1e-3)
        num_absent = min(len(absent), math.ceil(wanted), config.phrases)
        chosen = chosen[: max(config.phrases - num_absent, 1)]
        chosen += [absent[i] for i in rng.permutation(len(absent))[:num_absent]]
        asked += [Asked(len(keys), c, prompt_of(c, pool.size, config.exemplar_share, rng)) for c in chosen]
        keys.append((picture, number))
    return keys, asked


def prompt_of(concept: ViewConcept, size: int, exemplar_share: float, rng: np.random.Generator) -> Prompt:
    """The phrase, for some present ones with an example box drawn a little off."""
    if not concept.is_present or rng.random() >= exemplar_share:
        return Prompt(concept.phrase)
    box = concept.boxes_xyxy[int(rng.integers(len(concept.boxes_xyxy)))] * size
    return Prompt(concept.phrase, exemplar_boxes_xyxy_px=[drawn_box(box, rng, size)])


def targets_of(asked: list[Asked], mask_size: int, device: torch.device) -> Targets:
    """What the pairs of a step should yield."""
    counts = torch.tensor([len(a.concept.boxes_xyxy) for a in asked])
    boxes = np.concatenate([a.concept.boxes_xyxy for a in asked]) if asked else np.zeros((0, 4), np.float32)
    masks = np.concatenate([a.concept.masks for a in asked])
    has_mask = np.repeat([a.concept.has_masks for a in asked], counts.numpy())
    return Targets(
        pair=torch.arange(len(asked)).repeat_interleave(counts).to(device),
        boxes_cxcywh=xyxy_to_cxcywh(torch.from_numpy(boxes.reshape(-1, 4))).to(device),
        num_pairs=len(asked),
        masks=torch.from_numpy(masks.reshape(-1, mask_size, mask_size)).to(device),
        has_mask=torch.from_numpy(has_mask).to(device),
    )


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1))))


def describe_run(adapter: Adapter, examples: ExampleSet, config: FinetuneConfig) -> dict[str, Any]:
    """What must be equal for a run to be continued."""
    return {
        "config": asdict(config),
        "plan": asdict(adapter.plan),
        "phrases": list(adapter.phrases),
        "base": adapter.base,
        "pictures": {e.image_id: e.digest() for e in examples},
    }


class _Run:
    """What a run keeps on disk: log, state, best and last adapter."""

    def __init__(self, out: Path, adapter: Adapter, optimiser: torch.optim.Optimizer, description: dict[str, Any]):
        self.out, self.adapter, self.optimiser = out, adapter, optimiser
        self.description = json.dumps(description, sort_keys=True)
        self.step, self.seconds, self.seconds_before = 0, 0.0, 0.0
        self.best_step, self.best_loss = 0, math.inf
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
        # The best state is the one after the ten steps with the lowest mean loss: a single step says little.
        window = [line["loss"] for line in self.lines[-10:]]
        mean = sum(window) / 10 if len(window) == 10 else math.inf
        if mean < self.best_loss or len(window) < 10:
            self.best_step, self.best_loss, self.best = self.step, mean, self.adapter.state()
        self.is_mid_step = False

    def save(self) -> None:
        """State first, then the adapters, so that what can be continued is never older than what can be used.

        When the run was stopped within an update, or the update broke the weights, the files stay as they are.
        """
        last = self.adapter.state()
        if self.is_mid_step or not all(tensor.isfinite().all() for tensor in last.values()):
            return
        state = {
            "description": self.description,
            "step": self.step,
            "seconds": self.seconds,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "best": self.best,
            "adapter": last,
            "optimiser": self.optimiser.state_dict(),
            "lines": json.dumps(self.lines),
        }
        content = io.BytesIO()  # torch's own writer hides that a disk is full
        torch.save(state, content)
        write_atomically(self.out / "state.pt", lambda path: path.write_bytes(content.getbuffer()))
        write_text(self.out / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines))
        self.adapter.save(self.out / "adapter")
        self.adapter.save(self.out / "adapter_best", self.best)

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
        self.step, self.lines, self.best = state["step"], json.loads(state["lines"]), state["best"]
        self.seconds = self.seconds_before = state["seconds"]
        self.best_step, self.best_loss = state["best_step"], state["best_loss"]
