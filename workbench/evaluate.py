"""Measures a model on labelled examples: one record per (image, phrase) pair, and the metrics that follow from them.

Records hold every candidate above a low floor with its overlaps and its outline, so that thresholds can be swept, two
models compared and pictures drawn later without a model. An `Evaluation` is written to and read from one JSON file.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sam3.files import write_text
from workbench.formats import mask_of, rle_of
from workbench.pair_metrics import PairCounts, box_iou, pair_counts, rle_iou, semantic_overlap
from workbench.record_metrics import CANDIDATE_FLOOR, RecordStatistics, check_threshold

if TYPE_CHECKING:
    from sam3.predictor import Prediction
    from sam3.prompts import Prompt
    from workbench.examples import Concept, Example, ExampleSet

_FORMAT = "workbench-evaluation-1"


class Predictor(Protocol):
    """What `evaluate` needs of a predictor; `sam3.ImagePredictor` has it."""

    def set_image(self, image: np.ndarray) -> Any:
        """Takes the HWC uint8 RGB picture that the following prompts are about."""

    def predict(self, prompts: list[Prompt | str], *, score_threshold: float | None = None) -> list[Prediction]:
        """One prediction per phrase, with every candidate of at least this score."""


# ------------------------------------------------------------------------------------------------------------- records
@dataclass(frozen=True)
class PairRecord:
    """What a model answered for one phrase in one image, and how well it fits the labels.

    Args:
        image_id, phrase, status: the pair; status "positive" or "absent".
        presence_score: 0..1, the model's belief that the phrase is in the image at all.
        scores: D candidates, descending.
        mask_iou: D rows of G overlaps; empty when the labels are boxes only.
        box_iou: D rows of G overlaps.
        num_truth: labelled objects G.
        mask_rles: D compressed COCO run lengths `{"size": [height, width], "counts": str}`.
        has_masks: False when the labelled objects are boxes only; such a pair is left out of the mask metrics.
        truth_rle: all labelled objects as one mask; None without objects, with boxes only, and in older files.

    Raises:
        ValueError: the fields contradict each other.
    """

    image_id: str
    phrase: str
    status: str
    presence_score: float
    scores: tuple[float, ...]
    mask_iou: tuple[tuple[float, ...], ...]
    box_iou: tuple[tuple[float, ...], ...]
    num_truth: int
    mask_rles: tuple[dict[str, Any], ...]
    has_masks: bool = True
    truth_rle: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        num = len(self.scores)
        rows = {"box_iou": self.box_iou, "mask_iou": self.mask_iou} if self.has_masks else {"box_iou": self.box_iou}
        for name, iou in rows.items():
            if len(iou) != num or any(len(row) != self.num_truth for row in iou):
                widths = sorted({len(row) for row in iou})
                raise ValueError(
                    f"{self._name}: {name} has {len(iou)} rows of lengths {widths}, expected {num} (one per candidate) "
                    f"of length {self.num_truth} (one per object); measure this pair again"
                )
        if len(self.mask_rles) != num or any(a < b for a, b in zip(self.scores, self.scores[1:], strict=False)):
            raise ValueError(
                f"{self._name}: {num} scores {self.scores[:5]} and {len(self.mask_rles)} masks; expected as many masks "
                "as scores, best score first; measure this pair again"
            )
        if (self.num_truth > 0) != (self.status == "positive"):
            raise ValueError(
                f"{self._name}: status {self.status!r} with {self.num_truth} objects; expected 'positive' with objects "
                "or 'absent' without; correct the labels"
            )

    @property
    def _name(self) -> str:
        return f"image {self.image_id!r}, phrase {self.phrase!r}"

    def overlaps(self, *, boxes: bool = False) -> np.ndarray:
        """(D, G) float64 IoU of candidates and labelled objects, of masks or of boxes."""
        rows = self.box_iou if boxes else self.mask_iou
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.num_truth)

    def num_kept(self, score_threshold: float) -> int:
        """Number of candidates with at least this score."""
        return sum(score >= score_threshold for score in self.scores)

    def counts(self, score_threshold: float, *, boxes: bool = False) -> PairCounts:
        """Found, false and missed at the ten IoU thresholds, for the candidates with at least this score."""
        return pair_counts(self.overlaps(boxes=boxes)[: self.num_kept(score_threshold)])

    def semantic_overlap(self, score_threshold: float) -> tuple[int, int]:
        """Pixels that the candidates with at least this score share with the labelled objects, and cover with them."""
        truth = [] if self.truth_rle is None else [self.truth_rle]
        return semantic_overlap(self.mask_rles[: self.num_kept(score_threshold)], truth)

    def masks(self, score_threshold: float) -> np.ndarray:
        """(N, H, W) bool outlines of the candidates with at least this score; (0, 0, 0) when there is none."""
        rles = self.mask_rles[: self.num_kept(score_threshold)]
        return np.stack([mask_of(rle) for rle in rles]) if rles else np.zeros((0, 0, 0), dtype=bool)


@dataclass(frozen=True)
class Evaluation:
    """Records of one model on one example set, with their metrics.

    Args:
        model, data: names for reports.
        score_threshold: candidates with at least this score count as found.
        records: one per (image, phrase) pair with a known answer.
        metrics: `METRIC_NAMES` -> fraction; NaN where it cannot be told, e.g. mask metrics of box-only labels.
        seconds: time spent in the model.
    """

    model: str
    data: str
    score_threshold: float
    records: tuple[PairRecord, ...]
    metrics: dict[str, float]
    seconds: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before trusting the numbers, in plain sentences."""
        notes = []
        if all(record.num_truth for record in self.records):
            notes.append("No absent phrase was asked, so IL_MCC, IL_FPR and cgF1 are 0 by definition; add some.")
        if not any(record.num_truth for record in self.records):
            notes.append("No phrase is present, so only false alarms (IL_FPR) can be judged; add positive pairs.")
        box_only = sum(not record.has_masks for record in self.records)
        if box_only:
            are = "pair is" if box_only == 1 else "pairs are"
            notes.append(f"{box_only} {are} labelled with boxes only and left out of the mask metrics.")
        return tuple(notes)

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all; NaN becomes null."""
        content = {"format": _FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}
        content["records"] = [{field.name: getattr(r, field.name) for field in fields(r)} for r in self.records]
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not an evaluation, or its content is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no evaluation at {path}, expected a JSON file written by Evaluation.save()")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON ({error}); measure again and save with Evaluation.save()") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} has the format {found!r}, expected {_FORMAT!r}; pass a file of Evaluation.save()")
        try:
            return cls(
                model=str(content["model"]),
                data=str(content["data"]),
                score_threshold=float(content["score_threshold"]),
                records=tuple(_record_from_json(record) for record in content["records"]),
                metrics={k: math.nan if v is None else float(v) for k, v in content["metrics"].items()},
                seconds=float(content["seconds"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


def _record_from_json(content: Mapping[str, Any]) -> PairRecord:
    rows = {name: tuple(tuple(row) for row in content[name]) for name in ("mask_iou", "box_iou")}
    rows |= {name: tuple(content[name]) for name in ("scores", "mask_rles")}
    return PairRecord(**{**content, **rows})


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes JSON so that a reader never sees half a file; NaN and infinities become null."""
    write_text(path, json.dumps(_without_nan(content), allow_nan=False, ensure_ascii=False))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------------------------------------------------- metrics
def metrics_of(records: Sequence[PairRecord], score_threshold: float = 0.5) -> dict[str, float]:
    """All metrics of some records at a score threshold; no model is needed, so thresholds can be swept.

    Image-level values (IL_*), counts and box metrics use all records; mask metrics leave out pairs labelled with boxes
    only.

    Args:
        records: of one evaluation, all or a choice, e.g. those of one phrase.
        score_threshold: at least `CANDIDATE_FLOOR`.

    Returns:
        `METRIC_NAMES` -> fraction in 0..1 (IL_MCC and cgF1 may be negative, count_error above 1); NaN where undefined.

    Example:
        >>> rle = {"size": [4, 4], "counts": "5163"}
        >>> hit = PairRecord("a", "cup", "positive", 0.9, (0.8,), ((0.9,),), ((0.7,),), 1, (rle,))
        >>> silent = PairRecord("b", "cup", "absent", 0.1, (), (), (), 0, ())
        >>> values = metrics_of([hit, silent])
        >>> round(values["cgF1"], 3), round(values["box_cgF1"], 3)
        (0.9, 0.5)
    """
    values = RecordStatistics.of(records, score_threshold).values(np.ones((1, len(records))))
    return {name: math.nan if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


# ----------------------------------------------------------------------------------------------------------- measuring
def evaluate(
    predictor_or_model: Any,
    examples: ExampleSet,
    *,
    score_threshold: float = 0.5,
    model_name: str,
    progress: bool = True,
    prompt_for: Callable[[Example, Concept], Prompt | str] | None = None,
    on_picture: Callable[[], None] | None = None,
) -> Evaluation:
    """Asks the model every phrase whose answer is known, in every image, and measures the answers.

    Pairs of status "unknown" are skipped. All phrases of an image are asked in one call.

    Args:
        predictor_or_model: has `set_image` and `predict`; or a model, which is then put into an ImagePredictor.
        examples: labelled images; `examples.name` names the data.
        score_threshold: candidates with at least this score count as found.
        model_name: for reports, e.g. "before".
        progress: show a progress bar.
        prompt_for: what is asked for a concept, for instance its phrase with an example box; default its phrase.
        on_picture: called before each picture.

    Returns:
        The records and their metrics.

    Raises:
        ValueError: no pair has a known answer, the predictor's answer does not fit the image, or the threshold is
            below the floor of recorded candidates.
    """
    from tqdm.auto import tqdm

    check_threshold(score_threshold)
    predictor = _as_predictor(predictor_or_model)
    records: list[PairRecord] = []
    seconds = 0.0
    for example in tqdm(examples, desc=f"evaluate {model_name}", unit="image", disable=not progress):
        concepts = [concept for concept in example.concepts if concept.status != "unknown"]
        if not concepts:
            continue
        if on_picture is not None:
            on_picture()
        image = example.load_image()
        start = time.perf_counter()
        predictor.set_image(image)
        prompts = [concept.phrase if prompt_for is None else prompt_for(example, concept) for concept in concepts]
        predictions = predictor.predict(prompts, score_threshold=CANDIDATE_FLOOR)
        seconds += time.perf_counter() - start
        if len(predictions) != len(concepts):
            raise ValueError(
                f"image {example.image_id!r}: got {len(predictions)} answers for {len(concepts)} phrases, expected one "
                "per phrase; use an ImagePredictor or a class with the same interface"
            )
        records += [_record(example, *answer) for answer in zip(concepts, predictions, strict=True)]
    if not records:
        raise ValueError(
            f"the set {examples.name!r} has no pair of status positive or absent, expected at least one; label images "
            "or state absent phrases with ExampleSet.with_absent()"
        )
    metrics = metrics_of(records, score_threshold)
    return Evaluation(model_name, examples.name, score_threshold, tuple(records), metrics, seconds)


def pool_folds(evaluations: Sequence[Evaluation], *, model_name: str, data: str) -> Evaluation:
    """One evaluation of a whole set from those of its folds, each made by a model that did not see its pictures.

    All metrics are computed anew over all pairs. Average precision then ranks scores of different models together; it
    is a little lower than the mean over folds where their scores are not on one scale.

    Args:
        evaluations: of the `judge` parts of `ExampleSet.k_fold`, at one score threshold.
        model_name, data: for reports.

    Returns:
        The evaluation, with all seconds added up.

    Raises:
        ValueError: no evaluation, different thresholds, or a pair that was judged twice.
    """
    thresholds = sorted({evaluation.score_threshold for evaluation in evaluations})
    if len(thresholds) != 1:
        raise ValueError(
            f"{len(evaluations)} evaluations with the score thresholds {thresholds} were given; expected at least one "
            "evaluation, and one threshold for all"
        )
    records = tuple(record for evaluation in evaluations for record in evaluation.records)
    seen: set[tuple[str, str]] = set()
    for record in records:
        if (record.image_id, record.phrase) in seen:
            raise ValueError(
                f"image {record.image_id!r}, phrase {record.phrase!r} was judged in two folds, expected once; pass the "
                "evaluations of one k-fold"
            )
        seen.add((record.image_id, record.phrase))
    seconds = sum(evaluation.seconds for evaluation in evaluations)
    return Evaluation(model_name, data, thresholds[0], records, metrics_of(records, thresholds[0]), seconds)


def _as_predictor(predictor_or_model: Any) -> Predictor:
    if hasattr(predictor_or_model, "set_image") and hasattr(predictor_or_model, "predict"):
        return predictor_or_model
    from sam3.predictor import ImagePredictor

    return ImagePredictor(predictor_or_model)


def _record(example: Example, concept: Concept, prediction: Prediction) -> PairRecord:
    scores = np.asarray(prediction.scores, dtype=np.float64)
    masks, boxes = np.asarray(prediction.masks, dtype=bool), np.asarray(prediction.boxes_xyxy_px, dtype=np.float64)
    expected = (len(scores), example.height, example.width)
    if len(scores) and (masks.shape != expected or boxes.shape != (len(scores), 4)):
        raise ValueError(
            f"image {example.image_id!r}, phrase {concept.phrase!r}: the predictor gave masks {masks.shape} and boxes "
            f"{boxes.shape} for {len(scores)} scores, expected {expected} and {(len(scores), 4)}; return masks at the "
            "size of the image"
        )
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= CANDIDATE_FLOOR]
    rles = tuple(rle_of(masks[candidate]) for candidate in order)
    has_masks = concept.has_masks or concept.num_objects == 0
    mask_overlaps = rle_iou(rles, [rle_of(mask) for mask in concept.masks]) if has_masks else np.zeros((0, 0))
    box_overlaps = box_iou(_xywh(boxes.reshape(-1, 4)[order]), _xywh(concept.boxes_xyxy_px))
    return PairRecord(
        image_id=example.image_id,
        phrase=concept.phrase,
        status=concept.status,
        presence_score=float(prediction.presence_score),
        scores=tuple(scores[order].tolist()),
        mask_iou=tuple(tuple(row) for row in mask_overlaps.tolist()),
        box_iou=tuple(tuple(row) for row in box_overlaps.tolist()),
        num_truth=concept.num_objects,
        mask_rles=rles,
        has_masks=has_masks,
        truth_rle=rle_of(np.any(concept.masks, axis=0)) if concept.has_masks else None,
    )


def _xywh(boxes_xyxy_px: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xyxy_px[:, :2], boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]], axis=1)
