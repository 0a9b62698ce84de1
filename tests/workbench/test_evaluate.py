"""evaluate() with a predictor that answers from drawn masks, so that every number can be told beforehand."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from workbench.evaluate import Evaluation, PairRecord, evaluate, metrics_of, pool_folds, write_json
from workbench.examples import Concept, Example, ExampleSet, boxes_of_masks
from workbench.record_metrics import CANDIDATE_FLOOR, LOWER_IS_BETTER, MASK_METRICS, METRIC_NAMES

SIZE = 48


def square(left: int, top: int, side: int = 12) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


@dataclass(frozen=True)
class Answer:
    """The fields of a prediction that evaluate() reads."""

    masks: np.ndarray
    scores: np.ndarray
    boxes_xyxy_px: np.ndarray
    presence_score: float


def answer(*found: tuple[np.ndarray, float], presence: float = 0.9) -> Answer:
    masks = np.array([mask for mask, _ in found], dtype=bool).reshape(-1, SIZE, SIZE)
    scores = np.array([score for _, score in found], dtype=np.float32)
    return Answer(masks, scores, boxes_of_masks(masks), presence)


@dataclass
class OraclePredictor:
    """Knows the answers by the colour of the picture's first pixel; to other phrases it answers with nothing."""

    answers: dict[tuple[int, str], Answer]
    asked: list[list[str]] = field(default_factory=list)
    thresholds: list[float | None] = field(default_factory=list)
    colour: int = -1

    def set_image(self, image: np.ndarray) -> None:
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.uint8
        self.colour = int(image[0, 0, 0])

    def predict(self, prompts: list[str], *, score_threshold: float | None = None) -> list[Answer]:
        self.asked.append(list(prompts))
        self.thresholds.append(score_threshold)
        return [self.answers.get((self.colour, phrase), answer(presence=0.1)) for phrase in prompts]


def picture(number: int, *concepts: Concept) -> Example:
    return Example(f"image {number}", np.full((SIZE, SIZE, 3), number, np.uint8), SIZE, SIZE, concepts)


A, B, C = square(2, 2), square(30, 4), square(16, 30)
DATA = ExampleSet(
    "squares",
    (
        picture(0, Concept("red square", masks=np.stack([A, B])), Concept("blue star", "absent")),
        picture(1, Concept("red square", "absent"), Concept("blue star", masks=C[None])),
        picture(2, Concept("red square", masks=C[None]), Concept("green cup", "unknown")),
    ),
)
PERFECT = {
    (0, "red square"): answer((A, 0.9), (B, 0.8)),
    (1, "blue star"): answer((C, 0.7)),
    (2, "red square"): answer((C, 0.95)),
}


def measured(answers: dict, data: ExampleSet = DATA, **options) -> Evaluation:
    return evaluate(OraclePredictor(answers), data, model_name="oracle", progress=False, **options)


# ----------------------------------------------------------------------------------------------------------- measuring
def test_perfect_answers_score_one_everywhere():
    evaluation = measured(PERFECT)
    assert tuple(evaluation.metrics) == METRIC_NAMES
    expected = {name: 0.0 if name in LOWER_IS_BETTER else 1.0 for name in METRIC_NAMES}
    assert evaluation.metrics == pytest.approx(expected, abs=1e-3)
    assert (evaluation.model, evaluation.data, evaluation.score_threshold) == ("oracle", "squares", 0.5)
    assert evaluation.seconds > 0
    assert evaluation.notes == ()


def test_all_known_phrases_of_an_image_are_asked_at_once_and_unknown_ones_never():
    predictor = OraclePredictor(PERFECT)
    evaluation = evaluate(predictor, DATA, model_name="oracle", progress=False)
    asked = [["red square", "blue star"], ["red square", "blue star"], ["red square"]]
    assert predictor.asked == asked
    assert predictor.thresholds == [CANDIDATE_FLOOR] * 3
    assert [(record.image_id, record.phrase) for record in evaluation.records] == [
        (f"image {i}", phrase) for i, phrases in enumerate(asked) for phrase in phrases
    ]


def test_a_record_holds_candidates_best_first_with_their_overlaps_and_outlines():
    shifted = square(4, 2)  # shares 10 of 12 columns with A: 120 / 168
    answers = {**PERFECT, (0, "red square"): answer((shifted, 0.3), (B, 0.8), (A, 0.04))}
    record = measured(answers).records[0]
    assert record.scores == pytest.approx((0.8, 0.3))
    np.testing.assert_allclose(record.mask_iou, [[0, 1], [120 / 168, 0]])
    np.testing.assert_allclose(record.box_iou, [[0, 1], [120 / 168, 0]])
    assert record.num_truth == 2
    assert record.presence_score == 0.9
    np.testing.assert_array_equal(record.masks(0.1), np.stack([B, shifted]))
    np.testing.assert_array_equal(record.masks(0.5), B[None])
    assert record.masks(0.9).shape == (0, 0, 0)


def test_one_miss_and_one_false_alarm_give_the_numbers_counted_by_hand():
    answers = {**PERFECT, (0, "red square"): answer((A, 0.9)), (1, "red square"): answer((B, 0.6))}
    metrics = measured(answers).metrics
    # tp 3, fn 1, fp 1 (on an absent phrase); kinds: 3 found, 1 false alarm, 1 silent, 0 missed outright
    assert metrics["pmF1"] == pytest.approx(6 / 7, abs=1e-3)
    assert metrics["F1"] == pytest.approx(6 / 8, abs=1e-3)
    assert metrics["IL_FPR"] == pytest.approx(1 / 2, abs=1e-3)
    assert metrics["IL_recall"] == pytest.approx(1, abs=1e-3)
    assert metrics["IL_MCC"] == pytest.approx(3 / math.sqrt(4 * 3 * 2 * 1), abs=1e-3)
    assert metrics["cgF1"] == pytest.approx(6 / 7 * 3 / math.sqrt(24), abs=1e-3)
    # red square: hits at rank 1 and 2 (0.95, 0.9), false alarm last, 2 of 3 objects: 67 of 101 recall points; star: 1
    assert metrics["AP"] == pytest.approx((67 / 101 + 1) / 2, abs=1e-9)
    assert metrics["mIoU_hits"] == 1.0
    assert metrics["mIoU"] == pytest.approx(3 / 4)  # the missed one has overlap 0
    # one object too few in one answer, one too many in another: 2 of 5 wrong, 2 off for 4 objects
    assert metrics["count_accuracy"] == pytest.approx(3 / 5)
    assert metrics["count_error"] == pytest.approx(2 / 4)
    # red square: A and C found, B missed, B claimed elsewhere, all of one size: 2 of 4 areas shared; star: 1
    assert metrics["semantic_IoU"] == pytest.approx((2 / 4 + 1) / 2)


def test_a_semantic_map_does_not_care_which_candidate_covers_what():
    halves = [A & (np.arange(SIZE) < 8), A & (np.arange(SIZE) >= 8)]
    answers = {**PERFECT, (0, "red square"): answer((B, 0.9), (halves[0], 0.8), (halves[1], 0.7))}
    metrics = measured(answers).metrics
    assert metrics["semantic_IoU"] == 1.0
    assert metrics["mIoU"] < 1.0 and metrics["count_accuracy"] < 1.0


def test_older_records_without_the_area_of_all_objects_have_no_semantic_iou():
    records = [replace(record, truth_rle=None) for record in measured(PERFECT).records]
    assert math.isnan(metrics_of(records)["semantic_IoU"])
    assert metrics_of(records)["mIoU"] == 1.0


def test_a_false_alarm_above_the_hits_lowers_ap_but_not_ap_positive():
    metrics = measured({**PERFECT, (1, "red square"): answer((B, 0.99))}).metrics
    assert metrics["AP_positive"] == pytest.approx(1.0)
    assert metrics["AP"] == pytest.approx((0.75 + 1) / 2, abs=1e-9)  # precision 3/4 once all three are found


def test_masks_and_boxes_are_judged_apart():
    ring = A.copy()
    ring[5:11, 5:11] = False  # same box as A, three quarters of its pixels
    metrics = measured({**PERFECT, (0, "red square"): answer((ring, 0.9), (B, 0.8))}).metrics
    assert metrics["box_AP"] == pytest.approx(1.0)
    assert metrics["box_pmF1"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["AP50"] == pytest.approx(1.0)
    strict = (34 + 33 * 2 / 3) / 101  # above IoU 0.75: hit, false alarm (the ring), hit, of three red squares
    assert metrics["AP"] == pytest.approx(((6 + 4 * strict) / 10 + 1) / 2)
    assert metrics["mIoU_hits"] == pytest.approx((0.75 + 1 + 1 + 1) / 4)


def test_progress_bar_names_the_model_and_can_be_silenced(capsys):
    measured(PERFECT)
    assert capsys.readouterr().err == ""
    evaluate(OraclePredictor(PERFECT), DATA, model_name="after ten shots")
    assert "evaluate after ten shots" in capsys.readouterr().err


def test_answers_that_do_not_fit_are_refused():
    small = Answer(np.ones((1, 8, 8), bool), np.array([0.9]), np.array([[0, 0, 8, 8]]), 0.9)
    with pytest.raises(ValueError, match=r"masks \(1, 8, 8\).*expected \(1, 48, 48\)"):
        measured({(0, "red square"): small})

    class Forgetful(OraclePredictor):
        def predict(self, prompts, *, score_threshold=None):
            return super().predict(prompts, score_threshold=score_threshold)[:1]

    with pytest.raises(ValueError, match="got 1 answers for 2 phrases"):
        evaluate(Forgetful(PERFECT), DATA, model_name="forgetful", progress=False)
    unknown = ExampleSet("nothing known", (picture(0, Concept("cup", "unknown")),))
    with pytest.raises(ValueError, match="'nothing known' has no pair of status positive or absent"):
        measured(PERFECT, unknown)


# --------------------------------------------------------------------------------------------------------------- folds
def test_pooled_folds_are_one_evaluation_of_the_whole_set():
    answers = {**PERFECT, (0, "red square"): answer((A, 0.9)), (1, "red square"): answer((B, 0.6))}
    folds = [measured(answers, judge) for _, judge in DATA.k_fold(3, seed=0)]
    whole, pooled = measured(answers), pool_folds(folds, model_name="three models", data="squares")
    assert sorted(pooled.records, key=str) == sorted(whole.records, key=str)
    assert pooled.metrics == pytest.approx(whole.metrics)
    assert (pooled.model, pooled.data) == ("three models", "squares")
    assert pooled.seconds == pytest.approx(sum(fold.seconds for fold in folds))


def test_folds_that_do_not_belong_together_are_refused():
    whole = measured(PERFECT)
    with pytest.raises(ValueError, match="'image 0', phrase 'red square' was judged in two folds"):
        pool_folds([whole, whole], model_name="m", data="d")
    with pytest.raises(ValueError, match=r"2 evaluations with the score thresholds \[0.4, 0.5\]"):
        pool_folds([whole, measured(PERFECT, score_threshold=0.4)], model_name="m", data="d")
    with pytest.raises(ValueError, match="0 evaluations"):
        pool_folds([], model_name="m", data="d")


# ------------------------------------------------------------------------------------------------------ box-only labels
def box_only(data: ExampleSet, phrases: set[str]) -> ExampleSet:
    def stripped(concept: Concept) -> Concept:
        if concept.phrase in phrases and concept.status == "positive":
            return Concept(concept.phrase, boxes_xyxy_px=concept.boxes_xyxy_px)
        return concept

    examples = (replace(example, concepts=tuple(map(stripped, example.concepts))) for example in data)
    return ExampleSet(data.name, tuple(examples))


def test_box_only_labels_leave_mask_metrics_undefined_and_box_metrics_whole():
    evaluation = measured(PERFECT, box_only(DATA, {"red square", "blue star"}))
    undefined = {name for name, value in evaluation.metrics.items() if math.isnan(value)}
    assert undefined == set(MASK_METRICS)
    assert evaluation.metrics["box_cgF1"] == pytest.approx(1.0, abs=1e-3)
    assert evaluation.metrics["IL_MCC"] == pytest.approx(1.0, abs=1e-3)
    assert evaluation.records[0].mask_iou == ()
    assert len(evaluation.records[0].mask_rles) == 2
    assert "3 pairs are labelled with boxes only" in evaluation.notes[0]


def test_mixed_labels_use_outlined_pairs_for_mask_metrics():
    answers = {**PERFECT, (1, "blue star"): answer()}  # the star, labelled by its box only, is missed
    metrics = measured(answers, box_only(DATA, {"blue star"})).metrics
    assert metrics["pmF1"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["box_pmF1"] == pytest.approx(6 / 7, abs=1e-3)
    assert metrics["IL_recall"] == pytest.approx(2 / 3, abs=1e-3)


# -------------------------------------------------------------------------------------------------- records and sweeps
def test_thresholds_are_swept_without_a_model():
    records = measured({**PERFECT, (1, "red square"): answer((B, 0.6))}).records
    assert metrics_of(records, 0.5)["IL_FPR"] == pytest.approx(0.5, abs=1e-3)
    assert metrics_of(records, 0.65)["IL_FPR"] == 0.0
    assert metrics_of(records, 0.65)["cgF1"] > metrics_of(records, 0.75)["cgF1"]  # 0.75 loses the star
    assert metrics_of(records, 0.95)["AP"] == metrics_of(records, 0.5)["AP"]  # AP needs no threshold
    with pytest.raises(ValueError, match=r"score_threshold is 0.01, expected at least 0.05"):
        metrics_of(records, 0.01)
    with pytest.raises(ValueError, match="0 records"):
        metrics_of([])


def test_a_score_on_the_threshold_counts():
    answers = {**PERFECT, (1, "blue star"): answer((C, 0.5))}
    assert measured(answers, score_threshold=0.5).metrics["pmF1"] == pytest.approx(1.0, abs=1e-3)


def test_notes_say_when_numbers_mean_little():
    present = ExampleSet("present", (picture(0, Concept("red square", masks=np.stack([A, B]))),))
    evaluation = measured(PERFECT, present)
    assert evaluation.metrics["cgF1"] == 0.0
    assert "No absent phrase was asked" in evaluation.notes[0]
    absent = measured({}, ExampleSet("absent", (picture(0, Concept("blue star", "absent")),)))
    assert math.isnan(absent.metrics["AP"])
    assert absent.metrics["IL_FPR"] == 0.0
    assert "No phrase is present" in absent.notes[0]


def test_records_that_contradict_themselves_are_refused():
    good = measured(PERFECT).records[0]
    for change, message in (
        ({"mask_iou": good.mask_iou[:1]}, "mask_iou has 1 rows"),
        ({"num_truth": 3}, "of length 3"),
        ({"scores": good.scores[::-1]}, "best score first"),
        ({"status": "absent"}, "status 'absent' with 2 objects"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(good, **change)


# ---------------------------------------------------------------------------------------------------------- JSON files
def test_saved_evaluations_are_read_back_equal(tmp_path: Path):
    for data in (DATA, box_only(DATA, {"red square", "blue star"})):
        evaluation = measured(PERFECT, data)
        path = tmp_path / "new folder" / "before.json"
        evaluation.save(path)
        again = Evaluation.load(path)
        assert again.records == evaluation.records
        assert again == replace(evaluation, metrics=again.metrics)
        assert again.metrics == pytest.approx(evaluation.metrics, abs=0, nan_ok=True)
        assert metrics_of(again.records) == pytest.approx(evaluation.metrics, abs=0, nan_ok=True)
        assert [file.name for file in path.parent.iterdir()] == ["before.json"]


def test_undefined_metrics_are_null_in_the_file(tmp_path: Path):
    measured(PERFECT, box_only(DATA, {"red square", "blue star"})).save(tmp_path / "e.json")
    content = json.loads((tmp_path / "e.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["metrics"]["cgF1"] is None


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path):
    path = tmp_path / "e.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_files_say_what_is_wrong(tmp_path: Path):
    path = tmp_path / "e.json"
    with pytest.raises(FileNotFoundError, match="no evaluation at"):
        Evaluation.load(path)
    path.write_text("{half a fi")
    with pytest.raises(ValueError, match="is not JSON"):
        Evaluation.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="has the format 'list', expected 'workbench-evaluation-1'"):
        Evaluation.load(path)
    evaluation = measured(PERFECT)
    evaluation.save(path)
    content = json.loads(path.read_text())
    for damage in ({"records": [{}]}, {"metrics": None}, {"seconds": "soon"}):
        path.write_text(json.dumps({**content, **damage}))
        with pytest.raises(ValueError, match="is damaged"):
            Evaluation.load(path)
    content["records"][0]["scores"].append(0.1)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is damaged.*image 'image 0', phrase 'red square'"):
        Evaluation.load(path)


def test_records_need_no_outline_field_when_everything_is_outlined():
    record = PairRecord("a", "cup", "absent", 0.2, (), (), (), 0, ())
    assert record.has_masks
    assert record.counts(0.5).is_silent_and_absent
