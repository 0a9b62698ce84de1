"""A predictor that answers with calibrated scores, so that 0.5 is the working threshold of every phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sam3.pictures import Picture
from sam3.predictor import ImagePredictor, Prediction
from sam3.prompts import Prompt
from workbench.adapters import Adapter
from workbench.calibrate import Calibration
from workbench.evaluate import CANDIDATE_FLOOR


class CalibratedPredictor:
    """Asks as `ImagePredictor` does and mends the scores; what a calibration says nothing about stays as it is.

    Args:
        predictor: of a model with the adapter the calibration belongs to. Its threshold is that of calibrated scores:
            candidates must have at least this one.
        calibration: of that adapter.

    Example:
        >>> from sam3 import load_sam3
        >>> from workbench.calibrate import PhraseCalibration
        >>> eager = PhraseCalibration("", 1.0, shift=0.0, presence_shift=12.0, precision=None, recall=None)
        >>> calibration = Calibration(eager, (replace(eager, phrase="disc"),))
        >>> predictor = CalibratedPredictor(ImagePredictor(load_sam3("tiny")), calibration)
        >>> predictor.set_image(np.full((60, 80, 3), 255, dtype=np.uint8))
        >>> disc, star = predictor.predict(["disc", "star"])
        >>> disc.presence_score > 0.5, star.presence_score < 0.5
        (True, True)
    """

    def __init__(self, predictor: ImagePredictor, calibration: Calibration):
        self.predictor, self.calibration = predictor, calibration
        self.score_threshold = predictor.score_threshold

    def set_image(self, image: Picture) -> None:
        """Encodes one picture."""
        self.predictor.set_image(image)

    def predict(self, prompts: Sequence[Prompt | str], *, score_threshold: float | None = None) -> list[Prediction]:
        """One prediction per prompt, with every candidate of at least this calibrated score."""
        threshold = self.score_threshold if score_threshold is None else score_threshold
        answers = self.predictor.predict(list(prompts), score_threshold=min(CANDIDATE_FLOOR, threshold))
        return [self._mended(answer, threshold) for answer in answers]

    def _mended(self, answer: Prediction, threshold: float) -> Prediction:
        scores, presence = answer.scores, answer.presence_score
        if answer.phrase is not None:  # examples alone have no phrase whose curve could be known
            curve = self.calibration.of(answer.phrase)
            scores = curve.scores(scores, presence).astype(np.float32)
            presence = curve.presence(presence)
        kept = scores >= threshold
        return replace(
            answer,
            boxes_xyxy_px=answer.boxes_xyxy_px[kept],
            masks=answer.masks[kept],
            scores=scores[kept],
            presence_score=presence,
        )


def predictor_for(
    adapter: Adapter, score_threshold: float = 0.5, *, keeps_text: bool = False
) -> ImagePredictor | CalibratedPredictor:
    """The predictor an adapter is meant to be used with: calibrated when a calibration came with it.

    Args:
        adapter: in its model.
        score_threshold, keeps_text: see `ImagePredictor`.

    Raises:
        ValueError: the calibration that came with it is damaged.
    """
    predictor = ImagePredictor(adapter.model, score_threshold, keeps_text=keeps_text)
    found = adapter.facts.get("calibration")
    return predictor if found is None else CalibratedPredictor(predictor, Calibration.from_dict(found))
