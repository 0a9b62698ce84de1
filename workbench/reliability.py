"""How far scores can be read as probabilities: recorded or calibrated answers come in, the share of hits per step of
score goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.ranking import greedy_marks

if TYPE_CHECKING:
    from workbench.evaluate import PairRecord


def is_hit(record: PairRecord) -> np.ndarray:
    """(D,) bool: which candidates take an object at IoU 0.5, best score first; a second one on an object does not."""
    overlaps = record.overlaps(boxes=not record.has_masks)
    return greedy_marks(overlaps, np.zeros((len(overlaps), 0)))[0][0]


@dataclass(frozen=True)
class ReliabilityBin:
    """Candidates with scores from `low` to `high`: how many, their mean score, and the share that hits an object."""

    low: float
    high: float
    count: int
    mean_score: float
    hit_share: float


def reliability(records: Sequence[PairRecord], num_bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """How far scores can be read as probabilities, in equal steps of score.

    Args:
        records: recorded or calibrated ones.
        num_bins: steps between 0 and 1.

    Returns:
        Steps that hold a candidate, lowest first; where mean score and share of hits agree, scores are probabilities.
    """
    scores = np.array([score for record in records for score in record.scores])
    hits = np.concatenate([is_hit(record) for record in records]) if len(scores) else np.zeros(0, bool)
    place = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    return tuple(
        ReliabilityBin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            count=int((place == number).sum()),
            mean_score=float(scores[place == number].mean()),
            hit_share=float(hits[place == number].mean()),
        )
        for number in np.unique(place).tolist()
    )
