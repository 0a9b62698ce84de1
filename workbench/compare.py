"""Compares two evaluations of the same pairs, e.g. before and after adaptation: every metric with the interval of its
change, and every pair, what got worse first. It needs records only, so "before" may be last month's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.bootstrap import FEW_GROUPS, MIN_GROUPS_FOR_INTERVAL, Delta, paired_deltas
from workbench.evaluate import Evaluation, PairRecord, write_json
from workbench.record_metrics import RecordStatistics

Event = Literal["false alarm appeared", "miss appeared", "worse", "same", "better", "miss gone", "false alarm gone"]


@dataclass(frozen=True)
class PairChange:
    """One (image, phrase) pair before and after, at IoU 0.5 (masks, or boxes where the labels are boxes only).

    Args:
        event: what happened; "false alarm" is a candidate for an absent phrase, "miss" an object of a present one.
        f1_before, f1_after, delta: F1 of the pair; an absent phrase has 1 without candidates and 0 with any.
        false_before, false_after: candidates that hit no object.
        missed_before, missed_after: objects that no candidate hits.
        presence_before, presence_after: presence scores.
    """

    image_id: str
    phrase: str
    status: str
    num_truth: int
    event: Event
    f1_before: float
    f1_after: float
    delta: float
    false_before: int
    false_after: int
    missed_before: int
    missed_after: int
    presence_before: float
    presence_after: float


@dataclass(frozen=True)
class PhraseChange:
    """One phrase before and after, summed over its pairs; counts at IoU 0.5 as in `PairChange`.

    Args:
        num_positive, num_absent: pairs that show the phrase, and pairs that do not.
        num_truth: labelled objects.
        found_before, found_after: objects that a candidate hits.
        false_before, false_after: candidates that hit no object, those for absent pairs included.
        claimed_before, claimed_after: absent pairs with any candidate.
        delta: mean change of F1 over the pairs.
        num_worse: pairs whose F1 fell.
    """

    phrase: str
    num_positive: int
    num_absent: int
    num_truth: int
    found_before: int
    found_after: int
    false_before: int
    false_after: int
    claimed_before: int
    claimed_after: int
    delta: float
    num_worse: int


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same pairs side by side; made by `compare`.

    Args:
        before, after: model, data, score_threshold and seconds of each evaluation.
        metrics: `METRIC_NAMES` -> Delta.
        pairs: every pair, regressions first.
        num_images, num_resamples: of the bootstrap.
        note: what to know before trusting the intervals; empty when there is nothing to say.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    metrics: dict[str, Delta]
    pairs: tuple[PairChange, ...]
    num_images: int
    num_resamples: int
    note: str

    @property
    def regressions(self) -> tuple[PairChange, ...]:
        """The pairs whose F1 fell, worst first."""
        return tuple(pair for pair in self.pairs if pair.delta < 0)

    @property
    def phrases(self) -> tuple[PhraseChange, ...]:
        """Every phrase, the largest loss first."""
        groups: dict[str, list[PairChange]] = {}
        for pair in self.pairs:
            groups.setdefault(pair.phrase, []).append(pair)
        changes = [_phrase_change(phrase, pairs) for phrase, pairs in groups.items()]
        return tuple(sorted(changes, key=lambda change: (change.delta, -change.num_worse, change.phrase)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "metrics": {name: delta.to_dict() for name, delta in self.metrics.items()},
            "num_images": self.num_images,
            "num_pairs": len(self.pairs),
            "num_resamples": self.num_resamples,
            "note": self.note,
            "phrases": [asdict(phrase) for phrase in self.phrases],
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    def save(self, path: str | Path) -> None:
        """Writes `to_dict()` as one JSON file, whole or not at all."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        """A table in per cent for people."""
        rows = [f"{'metric':15} {'before':>7} {'after':>7} {'change':>7}  95 % interval"]
        for name, delta in self.metrics.items():
            interval = "" if delta.ci95 is None else f"{100 * delta.ci95[0]:+z.1f} .. {100 * delta.ci95[1]:+z.1f}"
            numbers = f"{100 * delta.before:7.1f} {100 * delta.after:7.1f} {100 * delta.delta:+z7.1f}"
            rows.append(f"{name:15} {numbers}  {interval}".rstrip())
        rows.append(f"{len(self.regressions)} of {len(self.pairs)} pairs got worse. {self.note}".rstrip())
        return "\n".join(rows)


def compare(before: Evaluation, after: Evaluation, *, num_resamples: int = 2000, seed: int = 0) -> Comparison:
    """Puts two evaluations of the same pairs side by side.

    Intervals come from a paired bootstrap over images, see `paired_deltas`.

    Args:
        before, after: evaluations of the same pairs with the same labels; the score thresholds may differ.
        num_resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        Metrics with intervals, and pairs with regressions first.

    Raises:
        ValueError: the evaluations are over different pairs or labels, or `num_resamples` is below 1.
    """
    pairs = _aligned(before, after)
    image_of_pair = np.unique([old.image_id for old, _ in pairs], return_inverse=True)[1]
    num_images = int(image_of_pair.max()) + 1
    old_statistics = RecordStatistics.of([old for old, _ in pairs], before.score_threshold)
    new_statistics = RecordStatistics.of([new for _, new in pairs], after.score_threshold)
    metrics = paired_deltas(
        old_statistics.values, new_statistics.values, image_of_pair, num_resamples=num_resamples, seed=seed
    )
    return Comparison(
        before=_description(before),
        after=_description(after),
        metrics=metrics,
        pairs=_changes(pairs, before.score_threshold, after.score_threshold),
        num_images=num_images,
        num_resamples=num_resamples if num_images >= MIN_GROUPS_FOR_INTERVAL else 0,
        note=_note(before, after, num_images),
    )


def _aligned(before: Evaluation, after: Evaluation) -> list[tuple[PairRecord, PairRecord]]:
    olds, news = _by_pair(before, "before"), _by_pair(after, "after")
    differences = [f"image {i!r}, phrase {p!r} only in 'before'" for i, p in olds if (i, p) not in news]
    differences += [f"image {i!r}, phrase {p!r} only in 'after'" for i, p in news if (i, p) not in olds]
    for key in (key for key in olds if key in news):
        old, new = olds[key], news[key]
        if (old.num_truth, old.has_masks) != (new.num_truth, new.has_masks):
            labels = [f"{r.num_truth} {'outlines' if r.has_masks else 'boxes'}" for r in (old, new)]
            differences.append(
                f"image {key[0]!r}, phrase {key[1]!r} has {labels[0]} in 'before', {labels[1]} in 'after'"
            )
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"the evaluations differ in {len(differences)} pairs: {'; '.join(differences[:5])}{more}. Expected the "
            "same pairs and labels in both; evaluate both models on the same example set"
        )
    return [(old, news[key]) for key, old in olds.items()]


def _by_pair(evaluation: Evaluation, role: str) -> dict[tuple[str, str], PairRecord]:
    by_pair: dict[tuple[str, str], PairRecord] = {}
    for record in evaluation.records:
        key = (record.image_id, record.phrase)
        if key in by_pair:
            raise ValueError(
                f"the evaluation {role!r} holds image {key[0]!r}, phrase {key[1]!r} twice, expected every pair once; "
                "measure it again with unique image ids"
            )
        by_pair[key] = record
    return by_pair


def _changes(
    pairs: Sequence[tuple[PairRecord, PairRecord]], threshold_before: float, threshold_after: float
) -> tuple[PairChange, ...]:
    changes = [_change(old, new, threshold_before, threshold_after) for old, new in pairs]
    rank = {"false alarm appeared": 0, "miss appeared": 1}
    return tuple(
        sorted(
            changes,
            key=lambda c: (
                c.delta,
                rank.get(c.event, 2),
                c.false_before + c.missed_before - c.false_after - c.missed_after,
                c.image_id,
                c.phrase,
            ),
        )
    )


def _change(old: PairRecord, new: PairRecord, threshold_before: float, threshold_after: float) -> PairChange:
    counts = [
        record.counts(threshold, boxes=not record.has_masks)
        for record, threshold in ((old, threshold_before), (new, threshold_after))
    ]
    tp, false, missed = ([int(getattr(c, name)[0]) for c in counts] for name in ("tp", "fp", "fn"))
    f1 = [2 * t / (2 * t + f + m) if t + f + m else 1.0 for t, f, m in zip(tp, false, missed, strict=True)]
    return PairChange(
        image_id=old.image_id,
        phrase=old.phrase,
        status=old.status,
        num_truth=old.num_truth,
        event=_event(old.num_truth, f1[1] - f1[0], false, missed),
        f1_before=f1[0],
        f1_after=f1[1],
        delta=f1[1] - f1[0],
        false_before=false[0],
        false_after=false[1],
        missed_before=missed[0],
        missed_after=missed[1],
        presence_before=old.presence_score,
        presence_after=new.presence_score,
    )


def _phrase_change(phrase: str, pairs: Sequence[PairChange]) -> PhraseChange:
    absent = [pair for pair in pairs if not pair.num_truth]
    num_truth = sum(pair.num_truth for pair in pairs)
    return PhraseChange(
        phrase=phrase,
        num_positive=len(pairs) - len(absent),
        num_absent=len(absent),
        num_truth=num_truth,
        found_before=num_truth - sum(pair.missed_before for pair in pairs),
        found_after=num_truth - sum(pair.missed_after for pair in pairs),
        false_before=sum(pair.false_before for pair in pairs),
        false_after=sum(pair.false_after for pair in pairs),
        claimed_before=sum(pair.false_before > 0 for pair in absent),
        claimed_after=sum(pair.false_after > 0 for pair in absent),
        delta=sum(pair.delta for pair in pairs) / len(pairs),
        num_worse=sum(pair.delta < 0 for pair in pairs),
    )


def _event(num_truth: int, delta: float, false: Sequence[int], missed: Sequence[int]) -> Event:
    if num_truth == 0 and false[0] == 0 < false[1]:
        return "false alarm appeared"
    if num_truth == 0 and false[1] == 0 < false[0]:
        return "false alarm gone"
    if missed[0] != missed[1]:
        return "miss appeared" if missed[1] > missed[0] else "miss gone"
    errors = false[1] - false[0]
    if delta == 0 and errors == 0:
        return "same"
    return "worse" if delta < 0 or errors > 0 else "better"


def _description(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model": evaluation.model,
        "data": evaluation.data,
        "score_threshold": evaluation.score_threshold,
        "seconds": evaluation.seconds,
    }


def _note(before: Evaluation, after: Evaluation, num_images: int) -> str:
    images = f"{num_images} image{'s' if num_images > 1 else ''}"
    notes = []
    if num_images < MIN_GROUPS_FOR_INTERVAL:
        notes.append(f"{images}: too few for intervals, which need at least {MIN_GROUPS_FOR_INTERVAL}.")
    elif num_images < FEW_GROUPS:
        notes.append(f"Only {images}: the intervals are rough and tend to be too narrow.")
    if before.score_threshold != after.score_threshold:
        notes.append(f"The score thresholds differ: {before.score_threshold} before, {after.score_threshold} after.")
    if before.data != after.data:
        notes.append(f"The data are named {before.data!r} before and {after.data!r} after, with the same pairs.")
    return " ".join([*notes, *before.notes])
