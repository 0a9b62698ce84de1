"""All metrics of a list of records, as sums over pairs that can be weighted: a bootstrap need not measure again.

`PairRecord`s of one model come in, with a score threshold; `METRIC_NAMES` -> fractions go out, for every resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.pair_metrics import Tally, counting, mean_hit_iou, mean_object_iou, rates
from workbench.ranking import RankedPhrase, precision_over_thresholds, rank_candidates

if TYPE_CHECKING:
    from workbench.evaluate import PairRecord

CANDIDATE_FLOOR = 0.05  # candidates below this score are not recorded
MASK_METRICS = ("cgF1", "pmF1", "F1", "AP", "AP50", "AP_positive", "mIoU", "mIoU_hits", "semantic_IoU")
IMAGE_METRICS = ("IL_MCC", "IL_FPR", "IL_recall")
COUNT_METRICS = ("count_accuracy", "count_error")
BOX_METRICS = ("box_cgF1", "box_pmF1", "box_AP")
METRIC_NAMES = (*MASK_METRICS, *IMAGE_METRICS, *COUNT_METRICS, *BOX_METRICS)  # fractions
LOWER_IS_BETTER = ("IL_FPR", "count_error")


@dataclass(frozen=True, eq=False)
class _View:
    """Statistics of some of the records, by masks or by boxes; `pairs` are their indices."""

    pairs: np.ndarray
    tally: Tally
    ranked: tuple[RankedPhrase, ...]

    @classmethod
    def of(cls, records: Sequence[PairRecord], pairs: Sequence[int], score_threshold: float, *, boxes: bool) -> _View:
        chosen = [records[index] for index in pairs]
        ranked = rank_candidates(
            [record.phrase for record in chosen],
            [np.array(record.scores) for record in chosen],
            [record.overlaps(boxes=boxes) for record in chosen],
        )
        tally = Tally.of([record.counts(score_threshold, boxes=boxes) for record in chosen])
        return cls(np.array(pairs), tally, ranked)


@dataclass(frozen=True, eq=False)
class _Semantic:
    """Pixels per pair and phrase, (P, K): shared by candidates and objects, covered by either; (P, K) objects."""

    shared: np.ndarray
    covered: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, records: Sequence[PairRecord], score_threshold: float) -> _Semantic | None:
        """None where the objects of a record are not known as one mask."""
        if any(record.num_truth and record.truth_rle is None for record in records):
            return None
        phrases = {phrase: place for place, phrase in enumerate(dict.fromkeys(record.phrase for record in records))}
        table = np.zeros((3, len(records), len(phrases)))
        for row, record in enumerate(records):
            table[:, row, phrases[record.phrase]] = (*record.semantic_overlap(score_threshold), record.num_truth)
        return cls(*table)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """(R,) IoU of the semantic maps, summed over the pairs of a phrase, mean over the phrases with objects."""
        shared, covered, objects = (weights @ table for table in (self.shared, self.covered, self.objects))
        is_there = objects > 0
        iou = np.divide(shared, covered, out=np.zeros_like(shared), where=is_there & (covered > 0))
        count = is_there.sum(axis=1)
        return np.divide(iou.sum(axis=1), count, out=np.full(len(weights), np.nan), where=count > 0)


@dataclass(frozen=True, eq=False)
class RecordStatistics:
    """Everything the metrics need of a list of records, in a form that can be resampled; made by `of`."""

    masks: _View | None
    boxes: _View
    semantic: _Semantic | None

    @classmethod
    def of(cls, records: Sequence[PairRecord], score_threshold: float) -> RecordStatistics:
        """Statistics at one score threshold.

        Raises:
            ValueError: no record, or a threshold below the floor of recorded candidates.
        """
        if not records:
            raise ValueError("0 records were given, expected at least one pair whose status is positive or absent")
        check_threshold(score_threshold)
        outlined = [index for index, record in enumerate(records) if record.has_masks]
        lacks_outlines = any(r.num_truth for r in records) and not any(records[i].num_truth for i in outlined)
        boxes = _View.of(records, range(len(records)), score_threshold, boxes=True)
        if lacks_outlines:
            return cls(None, boxes, None)
        semantic = _Semantic.of([records[index] for index in outlined], score_threshold)
        return cls(_View.of(records, outlined, score_threshold, boxes=False), boxes, semantic)

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """All metrics for every resample.

        Args:
            weights: (R, P) how often each record counts.

        Returns:
            `METRIC_NAMES` -> (R,) fractions, NaN where undefined.
        """
        values = dict.fromkeys(METRIC_NAMES, np.full(len(weights), np.nan))
        box_tally = self.boxes.tally.weighted(weights)
        by_box, counted = rates(box_tally), counting(box_tally)
        values |= {name: by_box[name] for name in IMAGE_METRICS} | {name: counted[name] for name in COUNT_METRICS}
        values |= {"box_cgF1": by_box["cgF1"], "box_pmF1": by_box["positive_micro_F1"]}
        values["box_AP"] = precision_over_thresholds(self.boxes.ranked, weights).mean(axis=1)
        if self.masks is not None:
            weights = weights[:, self.masks.pairs]
            tally = self.masks.tally.weighted(weights)
            by_mask = rates(tally)
            precision = precision_over_thresholds(self.masks.ranked, weights)
            values |= {"cgF1": by_mask["cgF1"], "pmF1": by_mask["positive_micro_F1"], "F1": by_mask["F1"]}
            values |= {"AP": precision.mean(axis=1), "AP50": precision[:, 0]}
            values |= {"mIoU": mean_object_iou(tally), "mIoU_hits": mean_hit_iou(tally)}
            if self.semantic is not None:
                values["semantic_IoU"] = self.semantic.values(weights)
            positive = tuple(phrase.positive_split() for phrase in self.masks.ranked)
            values["AP_positive"] = precision_over_thresholds(positive, weights).mean(axis=1)
        return values


def check_threshold(score_threshold: float) -> None:
    """Refuses a score threshold below `CANDIDATE_FLOOR` with a ValueError."""
    if score_threshold < CANDIDATE_FLOOR:
        raise ValueError(
            f"score_threshold is {score_threshold}, expected at least {CANDIDATE_FLOOR}: candidates below are not "
            "recorded; choose a higher threshold"
        )
