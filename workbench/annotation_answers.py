"""A model's answers to what a person asked for in an annotator: proposals, which the person then judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from sam3.predictor import ImagePredictor, Prediction
from workbench.annotation import Annotation
from workbench.annotation_labels import exemplar_prompt, object_prompt
from workbench.annotation_session import Request
from workbench.examples import boxes_of_masks


class Asking(Protocol):
    """An annotator or its session."""

    @property
    def annotation(self) -> Annotation: ...
    @property
    def images(self) -> Mapping[str, Path | np.ndarray]: ...
    def propose(self, image_id: str, phrase: str, prediction: Prediction, of: int | None = None) -> None: ...


def answer_request(predictor: ImagePredictor, annotator: Asking, request: Request) -> int:
    """Asks the model what the person asked for, and proposes what it finds.

    "similar" searches the picture for the phrase with the person's marks as exemplars; "outline" cuts out the object of
    one mark, which needs a model with a tracker.

    Returns:
        The number of proposals that wait to be judged in that picture for that phrase.

    Raises:
        KeyError: the picture or the mark is gone.
        ValueError: an outline is asked of a model without a tracker.
    """
    picture = annotator.annotation.picture(request.image_id)
    predictor.set_image(annotator.images[request.image_id])
    if request.ask == "similar":
        found = predictor.predict(exemplar_prompt(picture, request.phrase))
        annotator.propose(request.image_id, request.phrase, found)
    else:
        if request.mark is None:
            raise ValueError("an outline is asked of no mark; expected one that is selected")
        prompt = object_prompt(picture.pair(request.phrase), request.mark)
        cut = predictor.segment(prompt, is_ambiguous=False)
        masks, size = cut.masks[:1], (picture.height, picture.width)
        found = Prediction(request.phrase, boxes_of_masks(masks), masks, cut.iou_scores[:1], cut.object_score, size)
        annotator.propose(request.image_id, request.phrase, found, of=request.mark)
    return len(annotator.annotation.picture(request.image_id).pair(request.phrase).proposals)
