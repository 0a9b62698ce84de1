"""Working thresholds and temperatures per phrase, found on the few labelled pictures by leaving one out at a time.

Records of pictures the model was not trained on come in (those of a k-fold, `ExampleSet.k_fold`; on pictures that were
learnt by heart every threshold looks right). A `Calibration` goes out: one curve from recorded to calibrated score per
phrase, such that 0.5 is the working threshold everywhere, and what precision and recall to expect there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.special import betaincinv, expit, logit

from workbench.evaluate import PairRecord
from workbench.pair_metrics import PairCounts, Tally, pair_counts, rates
from workbench.reliability import is_hit

SET_PAIRS = 30.0  # the whole set counts as this many further pairs of every phrase, at most
PRIOR_PAIRS = 2.0  # a shift of two logits must be worth this many pairs
PRIOR_PRESENCE = 3.0  # logits: standard deviation of the presence shift that is expected beforehand
PRIOR_OBJECTS = 2.0  # the precision and recall of the whole set count as this many further objects of every phrase
_SHIFTS = np.linspace(-4.0, 4.0, 81)  # logits
_PARTS = 10  # of the pictures, left out in turn
_WINDOW = 1.0  # logits: standard deviation of the neighbourhood over which a shift must do well
_TEMPERATURES = np.geomspace(0.25, 4.0, 41)
_FORMAT = "workbench-calibration-1"


# ------------------------------------------------------------------------------------------------------------- results
@dataclass(frozen=True)
class Share:
    """An expected fraction and its 95 % interval, all in 0..1.

    The fraction is shrunk towards that of the set; the interval rests on the phrase's own objects alone (Jeffreys'
    interval), as if they were independent, and is therefore wide where there are few.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PhraseCalibration:
    """How scores of one phrase are mended: the two logits behind a score are shifted, and what comes out is tempered.

    score = sigmoid(match) * sigmoid(presence) becomes
    sigmoid(logit(sigmoid(match + shift) * sigmoid(presence + presence_shift)) / temperature).

    Args:
        phrase: empty for the whole set.
        temperature: above 1 makes scores less extreme; 0.5 stays.
        shift: logits; positive where the model is too shy about single objects.
        presence_shift: logits; positive where it denies too often that a phrase is in the picture.
        precision, recall: to expect at the working threshold, from pictures left out in turn (objects found with an
            IoU of 0.5 or more); None where the phrase has no positive pair, so that nothing can be said.
        num_pairs, num_positive: the pairs this rests on, and how many of them show the phrase.

    Example:
        >>> shy = PhraseCalibration("cup", 1.0, shift=2.0, presence_shift=0.0, precision=None, recall=None)
        >>> round(shy.threshold, 3), shy.scores([0.5, 0.1], presence_score=0.9).round(2).tolist()
        (0.119, [0.81, 0.43])
    """

    phrase: str
    temperature: float
    shift: float
    presence_shift: float
    precision: Share | None
    recall: Share | None
    num_pairs: int = 0
    num_positive: int = 0

    def __post_init__(self) -> None:
        values = self.temperature, self.shift, self.presence_shift
        if not (self.temperature > 0 and all(map(math.isfinite, values))):
            raise ValueError(
                f"phrase {self.phrase!r}: temperature, shift and presence_shift are {values}; expected finite numbers, "
                "the first above 0"
            )

    @property
    def threshold(self) -> float:
        """The match that becomes 0.5: from this score on a candidate counts as found where the presence is certain."""
        return float(expit(-self.shift))

    def presence(self, presence_score: float) -> float:
        """The corrected presence score."""
        return float(expit(_logits(presence_score) + self.presence_shift))

    def scores(self, scores: Sequence[float] | np.ndarray, presence_score: float) -> np.ndarray:
        """(D,) calibrated scores of one pair's recorded ones (D,), in the same order."""
        match = expit(_match_logits(scores, presence_score) + self.shift)
        return expit(_logits(match * self.presence(presence_score)) / self.temperature)

    def cautious(self) -> PhraseCalibration:
        """The same, but never above the recorded score, and with nothing expected."""
        lower = {name: min(getattr(self, name), 0.0) for name in ("shift", "presence_shift")}
        return replace(self, temperature=1.0, precision=None, recall=None, **lower)


@dataclass(frozen=True)
class Calibration:
    """The curves of all phrases of a set; made by `calibrate`.

    Args:
        overall: of the whole set.
        phrases: one per phrase.
    """

    overall: PhraseCalibration
    phrases: tuple[PhraseCalibration, ...]

    def of(self, phrase: str) -> PhraseCalibration:
        """The curve of a phrase; for one that was not calibrated the set's, kept from raising any score."""
        found = next((curve for curve in self.phrases if curve.phrase == phrase), None)
        return found or replace(self.overall.cautious(), phrase=phrase, num_pairs=0, num_positive=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the thresholds are there for readers."""
        curves = [{**asdict(curve), "threshold": curve.threshold} for curve in (self.overall, *self.phrases)]
        return {"format": _FORMAT, "overall": curves[0], "phrases": curves[1:]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """What `to_dict` gave.

        Raises:
            ValueError: another format, a damaged entry, or a threshold that contradicts its shift.
        """
        if content.get("format") != _FORMAT:
            raise ValueError(f"the format is {content.get('format')!r}, expected {_FORMAT!r}; calibrate again")
        try:
            overall = _curve_from_dict(content["overall"])
            return cls(overall, tuple(_curve_from_dict(entry) for entry in content["phrases"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the calibration is damaged ({type(error).__name__}: {error}); calibrate again"
            ) from error


def _curve_from_dict(content: Mapping[str, Any]) -> PhraseCalibration:
    values = {name: value for name, value in content.items() if name != "threshold"}
    for name in ("precision", "recall"):
        values[name] = None if values[name] is None else Share(**values[name])
    curve = PhraseCalibration(**values)
    if abs(curve.threshold - content["threshold"]) > 1e-6:
        raise ValueError(
            f"phrase {curve.phrase!r}: threshold {content['threshold']} with shift {curve.shift}, expected "
            f"{curve.threshold:.6f}; a threshold follows from its shift, change both"
        )
    return curve


# --------------------------------------------------------------------------------------------------------- calibrating
def calibrate(records: Sequence[PairRecord]) -> Calibration:
    """The curve of every phrase from a few measured pairs.

    A score is match times presence, and either logit may be off. The shift of the presence comes first, from one
    logistic regression over all pairs (is the phrase there?) with slope 1. It is common to all phrases: one number of
    the model, for which the pairs of one phrase are too few. Then the shift of the match is the one with the best cgF1
    at 0.5 (the best F1 if no pair is absent, because cgF1 is then 0 everywhere), and not only there but around it: the
    metric is averaged over neighbouring shifts, so that one lucky pair does not decide. Last, the temperature is the
    likeliest one for hits and false candidates, given the shifts.

    Shrinking: besides its own pairs, each phrase listens to all pairs of the set, which together weigh no more than
    `SET_PAIRS` pairs. A phrase seen twice thus takes nearly the shift of the set, one seen a hundred times its own; the
    weights enter the counts themselves, so no second estimator is needed. The set in turn keeps to shift 0 and
    temperature 1 unless there is evidence: two logits must be worth `PRIOR_PAIRS`, and a shift of the match must be
    better than none by more than two standard errors, for ten pictures like one or another threshold by chance. A
    phrase that is in no picture is never raised, whatever the others say: its calibrated scores stay at or below the
    recorded ones.

    How well: on simulated answers to 5 phrases in 10 pictures, a shift of the match by -2 cost 22 points of cgF1, one
    of the presence 12, of which 1 point is left on average after calibration (at most 3). A match that is too sure by 2
    is undone in part only: of 7 points, 5 are left. Where nothing was shifted, 1 point is lost.

    Args:
        records: of pictures that were not trained on, every phrase with positive and, best, absent pairs.

    Returns:
        One curve per phrase and one for the set. Expected precision and recall are measured on each picture with the
        shift of the match found without it, and shrunk towards those of the set like `PRIOR_OBJECTS` objects more.

    Raises:
        ValueError: no record, or none whose phrase is present.

    Example:
        >>> rle = {"size": [4, 4], "counts": "5163"}
        >>> hit = PairRecord("", "cup", "positive", 0.9, (0.3,), ((0.9,),), ((0.9,),), 1, (rle,))
        >>> shy = [replace(hit, image_id=str(number)) for number in range(9)]
        >>> calibration = calibrate(shy)
        >>> calibration.of("cup").threshold < 0.3 and calibrated(shy, calibration)[0].scores[0] > 0.5
        True
    """
    if not any(record.num_truth for record in records):
        raise ValueError(
            f"{len(records)} records were given and no phrase is present in any; expected at least one positive pair, "
            "without which a threshold means nothing"
        )
    phrases = list(dict.fromkeys(record.phrase for record in records))
    phrase_of = np.array([phrases.index(record.phrase) for record in records])
    members = np.concatenate([np.ones((1, len(records)), bool), phrase_of == np.arange(len(phrases))[:, None]])
    is_positive = np.array([record.num_truth > 0 for record in records])
    presence_shift = _presence_shift(records, is_positive)
    presences = expit(_logits([record.presence_score for record in records]) + presence_shift)
    weights = _shrunk(members, np.ones_like(members))
    weights[0] = 1.0
    counts = _Counts.of(records, presences)
    shifts = counts.best_shifts(weights)
    temperatures = _temperatures(records, presences, weights, shifts)
    found = _found_when_left_out(counts, [record.image_id for record in records], members[1 + phrase_of], is_positive)
    curves = []
    for row, (phrase, chosen) in enumerate(zip(["", *phrases], members, strict=True)):
        precision, recall = _expected(chosen @ found, found.sum(axis=0))
        curve = PhraseCalibration(
            phrase=phrase,
            temperature=float(temperatures[row]),
            shift=float(shifts[row]),
            presence_shift=presence_shift,
            precision=precision,
            recall=recall,
            num_pairs=int(chosen.sum()),
            num_positive=int((chosen & is_positive).sum()),
        )
        curves.append(curve if curve.num_positive else curve.cautious())
    return Calibration(curves[0], tuple(curves[1:]))


def calibrated(records: Sequence[PairRecord], calibration: Calibration) -> tuple[PairRecord, ...]:
    """The records with calibrated scores and presence scores, so that 0.5 is the working threshold of every phrase.

    Overlaps and outlines stay; so does the order within a record.
    """
    changed = []
    for record in records:
        curve = calibration.of(record.phrase)
        scores = tuple(curve.scores(record.scores, record.presence_score).tolist())
        changed.append(replace(record, scores=scores, presence_score=curve.presence(record.presence_score)))
    return tuple(changed)


def _logits(scores: Sequence[float] | np.ndarray | float) -> np.ndarray:
    return logit(np.clip(np.asarray(scores, dtype=np.float64), 1e-6, 1 - 1e-6))


def _match_logits(scores: Sequence[float] | np.ndarray, presence_score: float) -> np.ndarray:
    """(D,) logits of the match in scores that are match times presence."""
    return _logits(np.asarray(scores, dtype=np.float64) / max(presence_score, 1e-6))


# ------------------------------------------------------------------------------------------------------------ presence
def _presence_shift(records: Sequence[PairRecord], is_positive: np.ndarray) -> float:
    """Likeliest shift of the presence logits; 0 where all pairs are present, so that nothing speaks against yes."""
    if is_positive.all():
        return 0.0
    logits, shift = _logits([record.presence_score for record in records]), 0.0
    for _ in range(100):  # Newton's method, held back where the curve is flat
        belief = expit(logits + shift)
        slope = (is_positive - belief).sum() - shift / PRIOR_PRESENCE**2
        step = slope / ((belief * (1 - belief)).sum() + 1 / PRIOR_PRESENCE**2)
        shift += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-9:
            break
    return shift


# -------------------------------------------------------------------------------------------------------------- shifts
def _shrunk(own: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """(R, P) weights of pairs: those of the phrase, and everyone, in all with `SET_PAIRS` pairs at most."""
    return own + everyone * np.minimum(SET_PAIRS / np.maximum(everyone.sum(axis=1, keepdims=True), 1), 1.0)


@dataclass(frozen=True, eq=False)
class _Counts:
    """The counts of P pairs at each shift of the match, (S, P) rows into a tally of all counts that occur."""

    tally: Tally
    rows: np.ndarray
    metric: str
    parts: np.ndarray  # (P,) the part of the pictures that a pair belongs to

    @classmethod
    def of(cls, records: Sequence[PairRecord], presences: np.ndarray) -> _Counts:
        """Counts each pair once for each number of candidates it can keep, at corrected presences (P,)."""
        counts: list[PairCounts] = []
        rows = np.empty((len(_SHIFTS), len(records)), dtype=np.intp)
        for column, (record, presence) in enumerate(zip(records, presences, strict=True)):
            overlaps = record.overlaps(boxes=not record.has_masks)
            needed = logit(min(0.5 / presence, 1.0))  # of the match, for a score of 0.5; infinite for most absent ones
            matches = _match_logits(record.scores, record.presence_score)
            num_kept = (matches[:, None] + _SHIFTS >= needed).sum(axis=0).tolist()
            places = {number: len(counts) + place for place, number in enumerate(dict.fromkeys(num_kept))}
            counts += [pair_counts(overlaps[:number]) for number in places]
            rows[:, column] = [places[number] for number in num_kept]
        _, image = np.unique([record.image_id for record in records], return_inverse=True)
        metric = "cgF1" if any(record.num_truth == 0 for record in records) else "F1"
        return cls(Tally.of(counts), rows, metric, image % _PARTS)

    def best_shifts(self, weights: np.ndarray) -> np.ndarray:
        """(R,) the best shift for each row of weights (R, P); 0 unless it is surely better than none.

        That is: by more than twice the standard error of the difference, from leaving out parts of the pictures.
        """
        values = self._smooth(weights)
        best, every, none = values.argmax(axis=0), np.arange(len(weights)), int(np.abs(_SHIFTS).argmin())
        left_out = [self._smooth(weights * (self.parts != part)) for part in np.unique(self.parts)]
        gains = np.stack([part[best, every] - part[none] for part in left_out])  # (parts, R)
        error = np.sqrt((len(left_out) - 1) * gains.var(axis=0))
        is_sure = values[best, every] - values[none] > 2 * error
        return np.where(is_sure, _SHIFTS[best], 0.0)

    def _smooth(self, weights: np.ndarray) -> np.ndarray:
        """(S, R) how good each shift and those near it are, for each row of weights (R, P)."""
        values = np.stack([rates(self._at(row).weighted(weights))[self.metric] for row in self.rows])
        near = np.exp(-0.5 * ((_SHIFTS[:, None] - _SHIFTS) / _WINDOW) ** 2)
        smooth = near @ values / near.sum(axis=1, keepdims=True)
        smooth -= PRIOR_PAIRS * (_SHIFTS[:, None] / 2.0) ** 2 / np.maximum(weights.sum(axis=1), 1.0)
        return smooth

    def found(self, shifts: np.ndarray) -> np.ndarray:
        """(P, 3) found, false and missed at IoU 0.5, each pair at its own shift (P,), one of the searched ones."""
        place = np.abs(_SHIFTS[:, None] - shifts).argmin(axis=0)
        at = self._at(self.rows[place, np.arange(len(shifts))])
        return np.stack([at.tp[:, 0], at.fp[:, 0], at.fn[:, 0]], axis=1)

    def _at(self, rows: np.ndarray) -> Tally:
        return Tally(*(getattr(self.tally, field.name)[rows] for field in fields(Tally)))


def _temperatures(
    records: Sequence[PairRecord], presences: np.ndarray, weights: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """(R,) likeliest temperature for each row of weights (R, P), with a prior around 1 worth one candidate."""
    pair_of = np.repeat(np.arange(len(records)), [len(record.scores) for record in records])
    if not len(pair_of):
        return np.ones(len(weights))
    matches = np.concatenate([_match_logits(record.scores, record.presence_score) for record in records])
    hits = np.concatenate([is_hit(record) for record in records])
    best = []
    for row, shift in zip(weights, shifts, strict=True):
        logits = _logits(expit(matches + shift) * presences[pair_of])
        losses = np.logaddexp(0.0, np.where(hits, -logits, logits) / _TEMPERATURES[:, None]) @ row[pair_of]
        best.append(_TEMPERATURES[(losses + 0.5 * np.log(_TEMPERATURES) ** 2).argmin()])
    return np.array(best)


# ------------------------------------------------------------------------------------------------------------ expected
def _found_when_left_out(
    counts: _Counts, image_ids: Sequence[str], members: np.ndarray, is_positive: np.ndarray
) -> np.ndarray:
    """(P, 3) found, false and missed at IoU 0.5 of each pair, at the shift found without its picture.

    Args:
        counts: of P pairs.
        image_ids: their pictures.
        members: (P, P) row: which pairs have the phrase of this pair.
        is_positive: (P,).

    Returns:
        Zeros when there is only one picture, which cannot be left out.
    """
    images = np.array(image_ids)
    others = images[:, None] != images
    if not others.any():
        return np.zeros((len(images), 3))
    own = members & others
    shifts = counts.best_shifts(_shrunk(own, others))
    return counts.found(np.where((own & is_positive).any(axis=1), shifts, np.minimum(shifts, 0.0)))


def _expected(own: np.ndarray, total: np.ndarray) -> tuple[Share | None, Share | None]:
    """Precision and recall from found, false and missed (3,) of a phrase, with those of the set as prior."""
    if not total.sum():
        return None, None
    shares = []
    for wrong in (1, 2):
        prior = (total[0] + 1.0) / (total[0] + total[wrong] + 2.0)
        good, bad = float(own[0]), float(own[wrong])
        low, high = (float(betaincinv(good + 0.5, bad + 0.5, level)) for level in (0.025, 0.975))
        shares.append(Share(float((good + PRIOR_OBJECTS * prior) / (good + bad + PRIOR_OBJECTS)), low, high))
    return shares[0], shares[1]
