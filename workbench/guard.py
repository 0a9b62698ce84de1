"""The forgetting guard: what the model knew before is measured before and after, and shown again during training.

A tuned model that fires on every phrase, or has lost its other words, looks fine on its own ten pictures. So a
retention set of general phrases, true and absent, is asked of the model without and with the adapter; and other such
scenes are asked again while the adapter learns (`workbench.replay`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from workbench.adapters import Adapter, Plan
from workbench.domains import shapes
from workbench.evaluate import Evaluation, evaluate
from workbench.examples import ExampleSet

_RETENTION_SEED, _REPLAY_SEED = 770_001, 770_002


@dataclass(frozen=True)
class GuardConfig:
    """How closely forgetting is watched.

    Attributes:
        scenes: rendered scenes of the retention set, eight phrases each; 0 switches the guard off.
        replay: rendered scenes that are asked again during training (see `workbench.replay`); 0 for none.
        max_cgf1_loss: the run is flagged when cgF1 on the retention set (0..1) falls by more.
        max_refusal_loss: the run is flagged when the share of absent phrases that are refused (0..1) falls by more.
    """

    scenes: int = 16
    replay: int = 24
    max_cgf1_loss: float = 0.05
    max_refusal_loss: float = 0.05

    def __post_init__(self) -> None:
        for name in ("scenes", "replay"):
            if getattr(self, name) < 0:
                raise ValueError(f"received {name}={getattr(self, name)}; expected a number of scenes, 0 for none")
        for name in ("max_cgf1_loss", "max_refusal_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"received {name}={getattr(self, name)}; expected a fraction from 0 to 1")


@dataclass(frozen=True)
class Retention:
    """What is left of what the model knew.

    Attributes:
        data: name of the retention set; pairs: how many (image, phrase) pairs it asks.
        cgf1_before, cgf1_after: fractions.
        refusal_before, refusal_after: shares of absent phrases that are answered with nothing.
        max_cgf1_loss, max_refusal_loss: limits.

    Example:
        >>> retention = Retention("scenes", 8, 0.50, 0.41, 0.9, 0.9, 0.05, 0.05)
        >>> retention.complaints
        ('cgF1 on scenes fell from 0.500 to 0.410, more than the 0.050 allowed',)
    """

    data: str
    pairs: int
    cgf1_before: float
    cgf1_after: float
    refusal_before: float
    refusal_after: float
    max_cgf1_loss: float
    max_refusal_loss: float

    @property
    def complaints(self) -> tuple[str, ...]:
        """One sentence for each limit that was passed."""
        return tuple(
            f"{name} on {self.data} fell from {before:.3f} to {after:.3f}, more than the {limit:.3f} allowed"
            for name, before, after, limit in (
                ("cgF1", self.cgf1_before, self.cgf1_after, self.max_cgf1_loss),
                ("refusal", self.refusal_before, self.refusal_after, self.max_refusal_loss),
            )
            if before - after > limit
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the complaints."""
        return {**asdict(self), "complaints": list(self.complaints)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Retention:
        """Inverse of `to_dict`."""
        return cls(**{name: value for name, value in content.items() if name != "complaints"})


def retention_set(num_scenes: int) -> ExampleSet:
    """Rendered scenes with general phrases: kinds, colours, textures, sizes, half of them absent, most look-alikes."""
    return replace(shapes.held_out_set(num_scenes, _RETENTION_SEED), name="rendered scenes")


def measure_retention(
    adapter: Adapter,
    examples: ExampleSet,
    config: GuardConfig,
    *,
    progress: bool = True,
    on_picture: Callable[[], None] | None = None,
) -> Retention:
    """Asks the retention set of the model without and with the adapter."""
    with adapter.disabled():
        before = evaluate(
            adapter.model, examples, model_name="without adapter", progress=progress, on_picture=on_picture
        )
    after = evaluate(adapter.model, examples, model_name="with adapter", progress=progress, on_picture=on_picture)
    return retention(before, after, config)


def retention(before: Evaluation, after: Evaluation, config: GuardConfig) -> Retention:
    """Compares two evaluations of the same retention set."""
    return Retention(
        data=before.data,
        pairs=len(before.records),
        cgf1_before=before.metrics["cgF1"],
        cgf1_after=after.metrics["cgF1"],
        refusal_before=1 - before.metrics["IL_FPR"],
        refusal_after=1 - after.metrics["IL_FPR"],
        max_cgf1_loss=config.max_cgf1_loss,
        max_refusal_loss=config.max_refusal_loss,
    )


def replay_set(num_scenes: int, plan: Plan) -> ExampleSet:
    """Rendered scenes of the same kind, others than those of the retention set, to be asked again during training.

    None for learnt words, which change nothing but their own phrases.
    """
    num_scenes = 0 if plan.name == "tokens" else num_scenes
    return replace(shapes.held_out_set(num_scenes, _REPLAY_SEED), name="replayed scenes")
