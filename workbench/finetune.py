"""The one training loop: a model with an adapter, a handful of labelled pictures, a few hundred steps.

Every batch follows from the seed and the step number alone. State is written atomically, so an interrupted run goes on
where it stopped and ends where it would have ended. Under `torchrun` the pictures of a step are shared out, and the
result is that of one process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sam3.detector.criterion import BatchSize, Losses, LossWeights, criterion
from sam3.layers import Attention
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.adapters import Adapter
from workbench.augment import AugmentConfig
from workbench.batches import Asked, Key, ViewPool, ask, mixed_precision, targets_of
from workbench.evaluate import evaluate, metrics_of
from workbench.examples import Example, ExampleSet
from workbench.processes import Processes
from workbench.replay import Replay
from workbench.run_events import Stopped
from workbench.run_state import RunState


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a run; the defaults suit ten pictures.

    Attributes:
        steps: optimiser steps.
        rate: peak learning rate (AdamW); None means the plan's own.
        images: pictures per step.
        images_at_once: pictures that share the memory; fewer make a step slower, not different. None means all.
        recompute: compute layers again in the backward pass in place of keeping their insides, which makes a step
            slower, not different, and takes far less memory with the released size.
        phrases: phrases asked of each picture in a step, at most.
        absent_share: wanted share of absent phrases among them; without absent phrases a model learns to say yes.
        exemplar_share: share of phrases that also get example boxes or points, positive and negative, so that the model
            still answers to them.
        replay_images: scenes per step that are asked again, against forgetting, when there are any.
        replay_weight: of their loss; more forgets less and learns less (see `workbench.replay`).
        views: different crops and turns of each picture over the whole run; fewer when their features would not fit.
        cache_gb: memory for image features kept from step to step when the image encoder is frozen.
        warmup: steps until the peak rate; after it the rate falls as half a cosine.
        weight_decay: of the adapter.
        one_to_many: train a second half of the queries several to one (released recipe; costs memory).
        checkpoint_every: steps between states on disk.
        validate_every: steps between measurements on held-out pictures, when there are any.
        patience: measurements without a better cgF1 after which the run ends.
        seed: of all random numbers.
        augment: how views of a picture are made.
        loss: weights of the loss terms. The released recipe counts a match ten times; with ten pictures several
            queries then claim the same object, so it counts twice here (measured with the tiny model).
    """

    steps: int = 200
    rate: float | None = None
    images: int = 6
    images_at_once: int | None = None
    recompute: bool = False
    phrases: int = 4
    absent_share: float = 0.5
    exemplar_share: float = 0.3
    replay_images: int = 2
    replay_weight: float = 1.0
    views: int = 12
    cache_gb: float = 4.0
    warmup: int = 10
    weight_decay: float = 0.01
    one_to_many: bool = False
    checkpoint_every: int = 25
    validate_every: int = 25
    patience: int = 4
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossWeights = field(
        default_factory=lambda: LossWeights(classification=40.0, positive=2.0, mask=40.0, dice=12.0)
    )

    def __post_init__(self) -> None:
        counts = ("steps", "images", "phrases", "views", "warmup", "checkpoint_every", "validate_every", "patience")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"received {name}={getattr(self, name)}; expected at least 1")
        if self.images_at_once is not None and self.images_at_once < 1:
            raise ValueError(f"received images_at_once={self.images_at_once}; expected at least 1")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"received rate={self.rate}; expected a positive learning rate")
        if not self.cache_gb >= 0:
            raise ValueError(f"received cache_gb={self.cache_gb}; expected gigabytes, 0 keeps no features")
        if self.replay_images < 0:
            raise ValueError(f"received replay_images={self.replay_images}; expected a number of scenes, 0 for none")
        if not (math.isfinite(self.replay_weight) and self.replay_weight >= 0):
            raise ValueError(f"received replay_weight={self.replay_weight}; expected a number from 0 up")
        for name in ("absent_share", "exemplar_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"received {name}={getattr(self, name)}; expected a share from 0 to 1")


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended.

    Attributes:
        steps: done, which may be fewer than asked for when held-out pictures stopped improving.
        seconds: spent training.
        best_step: whose adapter is kept as `adapter_best`: the one with the best cgF1 on held-out pictures, or without
            such pictures the one with the lowest loss.
        best_value: that cgF1 or that loss, the latter a mean over ten steps.
        rollbacks: how often the run went back to its last state because a loss was not finite.
        was_resumed: it went on from a state on disk.
    """

    steps: int
    seconds: float
    best_step: int
    best_value: float
    rollbacks: int
    was_resumed: bool


def finetune(
    model: Sam3,
    adapter: Adapter,
    examples: ExampleSet,
    out: str | Path,
    config: FinetuneConfig | None = None,
    *,
    held_out: ExampleSet | None = None,
    replay: ExampleSet | None = None,
    progress: bool = True,
    on_scene: Callable[[], None] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> FinetuneResult:
    """Trains the adapter on a few labelled pictures.

    Args:
        model: carries the adapter.
        adapter: from `add_adapter`; afterwards it holds the weights of the last step, or with `held_out` the best ones.
        examples: pictures to learn from; unknown pairs are never used.
        out: folder for `adapter` (after the last step), `adapter_best`, `log.jsonl` and `state.pt`. A state of the same
            settings found there is continued.
        config: settings.
        held_out: pictures to measure on now and then; the run ends early when they stop improving.
        replay: scenes that the base model is asked about before, and again in every step (see `workbench.replay`).
        progress: show a bar.
        on_scene: called before each scene is asked about; may raise `Stopped`.
        on_step: called with every log line; may raise `Stopped`.

    Raises:
        ValueError: no picture with a positive phrase, or the folder holds a run with other settings.
        FloatingPointError: the loss or its gradient was not finite again and again; the last good state is kept.
        KeyboardInterrupt, Stopped: the steps done are kept.
    """
    config = config or FinetuneConfig()
    if not any(concept.status == "positive" for _, concept in examples.pairs()):
        raise ValueError(
            f"{examples.name!r} shows no object at all; label at least one object of one phrase before training"
        )
    examples = examples.subset(dict.fromkeys(example.image_id for example, _ in examples.pairs()), examples.name)
    is_replayed = config.replay_images and config.replay_weight
    scenes = [example for example in replay or () if is_replayed and example.concepts]
    pool = ViewPool(model, examples.examples, config, is_frozen=adapter.plan.freezes_image_encoder, replay=scenes)
    optimiser = torch.optim.AdamW(adapter.parameters.values(), weight_decay=config.weight_decay)
    processes = Processes.found()
    description = describe_run(adapter, examples, config, held_out, scenes)
    run = RunState(Path(out), adapter, optimiser, description, processes.is_first)
    run.resume()
    if run.step == 0:
        run.save()
    known = Replay(pool)
    if run.step < config.steps and not run.is_stale(config.patience):
        known.remember(model, adapter, progress=progress and processes.is_first, on_scene=on_scene)
    was_resumed, start, peak = run.step > 0, time.perf_counter(), config.rate or adapter.plan.kind.rate
    bar = tqdm(
        total=config.steps,
        initial=run.step,
        desc="adapting",
        unit="step",
        disable=not (progress and processes.is_first),
    )
    try:
        while run.step < config.steps and not run.is_stale(config.patience):
            for group in optimiser.param_groups:
                group["lr"] = peak * run.caution * rate_factor(run.step, config.steps, config.warmup)
            try:
                losses = _gradients(model, adapter, pool, known, config, run.step, processes)
            except FloatingPointError as error:
                bar.write(f"step {run.step + 1}: {error}; {run.roll_back()}")
                bar.n = run.step
                continue
            run.finish_step(losses, time.perf_counter() - start)
            if held_out is not None and (run.step % config.validate_every == 0 or run.step == config.steps):
                records = evaluate(model, held_out, model_name="held out", progress=False).records
                run.note_validation(metrics_of(records)["cgF1"])
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.2f}", refresh=False)
            if on_step is not None:
                on_step(run.lines[-1])
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                run.save()
        if held_out is not None:
            adapter.restore(run.best)
            run.save()
    except (KeyboardInterrupt, Stopped, FloatingPointError):
        run.save()
        raise
    finally:
        bar.close()
        model.eval()
        model.recompute(False)
    return FinetuneResult(run.step, run.seconds, run.best_step, run.best_value, run.rollbacks, was_resumed)


def _gradients(
    model: Sam3,
    adapter: Adapter,
    pool: ViewPool,
    known: Replay,
    config: FinetuneConfig,
    step: int,
    processes: Processes,
) -> dict[str, float]:
    """Leaves the clipped gradients of one step in the adapter and returns what the log says about it.

    The pictures are worked off a few at a time and, under `torchrun`, by several processes; every part is weighed by
    the numbers of the whole step, so that the sum is what all pictures together would have given.
    """
    rng = np.random.default_rng([config.seed, 1, step])
    torch.manual_seed(int(rng.integers(2**31)))  # dropout
    to_training(model, adapter, config)
    keys, asked = ask(pool, config, rng, step)
    again = known.choose(config.replay_images, config.phrases, rng)
    whole = BatchSize(sum(len(a.concept.boxes_xyxy) for a in asked), len(asked))
    for parameter in adapter.parameters.values():
        parameter.grad = None
    values = {"loss": 0.0} | {f.name: 0.0 for f in fields(Losses) if getattr(config.loss, f.name, 0)}
    at_once, mine = (
        config.images_at_once or len(keys),
        sorted({a.view for a in asked})[processes.rank :: processes.count],
    )
    for start in range(0, len(mine), at_once):
        for name, value in run_part(model, pool, config, keys, asked, mine[start : start + at_once], whole).items():
            values[name] += value
    values |= {"replay": 0.0} if again else {}
    model.eval()  # the answers were given without dropout
    num_pairs, repeated = sum(len(scene.phrases) for scene in again), again[processes.rank :: processes.count]
    for start in range(0, len(repeated), at_once):
        loss = config.replay_weight * known.loss(model, repeated[start : start + at_once], num_pairs)
        loss.backward()
        values["replay"] += float(loss.detach())
    values["loss"] += values.get("replay", 0.0)
    values = processes.add_up(adapter, values)
    norm = torch.nn.utils.clip_grad_norm_(adapter.parameters.values(), 1.0)
    if not (torch.isfinite(norm) and math.isfinite(values["loss"])):
        raise FloatingPointError("the loss or its gradient is not finite")
    num_present = sum(a.concept.is_present for a in asked)
    return {**values, "gradient": float(norm), "present": num_present, "absent": len(asked) - num_present}


def to_training(model: Sam3, adapter: Adapter, config: FinetuneConfig) -> None:
    """Training mode, as far as it suits an adaptation."""
    model.train()
    model.recompute(config.recompute)
    if adapter.plan.freezes_image_encoder:
        model.image_encoder.eval()  # kept features must not carry the noise of one step
    for module in model.modules():
        if isinstance(module, Attention):
            # Dropping attention weights needs all of them in memory at once: at the released size gigabytes per phrase.
            module.eval()


def run_part(
    model: Sam3,
    pool: ViewPool,
    config: FinetuneConfig,
    keys: list[Key],
    asked: list[Asked],
    rows: Sequence[int],
    whole: BatchSize,
) -> dict[str, float]:
    """Adds the gradients of some pictures of a step and returns their losses."""
    mine = [a for row in rows for a in asked if a.view == row]
    prompts: list[list[Prompt]] = [[a.prompt for a in mine if a.view == row] for row in rows]
    # Only what is there has masks to learn from.
    present = torch.tensor([pair for pair, a in enumerate(mine) if a.concept.is_present], dtype=torch.long)
    with mixed_precision(model):
        output = model.detect(
            pool.features([keys[row] for row in rows]),
            prompts,
            with_masks=len(present) > 0,
            mask_pairs=present.to(model.device),
            one_to_many=config.one_to_many,
        )
        targets = targets_of(mine, pool.mask_size, model.device)
        losses = criterion(output, targets, config.loss, whole=whole)
    losses.total.backward()
    values = losses.to_floats()
    return {"loss": values.pop("total"), **{name: v for name, v in values.items() if getattr(config.loss, name, 0)}}


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1))))


def describe_run(
    adapter: Adapter,
    examples: ExampleSet,
    config: FinetuneConfig,
    held_out: ExampleSet | None = None,
    replay: Sequence[Example] = (),
) -> dict[str, Any]:
    """What must be equal for a run to be continued."""
    return {
        "config": asdict(config),
        "plan": asdict(adapter.plan),
        "phrases": list(adapter.phrases),
        "base": adapter.base,
        "pictures": {e.image_id: e.digest() for e in examples},
        "held out": {e.image_id: e.digest() for e in held_out or ()},
        "replay": [e.digest() for e in replay],
    }
