"""Whether the 95 % intervals of compare() hold what they promise: simulated sets with a known true change."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.compare import compare
from workbench.evaluate import Evaluation, PairRecord

# With 200 sets the share itself is uncertain by 1.7 points: the first 200 alone give 0.89 for box_pmF1, all 1000 0.93.
NUM_SETS, NUM_IMAGES, NUM_RESAMPLES = 1000, 40, 400
METRICS = ("box_pmF1", "box_cgF1", "IL_FPR", "count_accuracy")
RLE = {"size": [4, 4], "counts": "5163"}


def draw_pair(chance: np.random.Generator, image: str, phrase: str, hardness: float) -> tuple[PairRecord, PairRecord]:
    """Answers of two models to one question; both suffer from a hard image, the second one finds more, claims less."""
    num_truth = int(chance.integers(1, 4)) if chance.random() < 0.6 else 0
    records = []
    for found_share, alarm_share in ((0.55, 0.4), (0.75, 0.25)):
        is_found = chance.random(num_truth) < found_share + hardness
        rows = [row for row, hit in zip(np.eye(num_truth), is_found, strict=True) if hit]
        rows += [np.zeros(num_truth)] * int(chance.random() < alarm_share - hardness)
        overlaps = tuple(tuple(row.tolist()) for row in rows)
        status = "positive" if num_truth else "absent"
        scores = (0.9,) * len(rows)
        record = PairRecord(image, phrase, status, 0.9, scores, (), overlaps, num_truth, (RLE,) * len(rows), False)
        records.append(record)
    return records[0], records[1]


def draw_set(seed: int, num_images: int) -> tuple[Evaluation, Evaluation]:
    chance = np.random.default_rng([seed, 17])
    pairs = []
    for image in range(num_images):
        hardness = chance.uniform(-0.2, 0.2)
        pairs += [draw_pair(chance, f"image {image}", phrase, hardness) for phrase in ("cup", "star")]
    return tuple(
        Evaluation(name, "drawn", 0.5, records, {}, 0.0)
        for name, records in zip(("before", "after"), zip(*pairs, strict=True), strict=True)
    )


@pytest.mark.slow
def test_nineteen_of_twenty_intervals_hold_the_true_change():
    truth = compare(*draw_set(10_000, 4000), num_resamples=1)
    hits = dict.fromkeys(METRICS, 0)
    for seed in range(NUM_SETS):
        comparison = compare(*draw_set(seed, NUM_IMAGES), num_resamples=NUM_RESAMPLES, seed=seed)
        for name in METRICS:
            low, high = comparison.metrics[name].ci95
            hits[name] += low <= truth.metrics[name].delta <= high
    coverage = {name: count / NUM_SETS for name, count in hits.items()}
    assert all(0.90 <= share <= 0.99 for share in coverage.values()), coverage
