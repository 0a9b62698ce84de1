"""What an adaptation will cost, told before it starts: numbers trained, time and memory.

Two trial steps on one and two pictures of the real set give the time and the memory of a picture; the rest is
multiplication. Nothing in the model is changed by them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from sam3.detector.criterion import BatchSize
from sam3.model import Sam3
from workbench.adapters import Plan, add_adapter, remove_adapter
from workbench.batches import ViewPool, ask, bytes_per_view
from workbench.examples import Example, ExampleSet
from workbench.finetune import FinetuneConfig, run_part

_GB = 1e9


@dataclass(frozen=True)
class Cost:
    """What one run costs.

    Attributes:
        plan: its name.
        trainable: numbers that are trained.
        seconds_per_step: once features are kept.
        seconds: of the whole run, with the time to compute the features; measuring before and after comes on top.
        peak_bytes: of memory: the process as it is, kept features, and what a step adds.
        cache_bytes: kept features, part of the peak.
        free_bytes: of memory at present, which the peak must not exceed.
    """

    plan: str
    trainable: int
    seconds_per_step: float
    seconds: float
    peak_bytes: int
    cache_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    def __str__(self) -> str:
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        return (
            f"{self.plan}: {self.trainable:,} numbers, {self.seconds_per_step:.2f} s per step, {minutes} in all, "
            f"{self.peak_bytes / _GB:.1f} GB of memory ({self.cache_bytes / _GB:.1f} GB of it kept features)"
        )


def estimate(
    model: Sam3, plan: Plan, examples: ExampleSet, config: FinetuneConfig, replay: Sequence[Example] = ()
) -> Cost:
    """The cost of `finetune` with these arguments, from two trial steps. The model is afterwards as it was.

    Raises:
        ValueError: no picture has a phrase whose answer is known.
    """
    phrases = tuple(dict.fromkeys(c.phrase for _, c in examples.pairs() if c.status == "positive"))
    if not phrases:
        raise ValueError(f"{examples.name!r} shows no object at all; label at least one object of one phrase")
    random_state, was_training = torch.get_rng_state(), model.training
    adapter = add_adapter(model, plan, phrases)
    try:
        pool = ViewPool(model, examples.examples, config, is_frozen=plan.freezes_image_encoder, replay=replay)
        encoding, one, two = _trial(model, pool, config)
        trainable = adapter.num_trainable
    finally:
        remove_adapter(adapter)
        torch.set_rng_state(random_state)
        model.train(was_training)
    images = min(config.images, pool.num_learn) + (config.replay_images if replay else 0)
    at_once = min(config.images_at_once or images, images)
    parts = -(-images // at_once)
    per_step = parts * _extrapolated(one[0], two[0], at_once)
    num_views = min(config.steps * images, pool.num_learn * pool.num_views + len(replay)) if pool.keeps_features else 0
    cache = num_views * bytes_per_view(model)
    on_gpu = model.device.type == "cuda"
    resident = torch.cuda.memory_allocated(model.device) if on_gpu else psutil.Process().memory_info().rss
    room = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    # Gradients, two moments of AdamW, and the copies of the best and the last state.
    training = trainable * 4 * (3 + (0 if on_gpu else 2)) + int(_extrapolated(one[1], two[1], at_once))
    return Cost(
        plan=plan.name,
        trainable=trainable,
        seconds_per_step=per_step,
        seconds=config.steps * per_step + num_views * encoding,
        peak_bytes=resident + cache + training,
        cache_bytes=cache,
        free_bytes=room + resident,
    )


def check(cost: Cost, config: FinetuneConfig) -> None:
    """Raises ValueError with advice when the run cannot fit into memory."""
    if cost.fits:
        return
    advice = []
    if cost.cache_bytes > cost.peak_bytes / 4:
        advice.append(f"train.cache_gb={max(0.0, config.cache_gb / 4):g} (fewer kept views)")
    if (config.images_at_once or config.images) > 1:
        advice.append("train.images_at_once=1 (the same result, slower)")
    advice.append("plan.name=tokens (the least memory)")
    raise ValueError(
        f"the run needs about {cost.peak_bytes / _GB:.1f} GB of memory and {cost.free_bytes / _GB:.1f} GB are there; "
        f"try {', or '.join(advice)}"
    )


def _trial(
    model: Sam3, pool: ViewPool, config: FinetuneConfig
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Seconds to encode a view, and seconds and bytes of a step with one and with two pictures."""
    start = time.perf_counter()
    with torch.no_grad():
        pool.features([(0, 0)])
    encoding = time.perf_counter() - start
    model.train()
    model.image_encoder.train(not pool.keeps_features)
    results = []
    for count in (1, 2):
        settings = replace(config, images=min(count, pool.num_learn), replay_images=0)
        for _ in range(2):  # the first run warms up and keeps the features
            results.append(_measured(model, pool, settings))
    return encoding, results[1], results[3]


def _measured(model: Sam3, pool: ViewPool, config: FinetuneConfig) -> tuple[float, float]:
    keys, asked = ask(pool, config, np.random.default_rng(0), 0)
    whole = BatchSize(sum(len(a.concept.boxes_xyxy) for a in asked), len(asked))
    known = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_part(model, pool, config, keys, asked, range(len(keys)), whole)
    seconds = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.grad = None
    return seconds, float(sum(kept.values()))


def _extrapolated(one: float, two: float, count: int) -> float:
    return one + (two - one) * (count - 1)
