"""A model's answers to what a person asked for in an annotator: proposals, which the person then judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sam3.predictor import ImagePredictor, Prediction
from sam3.prompts import ObjectPrompt, Prompt
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


@dataclass(frozen=True, eq=False)
class Question:
    """What a request means to a model; can be sent to another process.

    Attributes:
        image: the picture. size: its height and width.
        phrase: the answer belongs to.
        prompt: a concept to find more of, or one object to cut out.
    """

    image: Path | np.ndarray
    size: tuple[int, int]
    phrase: str
    prompt: Prompt | ObjectPrompt

    @classmethod
    def of(cls, annotator: Asking, request: Request) -> Question:
        """The question behind a request.

        Raises:
            KeyError: the picture or the mark is gone.
            ValueError: an outline is asked of no mark.
        """
        picture = annotator.annotation.picture(request.image_id)
        image, size = annotator.images[request.image_id], (picture.height, picture.width)
        if request.ask == "similar":
            return cls(image, size, request.phrase, exemplar_prompt(picture, request.phrase))
        if request.mark is None:
            raise ValueError("an outline is asked of no mark; expected one that is selected")
        return cls(image, size, request.phrase, object_prompt(picture.pair(request.phrase), request.mark))

    def answer(self, predictor: ImagePredictor) -> Prediction:
        """What the model finds.

        Raises:
            ValueError: an outline is asked of a model without a tracker.
        """
        predictor.set_image(self.image)
        if isinstance(self.prompt, Prompt):
            return predictor.predict(self.prompt)
        cut = predictor.segment(self.prompt, is_ambiguous=False)
        masks = cut.masks[:1]
        return Prediction(self.phrase, boxes_of_masks(masks), masks, cut.iou_scores[:1], cut.object_score, self.size)


def propose_answer(annotator: Asking, request: Request, found: Prediction) -> int:
    """Offers what was found; gives the number of proposals that wait to be judged in that picture for that phrase."""
    annotator.propose(request.image_id, request.phrase, found, of=request.mark if request.ask == "outline" else None)
    return len(annotator.annotation.picture(request.image_id).pair(request.phrase).proposals)


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
    return propose_answer(annotator, request, Question.of(annotator, request).answer(predictor))
