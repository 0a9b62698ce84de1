"""The metrics that two models are compared by on videos, as sums over clips that can be weighted: a bootstrap need not
measure again.

`VideoPairStatistics` of one model come in, with what every clip cost; name -> values go out, for every resample of the
clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.pair_metrics import Tally, rates
from workbench.video_metrics import VideoPairStatistics


@dataclass(frozen=True)
class VideoMetric:
    """How a metric is read: what it means, what it is multiplied by to be shown, its unit, and which way is better."""

    meaning: str
    scale: float = 100.0
    digits: int = 1
    lower_is_better: bool = False

    def text(self, value: float, *, has_sign: bool = False) -> str:
        """The value as it is shown; a dash where it is undefined.

        Example:
            >>> VIDEO_METRICS["pHOTA"].text(0.4567), VIDEO_METRICS["seconds_per_frame"].text(0.1, has_sign=True)
            ('45.7', '+0.100')
        """
        sign = "+" if has_sign else ""
        return f"{self.scale * value + 0.0:{sign}.{self.digits}f}" if np.isfinite(value) else "\u2013"


VIDEO_METRICS = {
    "cgF1": VideoMetric("overall: whole masklets where the phrase is there (pmF1) times the right decision (IL_MCC)"),
    "pmF1": VideoMetric("whole masklets found, counted only where the phrase is in the clip"),
    "IL_MCC": VideoMetric("is the phrase in the clip at all? 100: always right, 0: guessing"),
    "IL_FPR": VideoMetric("absent phrases that were claimed all the same; lower is better", lower_is_better=True),
    "pHOTA": VideoMetric("objects found and kept apart, frame by frame and phrase by phrase"),
    "pDetA": VideoMetric("the part of it that finding makes up"),
    "pAssA": VideoMetric("the part of it that keeping to the same object makes up"),
    "J&F": VideoMetric("overlap of masks and of their outlines, mean over the labelled objects"),
    "TETA": VideoMetric("finding, keeping apart and naming, one third each; without interval"),
    "id_switches": VideoMetric("times that an object goes over to another masklet; lower is better", 1, 0, True),
    "id_survival": VideoMetric(
        "same masklet as before an absence of eight frames or more, of those found on both sides"
    ),
    "seconds_per_frame": VideoMetric("time for all phrases of a clip, reading included; lower is better", 1, 3, True),
}


@dataclass(frozen=True, eq=False)
class VideoStatistics:
    """Everything the metrics need, in a form that can be resampled.

    Args:
        pairs: of all clips.
        clip_of_pair: (P,) number of the clip of each pair.
        seconds, num_frames: (V,) of each clip.
    """

    pairs: Sequence[VideoPairStatistics]
    clip_of_pair: np.ndarray
    seconds: np.ndarray
    num_frames: np.ndarray

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """All metrics for every resample.

        Args:
            weights: (R, V) how often each clip counts.

        Returns:
            `VIDEO_METRICS` but TETA -> (R,) values, NaN where undefined; fractions but for `id_switches` and
            `seconds_per_frame`.
        """
        by_pair = weights[:, self.clip_of_pair]
        by_mask = rates(Tally.of([pair.counts for pair in self.pairs]).weighted(by_pair))
        values = {name: by_mask[name] for name in ("cgF1", "IL_MCC", "IL_FPR")}
        values["pmF1"] = by_mask["positive_micro_F1"]
        values |= self._association(by_pair)
        values["J&F"] = self._quality(by_pair)
        values["id_switches"] = by_pair @ np.array([pair.hota.switches[0] for pair in self.pairs], dtype=np.float64)
        _, seen, kept = (by_pair @ np.stack([pair.hota.returns for pair in self.pairs])).T
        values["id_survival"] = np.divide(kept, seen, out=np.full_like(seen, np.nan), where=seen > 0)
        values["seconds_per_frame"] = (weights @ self.seconds) / (weights @ self.num_frames)
        return values

    def _association(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        tp, fn, fp, accuracy = (
            weights @ np.stack([getattr(pair.hota, name) for pair in self.pairs])
            for name in ("tp", "fn", "fp", "accuracy")
        )
        found, associated = tp / np.maximum(tp + fn + fp, 1), accuracy / np.maximum(tp, 1)
        parts = {"pHOTA": np.sqrt(found * associated), "pDetA": found, "pAssA": associated}
        return {name: part.mean(axis=1) for name, part in parts.items()}

    def _quality(self, weights: np.ndarray) -> np.ndarray:
        num = weights @ np.array([len(pair.quality) for pair in self.pairs], dtype=np.float64)
        total = weights @ np.array([pair.quality.mean(axis=1).sum() for pair in self.pairs])
        return np.divide(total, num, out=np.full_like(num, np.nan), where=num > 0)
