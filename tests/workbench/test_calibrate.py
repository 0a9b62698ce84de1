"""calibrate() on drawn answers of a model whose logits are shifted by a known amount, judged on other pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from workbench.calibrate import Calibration, PhraseCalibration, calibrate, calibrated
from workbench.evaluate import PairRecord
from workbench.pair_metrics import aggregate
from workbench.record_metrics import CANDIDATE_FLOOR
from workbench.reliability import reliability

PHRASES = tuple(f"phrase {number}" for number in range(5))
RLE = {"size": [4, 4], "counts": "5163"}


def answer(
    chance: np.random.Generator, name: str, phrase: str, is_there: bool, match_shift: float, presence_shift: float
) -> PairRecord:
    """One pair: objects with good overlaps and high match logits, some of them twice, and false candidates below."""
    presence = (
        expit(chance.normal(3.5, 1.5) + presence_shift) if is_there else expit(chance.normal(-3, 1.5) + presence_shift)
    )
    num_truth = int(chance.integers(1, 5)) if is_there else 0
    candidates: list[tuple[float, np.ndarray]] = []
    for number in range(num_truth):
        overlaps = np.eye(num_truth)[number]
        candidates.append((chance.normal(2.2, 1.3), overlaps * chance.uniform(0.6, 0.97)))
        if chance.random() < 0.2:
            candidates.append((candidates[-1][0] - chance.exponential(1.5), overlaps * chance.uniform(0.5, 0.9)))
    for _ in range(chance.integers(0, 5)):
        candidates.append((chance.normal(-1.5 if is_there else 0.0, 1.2), chance.uniform(0, 0.3, num_truth)))
    scored = [(float(expit(match + match_shift) * presence), tuple(row.tolist())) for match, row in candidates]
    scored = sorted((pair for pair in scored if pair[0] >= CANDIDATE_FLOOR), key=lambda pair: -pair[0])
    rows = tuple(row for _, row in scored)
    status = "positive" if is_there else "absent"
    scores = tuple(score for score, _ in scored)
    return PairRecord(name, phrase, status, float(presence), scores, rows, rows, num_truth, (RLE,) * len(rows))


def answers(
    seed: int, images: int, *, match_shift: float = 0.0, presence_shift: float = 0.0, off: tuple[float, ...] = (0,) * 5
) -> list[PairRecord]:
    """The same draws whatever the shifts; `off` moves the match logits of each phrase."""
    chance = np.random.default_rng([seed, 8])
    return [
        answer(chance, f"set {seed} image {image}", phrase, chance.random() < 0.5, match_shift + extra, presence_shift)
        for image in range(images)
        for phrase, extra in zip(PHRASES, off, strict=True)
    ]


def cgf1(records) -> float:
    return aggregate([record.counts(0.5) for record in records])["cgF1"]


# ------------------------------------------------------------------------------------------------------------ recovery
@pytest.mark.parametrize("shift", [{"match_shift": -2.0}, {"presence_shift": -2.0}], ids=lambda shift: [*shift][0])
def test_a_logit_shift_of_minus_two_is_recovered_on_other_pictures(shift):
    unshifted, shifted, mended = [], [], []
    for seed in range(3):
        judge = answers(100 + seed, 60, **shift)
        unshifted.append(cgf1(answers(100 + seed, 60)))
        shifted.append(cgf1(judge))
        mended.append(cgf1(calibrated(judge, calibrate(answers(seed, 20, **shift)))))
    assert np.mean(shifted) < np.mean(unshifted) - 0.1
    assert np.mean(mended) > np.mean(unshifted) - 0.02
    assert min(np.subtract(mended, unshifted)) > -0.04


def test_the_shift_of_the_presence_is_told_from_that_of_the_match():
    plain = calibrate(answers(0, 20)).overall
    shy = calibrate(answers(0, 20, presence_shift=-2.0)).overall
    assert shy.presence_shift - plain.presence_shift == pytest.approx(2.0, abs=0.3)
    assert shy.shift == pytest.approx(plain.shift, abs=0.3)
    strict = calibrate(answers(0, 20, match_shift=-2.0)).overall
    assert strict.presence_shift == plain.presence_shift
    assert 1.0 < strict.shift - plain.shift < 3.0


def test_a_model_whose_threshold_is_right_keeps_it():
    """Ten pictures always like some other threshold a little better, by chance."""
    losses, shifts = [], []
    for seed in range(6):
        calibration, judge = calibrate(answers(seed, 10)), answers(100 + seed, 60)
        losses.append(cgf1(judge) - cgf1(calibrated(judge, calibration)))
        shifts += [abs(curve.shift) for curve in calibration.phrases]
    assert np.mean(losses) < 0.01
    assert np.mean(np.array(shifts) == 0.0) > 0.6


@pytest.mark.parametrize("shift", [{"match_shift": 2.0}, {"presence_shift": 2.0}], ids=lambda shift: [*shift][0])
def test_an_overconfident_model_is_recovered_too(shift):
    judge = calibrated(answers(100, 80, **shift), calibrate(answers(0, 20, **shift)))
    assert cgf1(judge) > cgf1(answers(100, 80)) - 0.03


def test_calibrating_a_good_model_does_no_harm():
    judge = answers(100, 80)
    assert cgf1(calibrated(judge, calibrate(answers(0, 20)))) > cgf1(judge) - 0.02


def test_phrases_that_are_off_by_different_amounts_get_different_thresholds():
    off = (-2.5, -1.0, 0.0, 1.0, 2.5)
    curves = calibrate(answers(0, 30, off=off)).phrases
    shifts = [curve.shift for curve in curves]
    assert shifts == sorted(shifts, reverse=True)
    assert shifts[0] - shifts[-1] > 1.0


# ----------------------------------------------------------------------------------------------------------- shrinking
def test_a_phrase_seen_once_keeps_near_the_set_and_one_seen_often_has_its_own_threshold():
    off = (-3.0, 0.0, 0.0, 0.0, 0.0)
    many = answers(0, 24, off=off)
    first = next(r for r in many if r.phrase == PHRASES[0] and r.num_truth)
    few = [r for r in many if r.phrase != PHRASES[0] or r is first]
    own, shrunk = calibrate(many), calibrate(few)
    assert abs(shrunk.of(PHRASES[0]).shift - shrunk.overall.shift) < 0.5
    assert own.of(PHRASES[0]).shift > shrunk.of(PHRASES[0]).shift + 0.5
    assert (shrunk.of(PHRASES[0]).num_pairs, shrunk.of(PHRASES[0]).num_positive) == (1, 1)


def test_a_phrase_without_positive_pair_never_becomes_more_confident():
    records = [
        r for r in answers(0, 12, match_shift=-2.0, presence_shift=-2.0) if r.phrase != "phrase 0" or not r.num_truth
    ]
    calibration = calibrate(records)
    assert calibration.overall.shift > 0.5 and calibration.overall.presence_shift > 0.5
    for phrase in ("phrase 0", "a phrase nobody asked for"):
        curve = calibration.of(phrase)
        assert curve.num_positive == 0 and curve.precision is None and curve.recall is None
        for presence in (0.01, 0.5, 0.999):
            scores = presence * np.linspace(0, 1, 101)
            assert (curve.scores(scores, presence) <= scores + 2e-6).all()
            assert curve.presence(presence) <= presence + 1e-9


def test_little_evidence_leaves_the_scores_alone():
    hit = PairRecord("a", "cup", "positive", 0.95, (0.9,), ((0.9,),), ((0.9,),), 1, (RLE,))
    curve = calibrate([hit]).of("cup")
    assert (curve.shift, curve.presence_shift) == (pytest.approx(0.0, abs=0.5), 0.0)
    assert 0.5 <= curve.temperature <= 1.5
    assert curve.precision is None, "one picture cannot be left out"


def test_without_a_positive_pair_nothing_can_be_calibrated():
    with pytest.raises(ValueError, match="1 records were given and no phrase is present"):
        calibrate([PairRecord("a", "cup", "absent", 0.1, (), (), (), 0, ())])


# ------------------------------------------------------------------------------------------------------------ expected
def test_expected_precision_and_recall_hold_on_other_pictures():
    calibration = calibrate(answers(3, 30))
    judge = calibrated(answers(103, 120), calibration)
    counts = [record.counts(0.5) for record in judge]
    found, false, missed = (sum(int(getattr(c, name)[0]) for c in counts) for name in ("tp", "fp", "fn"))
    for share, value in (
        (calibration.overall.precision, found / (found + false)),
        (calibration.overall.recall, found / (found + missed)),
    ):
        assert share.low < share.value < share.high
        assert share.value == pytest.approx(value, abs=0.06)


def test_intervals_are_wider_for_rare_phrases():
    records = answers(0, 16)
    rare = [r for r in records if r.phrase != PHRASES[0] or r.image_id.endswith(("image 1", "image 2", "image 3"))]
    few, all_of_it = calibrate(rare).of(PHRASES[0]).recall, calibrate(records).of(PHRASES[0]).recall
    if few is not None:
        assert few.high - few.low > all_of_it.high - all_of_it.low


# ------------------------------------------------------------------------------------------------------------- records
def test_the_order_of_candidates_and_everything_but_scores_stay():
    records = answers(0, 6)
    changed = calibrated(records, calibrate(records))
    for old, new in zip(records, changed, strict=True):
        assert replace(new, scores=old.scores, presence_score=old.presence_score) == old
        assert list(new.scores) == sorted(new.scores, reverse=True)


def test_the_two_logits_are_shifted_and_then_tempered():
    curve = PhraseCalibration("cup", 2.0, 1.3, -0.7, None, None)
    match, presence = 0.4, 1.1
    score = expit(match) * expit(presence)
    expected = expit(match + 1.3) * expit(presence - 0.7)
    assert curve.scores([score], expit(presence))[0] == pytest.approx(expit(logit(expected) / 2.0))
    assert curve.presence(expit(presence)) == pytest.approx(expit(presence - 0.7))
    certain = replace(curve, presence_shift=0.0)
    assert certain.scores([curve.threshold], 1.0)[0] == pytest.approx(0.5, abs=1e-5)


def test_box_only_pairs_are_judged_by_boxes():
    masks = answers(0, 8)
    boxes = [replace(r, mask_iou=(), has_masks=False) for r in masks]
    assert calibrate(boxes).phrases == calibrate(masks).phrases


# ---------------------------------------------------------------------------------------------------------------- JSON
def test_json_round_trip():
    calibration = calibrate([r for r in answers(0, 4) if r.phrase != PHRASES[0] or not r.num_truth])
    text = json.dumps(calibration.to_dict(), allow_nan=False)
    assert Calibration.from_dict(json.loads(text)) == calibration


def test_damaged_calibrations_are_refused():
    content = calibrate(answers(0, 3)).to_dict()
    with pytest.raises(ValueError, match="the format is None, expected 'workbench-calibration-1'"):
        Calibration.from_dict({})
    with pytest.raises(ValueError, match="is damaged"):
        Calibration.from_dict({**content, "phrases": [{"phrase": "cup"}]})
    with pytest.raises(ValueError, match="a threshold follows from its shift"):
        Calibration.from_dict({**content, "overall": {**content["overall"], "threshold": 0.9}})
    with pytest.raises(ValueError, match="the first above 0"):
        PhraseCalibration("cup", 0.0, 0.0, 0.0, None, None)


# --------------------------------------------------------------------------------------------------------- reliability
def test_calibrating_brings_scores_nearer_to_the_share_of_hits():
    def error(records):
        bins = reliability(records)
        return sum(b.count * abs(b.mean_score - b.hit_share) for b in bins) / sum(b.count for b in bins)

    judge = answers(100, 60, match_shift=-2.0)
    assert error(calibrated(judge, calibrate(answers(0, 20, match_shift=-2.0)))) < error(judge) - 0.05
