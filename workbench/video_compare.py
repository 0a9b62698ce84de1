"""Compares two evaluations of the same clips: every metric with the interval of its change, and every (video, phrase)
pair, what got worse first. It needs records only. Clips without labels are compared by what was found and how fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from workbench.bootstrap import FEW_GROUPS, MIN_GROUPS_FOR_INTERVAL, Delta, paired_deltas
from workbench.evaluate import write_json
from workbench.video_evaluate import ClipRecord, VideoEvaluation, VideoPair
from workbench.video_statistics import VIDEO_METRICS


@dataclass(frozen=True)
class VideoPairChange:
    """One (video, phrase) pair before and after; masklets without labels are only counted.

    Args:
        video, phrase: what was asked where.
        masklets_before, masklets_after: how many were found.
        frames_before, frames_after: in how many frames anything was found.
        before, after: measured against labels; None without.
    """

    video: str
    phrase: str
    masklets_before: int
    masklets_after: int
    frames_before: int
    frames_after: int
    before: VideoPair | None = None
    after: VideoPair | None = None

    @property
    def change(self) -> tuple[float, float, int]:
        """What it is ranked by: change of F1, of HOTA, and fewer identity switches; zeros without labels.

        An absent phrase for which nothing was found has a HOTA of 1.
        """
        if self.before is None or self.after is None:
            return 0.0, 0.0, 0
        old, new = (1.0 if math.isnan(pair.hota) else pair.hota for pair in (self.before, self.after))
        return self.after.f1 - self.before.f1, new - old, self.before.id_switches - self.after.id_switches

    @property
    def is_worse(self) -> bool:
        """F1 fell; or it stayed and HOTA fell; or both stayed and objects are mixed up more often."""
        return self.change < (0.0, 0.0, 0)


@dataclass(frozen=True)
class VideoComparison:
    """Two evaluations of the same clips side by side; made by `compare_evaluations`.

    Args:
        before, after: model, adapter, data, seconds and frames of each.
        metrics: `VIDEO_METRICS` -> Delta, but for those that are undefined on both sides; only the time per frame
            without labels.
        pairs: every pair, regressions first.
        num_clips, num_resamples: of the bootstrap.
        note: what to know before trusting the intervals; empty when there is nothing to say.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    metrics: dict[str, Delta]
    pairs: tuple[VideoPairChange, ...]
    num_clips: int
    num_resamples: int
    note: str

    @property
    def regressions(self) -> tuple[VideoPairChange, ...]:
        """The pairs that got worse, worst first."""
        return tuple(pair for pair in self.pairs if pair.is_worse)

    @property
    def videos(self) -> tuple[str, ...]:
        """The names of the clips, those with the worst pairs first."""
        return tuple(dict.fromkeys(pair.video for pair in self.pairs))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "metrics": {name: delta.to_dict() for name, delta in self.metrics.items()},
            "num_clips": self.num_clips,
            "num_pairs": len(self.pairs),
            "num_resamples": self.num_resamples,
            "note": self.note,
            "pairs": [{**asdict(pair), "is_worse": pair.is_worse} for pair in self.pairs],
        }

    def save(self, path: str | Path) -> None:
        """Writes `to_dict()` as one JSON file, whole or not at all."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        """A table for people; fractions in per cent."""
        rows = [f"{'metric':18} {'before':>8} {'after':>8} {'change':>8}  95 % interval"]
        for name, delta in self.metrics.items():
            metric = VIDEO_METRICS[name]
            numbers = f"{metric.text(delta.before):>8} {metric.text(delta.after):>8}"
            change = f"{metric.text(delta.delta, has_sign=True):>8}"
            rows.append(f"{name:18} {numbers} {change}  {interval_text(name, delta)}".rstrip())
        return "\n".join([*rows, self.summary])

    @property
    def summary(self) -> str:
        """What got worse, or was only counted, and what to know about it."""
        if any(pair.before for pair in self.pairs):
            text = f"{len(self.regressions)} of {len(self.pairs)} questions got worse."
        else:
            counts = [sum(getattr(pair, f"masklets_{side}") for pair in self.pairs) for side in ("before", "after")]
            text = f"Masklets: {counts[0]} before, {counts[1]} after. Identity switches: unknown without labels."
        return f"{text} {self.note}".rstrip()


def interval_text(name: str, delta: Delta) -> str:
    """The interval of a change as it is shown; empty where there is none."""
    if delta.ci95 is None:
        return ""
    low, high = (VIDEO_METRICS[name].text(value, has_sign=True) for value in delta.ci95)
    return f"{low} to {high}"


def compare_evaluations(
    before: VideoEvaluation, after: VideoEvaluation, *, num_resamples: int = 2000, seed: int = 0
) -> VideoComparison:
    """Puts two evaluations of the same clips side by side.

    Intervals come from a paired bootstrap over clips, see `bootstrap.paired_deltas`.

    Args:
        before, after: evaluations of the same clips with the same labels, or both without.
        num_resamples, seed: of the bootstrap.

    Returns:
        Metrics with intervals, and pairs with regressions first.

    Raises:
        ValueError: the evaluations are of different clips, phrases or labels.

    Example:
        >>> from workbench.video_clips import rendered_clips
        >>> from workbench.video_evaluate import evaluate_videos
        >>> clips = rendered_clips(1, seed=0, num_frames=2, size=64)
        >>> def blind(video, phrases, frame_rate):
        ...     return iter(())
        >>> found = evaluate_videos(blind, clips, model_name="blind", data_name="rendered", progress=False)
        >>> comparison = compare_evaluations(found, found)
        >>> comparison.metrics["pHOTA"].delta, comparison.regressions
        (0.0, ())
    """
    _check_same(before, after)
    if before.has_labels:
        values = before.statistics().values, after.statistics().values
    else:
        values = _speed(before), _speed(after)
    num_clips = len(before.clips)
    metrics = paired_deltas(*values, np.arange(num_clips), num_resamples=num_resamples, seed=seed)
    if before.has_labels:
        old, new = (evaluation.metrics["video_mask_teta"] / 100 for evaluation in (before, after))
        metrics["TETA"] = Delta(old, new, new - old, ci95=None)
    changes = [
        change
        for old, new in zip(before.clips, after.clips, strict=True)
        for change in _changes(old, new, before, after)
    ]
    worst_first = sorted(changes, key=lambda pair: (pair.change, pair.video, pair.phrase))
    return VideoComparison(
        before=_description(before),
        after=_description(after),
        metrics={name: metrics[name] for name in VIDEO_METRICS if name in metrics and _is_known(metrics[name])},
        pairs=tuple(worst_first),
        num_clips=num_clips,
        num_resamples=num_resamples if num_clips >= MIN_GROUPS_FOR_INTERVAL else 0,
        note=_note(before, num_clips),
    )


def _is_known(delta: Delta) -> bool:
    return not (math.isnan(delta.before) and math.isnan(delta.after))


def _check_same(before: VideoEvaluation, after: VideoEvaluation) -> None:
    differences = []
    if len(before.clips) != len(after.clips):
        differences.append(f"{len(before.clips)} clips before, {len(after.clips)} after")
    for old, new in zip(before.clips, after.clips, strict=False):
        olds, news = _identity(old), _identity(new)
        differences += [
            f"{old.found.name!r}: {key} {olds[key]} before, {news[key]} after" for key in olds if olds[key] != news[key]
        ]
    if differences:
        raise ValueError(
            f"the evaluations differ in {len(differences)} points: {'; '.join(differences[:3])}. Expected the same "
            "clips, phrases and labels in both; follow the same clips with both models"
        )


def _identity(clip: ClipRecord) -> dict[str, Any]:
    """What must agree; labels by their masks."""
    truth = None
    if clip.truth is not None:
        truth = sorted((m.phrase or "", m.frames.tolist(), [rle.counts for rle in m.rles]) for m in clip.truth.masklets)
    return {
        "name": clip.found.name,
        "number of frames": clip.found.num_frames,
        "size": tuple(clip.found.image_size),
        "phrases": sorted(clip.found.phrases),
        "labels": None if truth is None else f"{len(truth)} masklets, {crc32(str(truth).encode()):08x}",
    }


def _speed(evaluation: VideoEvaluation) -> Any:
    seconds = np.array([clip.seconds for clip in evaluation.clips])
    num_frames = np.array([clip.found.num_frames for clip in evaluation.clips], dtype=np.float64)
    return lambda weights: {"seconds_per_frame": (weights @ seconds) / (weights @ num_frames)}


def _changes(
    old: ClipRecord, new: ClipRecord, before: VideoEvaluation, after: VideoEvaluation
) -> Sequence[VideoPairChange]:
    name = old.found.name
    measured = [{pair.phrase: pair for pair in one.pairs if pair.video == name} for one in (before, after)]
    changes = []
    for phrase in old.found.phrases:
        groups = [[m for m in clip.found.masklets if m.phrase == phrase] for clip in (old, new)]
        frames = [len({frame for masklet in group for frame in masklet.frames.tolist()}) for group in groups]
        pairs = [by_phrase.get(phrase) for by_phrase in measured]
        changes.append(VideoPairChange(name, phrase, *map(len, groups), *frames, *pairs))  # type: ignore[arg-type]
    return changes


def _description(evaluation: VideoEvaluation) -> dict[str, Any]:
    return {
        "model": evaluation.model,
        "adapter": evaluation.adapter,
        "data": evaluation.data,
        "seconds": evaluation.seconds,
        "num_frames": evaluation.num_frames,
    }


def _note(evaluation: VideoEvaluation, num_clips: int) -> str:
    clips, notes = f"{num_clips} clip{'s' if num_clips > 1 else ''}", []
    if num_clips < MIN_GROUPS_FOR_INTERVAL:
        notes.append(f"{clips}: too few for intervals, which need at least {MIN_GROUPS_FOR_INTERVAL}.")
    elif num_clips < FEW_GROUPS:
        notes.append(f"Only {clips}: the intervals are rough and tend to be too narrow.")
    if not evaluation.has_labels:
        notes.append("The clips have no labels, so nothing is known about right and wrong.")
    elif all(pair.num_truth for pair in evaluation.pairs):
        notes.append("No absent phrase was asked, so IL_MCC, IL_FPR and cgF1 are 0 by definition; add some.")
    return " ".join(notes)
