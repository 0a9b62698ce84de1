"""What an adaptation will cost, told before it starts: numbers trained, time and memory.

A few trial steps on pictures of the real set tell what a picture, a question and a mask cost; the rest is
multiplication. Nothing in the model is changed by them.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import psutil
import torch
from scipy.optimize import nnls

from sam3.detector.criterion import BatchSize
from sam3.model import Sam3
from workbench.adapter_files import probe
from workbench.adapters import Adapter, Plan, add_adapter, remove_adapter
from workbench.augment import View
from workbench.batches import Asked, ViewPool, ask, bytes_per_view
from workbench.examples import Example, ExampleSet
from workbench.finetune import FinetuneConfig, run_part, to_training

_GB = 1e9
_LOOK_AT = 16  # pictures whose questions are counted
_TRIAL_SECONDS = 1.0  # short trial steps are repeated for so long
_LONGEST_TRIAL = 10.0  # seconds; a step that would take more is reckoned from smaller ones


@dataclass(frozen=True)
class Cost:
    """What one run costs.

    Attributes:
        plan: its name.
        trainable: numbers that are trained.
        seconds_per_step: once features are kept.
        seconds: of the whole run, with the time to compute the features; measuring before and after comes on top.
        peak_bytes: of memory: the process as it is, kept features, and what a step or saving adds.
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


@dataclass(frozen=True)
class _Work:
    """What a step does: so many pictures, questions, and among these such about something present, which need masks."""

    pictures: float
    questions: float
    present: float

    def times(self, number: float) -> _Work:
        return _Work(number * self.pictures, number * self.questions, number * self.present)


@dataclass(frozen=True)
class _Step:
    """A trial step: its time, and the most memory in use during it."""

    work: _Work
    seconds: float
    peak: int


@dataclass(frozen=True)
class _Trial:
    """What was tried.

    Attributes:
        steps: small ones that differ in pictures, questions and how many of them are present, and perhaps a real one.
        pictures: what each of some pictures takes.
        view_seconds: to make a view and, where features are kept, to encode it.
        save_seconds: to write the last and the best adapter, with what they answer to their test picture.
        view_bytes: of a view's pixels and masks.
        idle: memory in use between steps.
    """

    steps: tuple[_Step, ...]
    pictures: tuple[_Work, ...]
    view_seconds: float
    save_seconds: float
    view_bytes: int
    idle: int

    @property
    def mean_picture(self) -> _Work:
        return _Work(1, *(float(np.mean([getattr(w, n) for w in self.pictures])) for n in ("questions", "present")))

    def seconds(self, work: _Work) -> float:
        """Time of so much work; 0 for none."""
        return self._predicted([step.seconds for step in self.steps], work) if work.questions else 0.0

    def peak(self, num_images: int) -> float:
        """The most memory in use during a step with so many pictures, among some hundred such steps."""
        rng, peaks = np.random.default_rng(0), [step.peak for step in self.steps]
        drawn = rng.integers(len(self.pictures), size=(200, num_images))
        works = {
            _Work(
                num_images,
                sum(self.pictures[index].questions for index in row),
                sum(self.pictures[index].present for index in row),
            )
            for row in drawn.tolist()
        }
        return max(self._predicted(peaks, work) for work in works)

    def _predicted(self, values: Sequence[float], work: _Work) -> float:
        """What the values of the trial steps say about other work: a sum of shares, none of them negative."""
        shares, _ = nnls(np.array([_row(step.work) for step in self.steps]), np.array(values, float))
        return float(shares @ _row(work))


def _row(work: _Work) -> tuple[float, ...]:
    return 1.0, work.pictures, work.questions, work.present


def estimate(
    model: Sam3, plan: Plan, examples: ExampleSet, config: FinetuneConfig, replay: Sequence[Example] = ()
) -> Cost:
    """The cost of `finetune` with these arguments, from trial steps. The model is afterwards as it was.

    Raises:
        ValueError: no picture has a phrase whose answer is known.
    """
    phrases = tuple(dict.fromkeys(c.phrase for _, c in examples.pairs() if c.status == "positive"))
    if not phrases:
        raise ValueError(f"{examples.name!r} shows no object at all; label at least one object of one phrase")
    on_gpu, resident = model.device.type == "cuda", _memory(model)
    room = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    random_state, was_training = torch.get_rng_state(), model.training
    adapter = add_adapter(model, plan, phrases)
    try:
        replay = replay if config.replay_images and config.replay_weight else ()
        pool = ViewPool(model, examples.examples, config, is_frozen=plan.freezes_image_encoder, replay=replay)
        trial = _try(model, adapter, pool, config, room + resident)
        trainable = adapter.num_trainable
    finally:
        remove_adapter(adapter)
        torch.set_rng_state(random_state)
        model.train(was_training)
        model.recompute(False)
    images, num_scenes = min(config.images, pool.num_learn), len(pool.examples) - pool.num_learn
    scenes, all_phrases = min(config.replay_images, num_scenes), max((len(e.concepts) for e in replay), default=0)
    replayed = _Work(1, config.phrases, config.phrases / 2)  # of a scene; about half of what is asked is there
    at_once = min(config.images_at_once or images, images)
    num_views = _distinct_views(pool, config)
    cache = int(num_views * bytes_per_view(model)) if pool.keeps_features else 0
    kept = cache + (0 if on_gpu else int(num_views * trial.view_bytes))
    per_step = -(-images // at_once) * trial.seconds(trial.mean_picture.times(at_once))
    per_step += trial.seconds(replayed.times(scenes))
    # In a step the best state is there too; while saving, the last one, and what is written: both of them and the two
    # moments of AdamW.
    state = 0 if on_gpu else trainable * 4
    return Cost(
        plan=plan.name,
        trainable=trainable,
        seconds_per_step=per_step,
        seconds=config.steps * per_step
        + num_views * trial.view_seconds
        + num_scenes * trial.seconds(_Work(1, all_phrases, all_phrases / 2)) / 3  # asked once, without gradients
        + math.ceil(config.steps / config.checkpoint_every) * trial.save_seconds,
        peak_bytes=kept + int(max(trial.peak(at_once) + state, trial.idle + 6 * state)),
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
    if not config.recompute:
        advice.append("train.recompute=true (the same result, slower)")
    advice.append("plan.name=tokens (the least memory)")
    raise ValueError(
        f"the run needs about {cost.peak_bytes / _GB:.1f} GB of memory and {cost.free_bytes / _GB:.1f} GB are there; "
        f"try {', or '.join(advice)}"
    )


def _distinct_views(pool: ViewPool, config: FinetuneConfig) -> float:
    """How many different views the steps are going to draw; every replayed scene is looked at."""
    number, per_step = pool.num_learn * pool.num_views, min(config.images, pool.num_learn)
    learnt = number * (1 - (1 - min(per_step / number, 1.0)) ** config.steps)
    return learnt + len(pool.examples) - pool.num_learn


def _try(model: Sam3, adapter: Adapter, pool: ViewPool, config: FinetuneConfig, room: int) -> _Trial:
    start = time.perf_counter()
    several = replace(config, images=min(pool.num_learn, _LOOK_AT), replay_images=0)
    keys, asked = ask(pool, several, np.random.default_rng(0), 0)
    view_seconds = (time.perf_counter() - start) / len(keys)
    view_bytes = sum(_bytes_of(pool.view(*key)) for key in keys) // len(keys)
    of_picture = [[a for a in asked if a.view == row] for row in range(len(keys))]
    to_training(model, adapter, config)
    # A rate of zero: everything is computed and kept as in a real step, and nothing moves.
    optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=0.0)

    def step(chosen: list[Asked]) -> None:
        whole = BatchSize(sum(len(a.concept.boxes_xyxy) for a in chosen), len(chosen))
        run_part(model, pool, config, keys, chosen, sorted({a.view for a in chosen}), whole)
        optimiser.step()
        optimiser.zero_grad()

    def tried(chosen: list[Asked]) -> _Step:
        views = sorted({a.view for a in chosen})
        if pool.keeps_features:
            pool.features([keys[view] for view in views])
        return _try_step(model, partial(step, chosen), _work_of(chosen))

    gc.collect()
    start = time.perf_counter()
    by_present = sorted(range(len(keys)), key=lambda row: -_work_of(of_picture[row]).present)
    shows, other = by_present[0], by_present[min(1, len(keys) - 1)]
    if pool.keeps_features:
        pool.features([keys[shows]])
        start = time.perf_counter()  # the second time, when nothing is new any more, is the one that counts
        pool.features([keys[other]])
    encoding = time.perf_counter() - start
    present = [a for a in of_picture[shows] if a.concept.is_present]
    absent = [a for a in of_picture[shows] if not a.concept.is_present]
    parts = [absent[:1], present[:1], of_picture[shows], of_picture[shows] + of_picture[other]]
    steps = [tried(part) for part in parts if part]
    idle = _memory(model)
    start = time.perf_counter()
    probe(model, adapter.phrases)  # what takes time in saving an adapter, of which there are two
    save_seconds = 2 * (time.perf_counter() - start)
    trial = _Trial(
        steps=tuple(steps),
        pictures=tuple(_work_of(part) for part in of_picture),
        view_seconds=view_seconds + encoding,
        save_seconds=save_seconds,
        view_bytes=view_bytes,
        idle=idle,
    )
    usual = [a for a in asked if a.view < (config.images_at_once or config.images)]
    if trial.seconds(_work_of(usual)) <= _LONGEST_TRIAL and trial.peak(int(_work_of(usual).pictures)) <= room:
        trial = replace(trial, steps=(*steps, tried(usual)))
    return trial


def _work_of(asked: Sequence[Asked]) -> _Work:
    return _Work(len({a.view for a in asked}), len(asked), sum(a.concept.is_present for a in asked))


def _try_step(model: Sam3, step: Callable[[], None], work: _Work) -> _Step:
    """The step's memory the first time; its mean time from then on, unless once is long enough."""
    _trim()
    start = time.perf_counter()
    with _watched_memory(model) as peak:
        step()
    seconds = [time.perf_counter() - start]
    if seconds[0] < _TRIAL_SECONDS:
        seconds.clear()
    while sum(seconds) < _TRIAL_SECONDS and len(seconds) < 3:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return _Step(work, sum(seconds) / len(seconds), peak())


@contextmanager
def _watched_memory(model: Sam3) -> Iterator[Callable[[], int]]:
    """Yields a function that says, afterwards, what was the most memory in use within the context."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        yield lambda: torch.cuda.max_memory_allocated(model.device)
        return
    process, is_over = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not is_over.wait(0.002):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        is_over.set()
        watcher.join()


def _memory(model: Sam3) -> int:
    on_gpu = model.device.type == "cuda"
    return torch.cuda.memory_allocated(model.device) if on_gpu else psutil.Process().memory_info().rss


def _trim() -> None:
    """Gives freed memory back to the system where the C library keeps it (glibc), so that it is not counted."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _bytes_of(view: View) -> int:
    return int(view.pixels.nbytes + sum(concept.masks.nbytes for concept in view.concepts))
