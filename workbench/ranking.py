"""COCO average precision on plain arrays, with a phrase in the part of a category.

Candidates of a phrase are pooled over its pairs, best score first, and marked as hits once; after that any resample of
the pairs is a set of weights, which makes a bootstrap affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's own floats, so that an IoU on a threshold falls alike
MAX_CANDIDATES = 100  # of one pair, the COCO rule

_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_CHUNK_CELLS = 2_000_000  # cells of a (resamples, candidates) array held at once, about 16 MB each


@dataclass(frozen=True, eq=False)
class RankedPhrase:
    """All candidates of one phrase over all pairs, best score first.

    Args:
        candidate_pair: (K,) index of the pair each candidate belongs to.
        is_hit: (10, K) whether the candidate takes an object at each IoU threshold.
        is_ignored: (10, K) whether it lies on a crowd region instead, so that it counts neither way.
        labelled_pair: (P,) indices of the pairs with a label.
        num_truth: (P,) their numbers of objects; 0 where the only label is a crowd.
    """

    candidate_pair: np.ndarray
    is_hit: np.ndarray
    is_ignored: np.ndarray
    labelled_pair: np.ndarray
    num_truth: np.ndarray

    def positive_split(self) -> RankedPhrase:
        """The same without the candidates of pairs that have no label, as AP+ wants it."""
        kept = np.isin(self.candidate_pair, self.labelled_pair)
        return replace(
            self,
            candidate_pair=self.candidate_pair[kept],
            is_hit=self.is_hit[:, kept],
            is_ignored=self.is_ignored[:, kept],
        )


def rank_candidates(
    phrases: Sequence[str],
    scores: Sequence[np.ndarray],
    ious: Sequence[np.ndarray],
    crowd_overlaps: Sequence[np.ndarray] | None = None,
) -> tuple[RankedPhrase, ...]:
    """Candidates pooled per phrase and marked by COCO's greedy matching; phrases without any object are left out.

    Args:
        phrases: one per pair.
        scores: per pair (D,), any order.
        ious: per pair (D, G).
        crowd_overlaps: per pair (D, C) share of each candidate that lies on each crowd region; None without crowds.

    Returns:
        One entry per phrase that has at least one object, in order of first appearance.

    Raises:
        ValueError: the lists differ in length, or a matrix does not have one row per score.
    """
    crowds = [np.zeros((len(row), 0)) for row in scores] if crowd_overlaps is None else crowd_overlaps
    if not len(phrases) == len(scores) == len(ious) == len(crowds):
        received = f"{len(phrases)} phrases, {len(scores)} score lists, {len(ious)} and {len(crowds)} overlap matrices"
        raise ValueError(f"got {received}; expected one of each per pair")
    members: dict[str, list[int]] = {}
    for index, phrase in enumerate(phrases):
        members.setdefault(phrase, []).append(index)
        shapes = np.shape(ious[index]), np.shape(crowds[index])
        if any(len(shape) != 2 or shape[0] != len(scores[index]) for shape in shapes):
            raise ValueError(
                f"pair {index} ({phrase!r}) has {len(scores[index])} scores and overlap matrices {shapes}; expected "
                "one row per score; use np.zeros((D, 0)) where there is no object"
            )
    ranked = []
    for pairs in members.values():
        num_truth = np.array([np.shape(ious[pair])[1] for pair in pairs])
        if not num_truth.any():
            continue
        is_labelled = (num_truth > 0) | np.array([np.shape(crowds[pair])[1] > 0 for pair in pairs])
        orders = [np.argsort(-np.asarray(scores[pair]), kind="stable")[:MAX_CANDIDATES] for pair in pairs]
        best_first = list(zip(pairs, orders, strict=True))
        marks = [greedy_marks(np.asarray(ious[p])[order], np.asarray(crowds[p])[order]) for p, order in best_first]
        order = np.argsort(-np.concatenate([np.asarray(scores[p])[order] for p, order in best_first]), kind="stable")
        ranked.append(
            RankedPhrase(
                candidate_pair=np.repeat(pairs, [len(order) for order in orders])[order],
                is_hit=np.concatenate([hits for hits, _ in marks], axis=1)[:, order],
                is_ignored=np.concatenate([ignored for _, ignored in marks], axis=1)[:, order],
                labelled_pair=np.array(pairs)[is_labelled],
                num_truth=num_truth[is_labelled],
            )
        )
    return tuple(ranked)


def precision_over_thresholds(ranked: Sequence[RankedPhrase], weights: np.ndarray) -> np.ndarray:
    """COCO 101-point average precision at each IoU threshold, averaged over phrases, for every resample.

    Args:
        ranked: from `rank_candidates` over P pairs.
        weights: (R, P) how often each pair occurs in each resample.

    Returns:
        (R, 10) for the thresholds 0.50, 0.55, ... 0.95; NaN where a resample holds no object at all.
    """
    total = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    num_phrases = np.zeros(len(weights))
    for phrase in ranked:
        step = max(1, _CHUNK_CELLS // max(1, len(phrase.candidate_pair)))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            num_truth = weights[rows, phrase.labelled_pair] @ phrase.num_truth.astype(np.float64)
            copies = weights[rows, phrase.candidate_pair].astype(np.float64)
            total[rows] += _interpolated_precision(phrase, copies, num_truth)
            num_phrases[rows] += num_truth > 0
    return np.divide(total, num_phrases[:, None], out=np.full_like(total, np.nan), where=num_phrases[:, None] > 0)


def average_precision(
    phrases: Sequence[str],
    scores: Sequence[np.ndarray],
    ious: Sequence[np.ndarray],
    crowd_overlaps: Sequence[np.ndarray] | None = None,
    *,
    positive_only: bool = False,
) -> dict[str, float]:
    """COCO average precision over pairs; the other arguments and the errors are those of `rank_candidates`.

    Args:
        positive_only: leave out candidates of pairs without label (AP+), so that false alarms there cost nothing.

    Returns:
        `AP` (mean over ten IoU thresholds), `AP50`, `AP75`; NaN when no pair has an object.

    Example:
        >>> scores = np.array([0.9]), np.array([0.8])
        >>> average_precision(["cup", "cup"], scores, [np.array([[0.92]]), np.zeros((1, 0))])
        {'AP': 0.9, 'AP50': 1.0, 'AP75': 1.0}
    """
    ranked = rank_candidates(phrases, scores, ious, crowd_overlaps)
    if positive_only:
        ranked = tuple(phrase.positive_split() for phrase in ranked)
    values = precision_over_thresholds(ranked, np.ones((1, len(phrases))))[0]
    return {"AP": float(values.mean()), "AP50": float(values[0]), "AP75": float(values[5])}


def greedy_marks(iou: np.ndarray, crowd_overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(10, D) hit and (10, D) ignored: each candidate in turn takes the best free object, else may lie on a crowd."""
    num_candidates, num_truth = iou.shape
    hits = np.zeros((len(IOU_THRESHOLDS), num_candidates), dtype=bool)
    is_free = np.ones((len(IOU_THRESHOLDS), num_truth), dtype=bool)
    rows = np.arange(len(IOU_THRESHOLDS))
    for candidate in np.flatnonzero(iou.max(axis=1, initial=0.0) >= IOU_THRESHOLDS[0]):
        free_iou = np.where(is_free, iou[candidate], -1.0)
        target = num_truth - 1 - free_iou[:, ::-1].argmax(axis=1)  # COCO gives ties to the later object
        hit = free_iou[rows, target] >= IOU_THRESHOLDS
        is_free[rows[hit], target[hit]] = False
        hits[:, candidate] = hit
    return hits, ~hits & (crowd_overlap.max(axis=1, initial=0.0) >= IOU_THRESHOLDS[:, None])


def _interpolated_precision(phrase: RankedPhrase, copies: np.ndarray, num_truth: np.ndarray) -> np.ndarray:
    """(R, 10) mean of the precision envelope over the recall points; 0 where `num_truth` (R,) is 0.

    Precision peaks only at hits, so the envelope is taken there; a hit weighs the recall points that it reaches first.
    """
    seen = copies.cumsum(axis=1)
    result = np.zeros((len(copies), len(IOU_THRESHOLDS)))
    for threshold, (is_hit, is_ignored) in enumerate(zip(phrase.is_hit, phrase.is_ignored, strict=True)):
        at = np.flatnonzero(is_hit)
        if not len(at):
            continue
        found = copies[:, at].cumsum(axis=1)
        counted = (copies * ~is_ignored).cumsum(axis=1) if is_ignored.any() else seen
        precision = found / np.maximum(counted[:, at], 1.0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(num_truth, 1.0)[:, None]
        point = (recall * 100 + 1e-9).astype(np.intp)
        covered = point + (recall >= _RECALL_POINTS[point])
        result[:, threshold] = (envelope * np.diff(covered, axis=1, prepend=0)).sum(axis=1) / len(_RECALL_POINTS)
    return np.where(num_truth[:, None] > 0, result, 0.0)
