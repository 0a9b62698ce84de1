"""The recipe of the tracker: stages with their windows and rates, and where in them a step is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from workbench.pretrain.tracking_losses import Hinting

_PYRAMID_RATE = 0.2  # of that of all else: it begins with what the detector has learnt
_PASSAGE_RATE = 0.2  # of that of memory, for norms, and for the layer that all that is remembered leaves by


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        steps: optimiser steps.
        windows: windows per step. frames: of each. objects: at most so many of each.
        learnt: see `window_loss`.
        with_pyramid: the feature pyramid learns, too.
        with_gaps, with_return: shares of windows, see `draw_window`.
        cycle: stages of one cycle share a rise and a fall of the rate. A later one goes on from the averaged weights.
        starts_memory: from the averaged weights on, memory is set to comparing looks, see `start_matching`.
        memory_rate: of memory attention and memory encoder, as a share of that of all else. Below 1, what compares
            looks stays as it is: at the full rate it is lost within some hundred steps, and with it what was hidden.
    """

    steps: int
    windows: int
    frames: int
    objects: int
    learnt: float = 1.0
    with_pyramid: bool = False
    with_gaps: float = 0.0
    with_return: float = 0.0
    cycle: int = 0
    starts_memory: bool = False
    memory_rate: float = 1.0

    def __post_init__(self) -> None:
        if min(self.steps, self.windows, self.frames, self.objects) < 1:
            raise ValueError(f"received {self}; expected at least one step, window, frame and object")
        for name in ("learnt", "with_gaps", "with_return", "memory_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"received {name}={getattr(self, name)} of a stage; expected a share from 0 to 1")


@dataclass(frozen=True)
class Position:
    """Where in the training a step is.

    Attributes:
        stage: of the step. begins_stage, begins_cycle: it is the first one.
        step: in its cycle, from 0.
        frames_seen: before it in its cycle. frames: of the cycle.
    """

    stage: Stage
    begins_stage: bool
    begins_cycle: bool
    step: int
    frames_seen: int
    frames: int


_FOLLOWING = Stage(700, windows=4, frames=6, objects=3, learnt=0.7, with_pyramid=True, with_gaps=0.7, with_return=0.5)


@dataclass(frozen=True)
class TrackingConfig:
    """The recipe of the tracker.

    Attributes:
        seed: of all random numbers.
        clips: rendered clips. clip_frames: frames of each.
        stages: pictures alone; then pairs of frames of any distance, in which objects are found again by their looks;
            then longer windows with objects that hide and come back. By then the decoder knows what to look for, and
            memory has forgotten how to compare: it begins anew, and stays or changes slowly while the rest learns.
        rate, later_rate: peaks of the first cycle and of all others; it falls with the frames seen.
        warmup: frames at the beginning of a cycle in which the rate rises.
        ema: decay of the averaged weights, which are what is saved; faster at the beginning of a cycle.
        weight_decay: of matrices. checkpoint_every: steps between states on disk.
        hinting: how objects are shown.
    """

    seed: int = 0
    clips: int = 1200
    clip_frames: int = 24
    stages: tuple[Stage, ...] = (
        Stage(steps=1200, windows=4, frames=1, objects=4),
        Stage(steps=400, windows=8, frames=2, objects=3, with_pyramid=True, with_gaps=1.0, starts_memory=True),
        _FOLLOWING,
        replace(_FOLLOWING, steps=600, cycle=1, starts_memory=True, memory_rate=0.0),
        replace(_FOLLOWING, steps=1000, cycle=2, memory_rate=0.1),
        replace(_FOLLOWING, steps=1300, frames=8, with_gaps=0.6, cycle=3, memory_rate=0.1),
    )
    rate: float = 1.5e-3
    later_rate: float = 7.5e-4
    weight_decay: float = 0.02
    warmup: int = 100
    ema: float = 0.998
    checkpoint_every: int = 50
    hinting: Hinting = field(default_factory=Hinting)

    def __post_init__(self) -> None:
        cycles = [stage.cycle for stage in self.stages]
        if not cycles or cycles != sorted(cycles):
            raise ValueError(f"received stages of the cycles {cycles}; expected at least one, and none that goes back")

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def last_stage(self) -> TrackingConfig:
        """What a tracker that can follow already is taught further."""
        return replace(self, stages=self.stages[-1:])

    def shortened(self, steps: int) -> TrackingConfig:
        """The same with about so many steps in all stages together, one in each at least."""
        stages = (replace(s, steps=max(1, round(s.steps * steps / self.steps))) for s in self.stages)
        return replace(self, stages=tuple(stages))

    def at(self, step: int) -> Position:
        """Where a step is, counted from 0."""
        left = step
        for index, stage in enumerate(self.stages):
            if left < stage.steps:
                before = [one for one in self.stages[:index] if one.cycle == stage.cycle]
                return Position(
                    stage,
                    begins_stage=left == 0,
                    begins_cycle=left == 0 and not before,
                    step=sum(one.steps for one in before) + left,
                    frames_seen=sum(map(_num_frames, before)) + left * stage.windows * stage.frames,
                    frames=sum(_num_frames(one) for one in self.stages if one.cycle == stage.cycle),
                )
            left -= stage.steps
        raise IndexError(f"the stages have {self.steps} steps")


def _num_frames(stage: Stage) -> int:
    return stage.steps * stage.windows * stage.frames


def rate_shares(stage: Stage) -> dict[str, float]:
    """The share of the rate at which each part of pyramid and tracker learns in a stage.

    Returns:
        "looks": the map that is compared. "pyramid": the finer ones. "comparison": what turns it into queries and keys
        of memory attention. "passage": the norms of memory attention and memory encoder, and the latter's last layer.
        "memory": the rest of both. "rest": of the tracker, codes of age and object pointers with it.
    """
    pyramid, memory = _PYRAMID_RATE * stage.with_pyramid, stage.memory_rate
    if memory == 1:
        looks, comparison, passage = pyramid, 1.0, 1.0
    else:
        looks, comparison, passage = 0.0, 0.0, _PASSAGE_RATE * memory
    return {
        "looks": looks,
        "pyramid": pyramid,
        "comparison": comparison,
        "passage": passage,
        "memory": memory,
        "rest": 1.0,
    }
