"""Detection metrics on plain arrays: the SA-Co family (cgF1, pmF1, image-level MCC).

Everything starts from one IoU matrix per (image, phrase) pair, candidates in rows and true objects in columns. Counts
are additive over pairs, so a resampled data set is a weighted sum; average precision lives in `ranking`, the files that
the SA-Co metrics are defined on in `metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from workbench.ranking import IOU_THRESHOLDS

_EPS_COUNT = 1e-4
_EPS_IMAGE = 1e-6


# ---------------------------------------------------------------------------------------------------- IoU matrices
def box_iou(boxes_xywh: np.ndarray, truth_xywh: np.ndarray, *, is_crowd: bool = False) -> np.ndarray:
    """IoU of every candidate box with every true box.

    Args:
        boxes_xywh: (D, 4) left, top, width, height; any unit, the same for both arguments.
        truth_xywh: (G, 4).
        is_crowd: divide by the candidate's own area instead of the union, COCO's rule for crowd regions.

    Returns:
        (D, G) float64 in 0..1; 0 where the divisor is empty.

    Example:
        >>> box_iou(np.array([[0, 0, 4, 4]]), np.array([[0, 0, 4, 2], [8, 8, 1, 1]])).tolist()
        [[0.5, 0.0]]
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 1, 4)
    truth = np.asarray(truth_xywh, dtype=np.float64).reshape(1, -1, 4)
    ends = np.minimum(boxes[..., :2] + boxes[..., 2:], truth[..., :2] + truth[..., 2:])
    sides = np.maximum(ends - np.maximum(boxes[..., :2], truth[..., :2]), 0.0)
    shared = sides[..., 0] * sides[..., 1]
    area = boxes[..., 2] * boxes[..., 3] + np.zeros_like(shared)
    whole = area if is_crowd else area + truth[..., 2] * truth[..., 3] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def rle_iou(
    rles: Sequence[Mapping[str, Any]], truth_rles: Sequence[Mapping[str, Any]], *, is_crowd: bool = False
) -> np.ndarray:
    """IoU of every candidate mask with every true mask, from compressed COCO run lengths.

    Args:
        rles: D masks `{"size": [height, width], "counts": str | bytes}`.
        truth_rles: G masks of the same size.
        is_crowd: divide by the candidate's own area instead of the union, COCO's rule for crowd regions.

    Returns:
        (D, G) float64 in 0..1.

    Raises:
        ValueError: the masks do not all have the same size.
    """
    if not rles or not truth_rles:
        return np.zeros((len(rles), len(truth_rles)))
    sizes = {tuple(rle["size"]) for rle in (*rles, *truth_rles)}
    if len(sizes) > 1:
        raise ValueError(
            f"masks of sizes {sorted(sizes)} were given, expected one [height, width]; "
            "bring the candidates to the size of the labelled image first"
        )
    from faster_coco_eval.core import mask as coco_mask

    crowd_flags = [int(is_crowd)] * len(truth_rles)
    overlaps = coco_mask.iou([dict(rle) for rle in rles], [dict(rle) for rle in truth_rles], crowd_flags)
    return np.asarray(overlaps, dtype=np.float64).reshape(len(rles), len(truth_rles))


def semantic_overlap(rles: Sequence[Mapping[str, Any]], truth_rles: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Pixels that candidates and true objects share and cover, all candidates taken as one area, all objects as one.

    Args:
        rles: D masks as in `rle_iou`.
        truth_rles: G masks of the same size, or one mask of all objects.

    Returns:
        (intersection, union) in pixels; their sums over pictures give the IoU of the semantic map.
    """
    from faster_coco_eval.core import mask as coco_mask

    areas = []
    for masks in (rles, truth_rles, [*rles, *truth_rles]):
        areas.append(int(coco_mask.area(coco_mask.merge([dict(rle) for rle in masks]))) if masks else 0)
    found, true, union = areas
    return found + true - union, union


# ------------------------------------------------------------------------------------------- counts of the SA-Co family
@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of one (image, phrase) pair at the ten IoU thresholds 0.50, 0.55, ... 0.95.

    Args:
        tp, fp, fn: (10,) int64 found objects, false candidates, missed objects.
        num_truth: true objects G.
        num_kept: candidates D at or above the score threshold.
        hit_iou: (H,) IoU of the matched candidates with IoU >= 0.5.
        assigned_iou: sum of the IoU of all objects with the candidates assigned to them, however small.
        is_decided: False where the only label is a crowd region, so that neither a claim nor silence is wrong.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    num_truth: int
    num_kept: int
    hit_iou: np.ndarray
    assigned_iou: float
    is_decided: bool = True

    @property
    def local_f1(self) -> np.ndarray:
        """(10,) F1 of this pair alone, with the evaluator's epsilons; zeros when nothing is true or nothing is kept."""
        return _f1(_share(self.tp, self.fp), _share(self.tp, self.fn))

    @property
    def is_silent_and_absent(self) -> bool:
        """True when there is no object and no candidate."""
        return self.num_truth == 0 and self.num_kept == 0


def pair_counts(iou: np.ndarray, crowd_overlap: np.ndarray | None = None) -> PairCounts:
    """Counts of one pair; candidates and objects are assigned so that the SUM of IoU is largest, as SA-Co does.

    Args:
        iou: (D, G) of the candidates above the score threshold; D or G may be 0.
        crowd_overlap: (D, C) share of each candidate that lies on each crowd region. At each IoU threshold a candidate
            that hits no object but has at least this share on a crowd is ignored, as COCO does; None without crowds.

    Returns:
        The counts.

    Example:
        >>> counts = pair_counts(np.array([[0.9, 0.0], [0.2, 0.6], [0.0, 0.1]]))
        >>> counts.tp.tolist(), counts.fp[0].item(), counts.fn[-1].item()
        ([2, 2, 2, 1, 1, 1, 1, 1, 1, 0], 1, 2)
    """
    iou = np.asarray(iou, dtype=np.float64)
    if iou.ndim != 2:
        raise ValueError(f"iou has shape {iou.shape}, expected (D, G); use np.zeros((D, 0)) where there is no object")
    num_kept, num_truth = iou.shape
    matched = iou[linear_sum_assignment(iou, maximize=True)]
    tp = (matched[:, None] >= IOU_THRESHOLDS).sum(axis=0)
    ignored = np.zeros_like(tp) if crowd_overlap is None else _num_on_crowds(iou, crowd_overlap)
    return PairCounts(
        tp=tp,
        fp=num_kept - tp - ignored,
        fn=num_truth - tp,
        num_truth=num_truth,
        num_kept=num_kept - int(ignored[0]),
        hit_iou=matched[matched >= IOU_THRESHOLDS[0]],
        assigned_iou=float(matched.sum()),
        is_decided=num_truth > 0 or crowd_overlap is None or crowd_overlap.shape[1] == 0,
    )


def _num_on_crowds(iou: np.ndarray, crowd_overlap: np.ndarray) -> np.ndarray:
    """(10,) candidates that hit no object and lie on a crowd region."""
    candidates, objects = linear_sum_assignment(iou, maximize=True)
    best = np.zeros(len(iou))
    best[candidates] = iou[candidates, objects]
    on_crowd = crowd_overlap.max(axis=1, initial=0.0)[:, None] >= IOU_THRESHOLDS
    return (on_crowd & (best[:, None] < IOU_THRESHOLDS)).sum(axis=0)


@dataclass(frozen=True, eq=False)
class Tally:
    """Additive statistics; one row per pair after `of`, one row per resample after `weighted`.

    Args:
        tp, fp, fn, fp_positive, local_f1: (R, 10); `fp_positive` and `local_f1` only from pairs with objects.
        image_tp, image_fp, image_tn, image_fn: (R,) pairs by kind: is an object there, is a candidate there.
        hits, hit_iou: (R,) number of matched candidates with IoU >= 0.5, and the sum of their IoU.
        num_truth, assigned_iou: (R,) number of objects, and the sum of their IoU with the candidates assigned to them.
        pairs, exact, miscounted: (R,) number of pairs, of pairs with as many candidates as objects, and the sum of the
            differences between the two numbers.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    fp_positive: np.ndarray
    local_f1: np.ndarray
    image_tp: np.ndarray
    image_fp: np.ndarray
    image_tn: np.ndarray
    image_fn: np.ndarray
    hits: np.ndarray
    hit_iou: np.ndarray
    num_truth: np.ndarray
    assigned_iou: np.ndarray
    pairs: np.ndarray
    exact: np.ndarray
    miscounted: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[PairCounts]) -> Tally:
        """One row per pair.

        Raises:
            ValueError: no pair was given.
        """
        if not pairs:
            raise ValueError("0 pairs were given, expected at least one (image, phrase) pair with a known answer")
        is_true = np.array([pair.num_truth > 0 for pair in pairs])
        is_kept = np.array([pair.num_kept > 0 for pair in pairs])
        is_absent = ~is_true & np.array([pair.is_decided for pair in pairs])
        num_truth, num_kept = (np.array([getattr(p, name) for p in pairs], float) for name in ("num_truth", "num_kept"))
        fp = np.stack([pair.fp for pair in pairs]).astype(np.float64)
        return cls(
            tp=np.stack([pair.tp for pair in pairs]).astype(np.float64),
            fp=fp,
            fn=np.stack([pair.fn for pair in pairs]).astype(np.float64),
            fp_positive=fp * ~is_absent[:, None],
            local_f1=np.stack([pair.local_f1 for pair in pairs]) * is_true[:, None],
            image_tp=(is_true & is_kept).astype(np.float64),
            image_fp=(is_absent & is_kept).astype(np.float64),
            image_tn=(is_absent & ~is_kept).astype(np.float64),
            image_fn=(is_true & ~is_kept).astype(np.float64),
            hits=np.array([pair.hit_iou.size for pair in pairs], dtype=np.float64),
            hit_iou=np.array([pair.hit_iou.sum() for pair in pairs], dtype=np.float64),
            num_truth=num_truth,
            assigned_iou=np.array([pair.assigned_iou for pair in pairs], dtype=np.float64),
            pairs=np.ones(len(pairs)),
            exact=(num_kept == num_truth).astype(np.float64),
            miscounted=np.abs(num_kept - num_truth),
        )

    def weighted(self, weights: np.ndarray) -> Tally:
        """Sums with every row counted `weights` times.

        Args:
            weights: (R, P) how often each of the P rows occurs in each of R resamples; all ones for the plain sum.

        Returns:
            A tally of R rows.
        """
        return Tally(*(weights @ getattr(self, field.name) for field in fields(self)))


def rates(tally: Tally) -> dict[str, np.ndarray]:
    """The 26 values of the SA-Co image evaluator, one per row of the tally.

    Args:
        tally: R rows of sums.

    Returns:
        Name -> (R,) fractions; plain names are means over the ten thresholds; an undefined `positive_macro_F1` is -1.
    """
    recall = _share(tally.tp, tally.fn)
    precision = _share(tally.tp, tally.fp)
    positive_precision = _share(tally.tp, tally.fp_positive)
    positive_f1 = _f1(positive_precision, recall)
    counted = np.broadcast_to(tally.image_tp[..., None], tally.local_f1.shape)  # pairs missed outright are left out
    macro_f1 = np.divide(tally.local_f1, counted, out=np.full_like(tally.local_f1, -1.0), where=counted > 0)
    tp, fp, tn, fn = tally.image_tp, tally.image_fp, tally.image_tn, tally.image_fn
    image_precision, image_recall = tp / (tp + fp + _EPS_IMAGE), tp / (tp + fn + _EPS_IMAGE)
    mcc = (tp * tn - fp * fn) / (np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) + _EPS_IMAGE)
    by_threshold = {
        "cgF1": positive_f1 * mcc[..., None],
        "precision": precision,
        "recall": recall,
        "F1": _f1(precision, recall),
        "positive_macro_F1": macro_f1,
        "positive_micro_F1": positive_f1,
        "positive_micro_precision": positive_precision,
    }
    return {
        **{name: values.mean(axis=-1) for name, values in by_threshold.items()},
        "IL_precision": image_precision,
        "IL_recall": image_recall,
        "IL_F1": 2 * image_precision * image_recall / (image_precision + image_recall + _EPS_IMAGE),
        "IL_FPR": fp / (fp + tn + _EPS_IMAGE),
        "IL_MCC": mcc,
        **{f"{name}@0.5": values[..., 0] for name, values in by_threshold.items()},
        **{f"{name}@0.75": values[..., 5] for name, values in by_threshold.items()},
    }


def mean_hit_iou(tally: Tally) -> np.ndarray:
    """(R,) mean IoU of the matched candidates with IoU >= 0.5; NaN where there is no hit."""
    return np.divide(tally.hit_iou, tally.hits, out=np.full_like(tally.hits, np.nan), where=tally.hits > 0)


def mean_object_iou(tally: Tally) -> np.ndarray:
    """(R,) mean IoU of the objects with the candidates assigned to them, 0 for a missed one; NaN without any object."""
    return np.divide(
        tally.assigned_iou, tally.num_truth, out=np.full_like(tally.hits, np.nan), where=tally.num_truth > 0
    )


def counting(tally: Tally) -> dict[str, np.ndarray]:
    """How well the number of candidates tells the number of objects; all candidates above the threshold count.

    Args:
        tally: R rows of sums.

    Returns:
        `count_accuracy` (R,): share of pairs with the right number; `count_mae` (R,): objects too many or too few per
        pair; `count_error` (R,): the same per labelled object, which is above 1 when false ones outnumber the true
        ones. NaN without pairs, or without objects for the last.

    Example:
        >>> pairs = [pair_counts(np.ones((3, 2))), pair_counts(np.ones((2, 2)))]
        >>> {name: values.item() for name, values in counting(Tally.of(pairs).weighted(np.ones((1, 2)))).items()}
        {'count_accuracy': 0.5, 'count_mae': 0.5, 'count_error': 0.25}
    """
    parts = {
        "count_accuracy": (tally.exact, tally.pairs),
        "count_mae": (tally.miscounted, tally.pairs),
        "count_error": (tally.miscounted, tally.num_truth),
    }
    return {
        name: np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
        for name, (part, whole) in parts.items()
    }


def aggregate(pairs: Sequence[PairCounts]) -> dict[str, float]:
    """The 26 values of the SA-Co image evaluator over a set of pairs.

    Args:
        pairs: counts of each (image, phrase) pair, absent phrases included: without them IL_MCC and cgF1 are 0.

    Returns:
        Name -> fraction.

    Example:
        >>> found, silent = pair_counts(np.array([[0.8]])), pair_counts(np.zeros((0, 0)))
        >>> values = aggregate([found, silent])
        >>> round(values["IL_MCC"], 3), round(values["positive_micro_F1"], 3)
        (1.0, 0.7)
    """
    totals = Tally.of(pairs).weighted(np.ones((1, len(pairs))))
    return {name: float(values[0]) for name, values in rates(totals).items()}


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    return part / (part + rest + _EPS_COUNT)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / (precision + recall + _EPS_COUNT)
