"""Between marks and what the model learns and is asked: labels, exemplar prompts, prompts for one object, proposals.

Marks, example sets and predictions come in; example sets, prompts and annotations go out. Each conversion stands here
once, so that an annotator in a notebook and one on a page give the same labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sam3.prompts import Click, ObjectPrompt, Prompt
from sam3.rle import Rle
from workbench.annotation import Annotation, Mark, PairMarks, PictureMarks
from workbench.examples import Concept, Example, ExampleSet, phrase_key

if TYPE_CHECKING:
    from sam3.predictor import Prediction

SAME_IOU = 0.5  # a proposal whose box overlaps a mark that much is taken for the same object


def annotation_of(data: ExampleSet) -> Annotation:
    """The labels of a set as marks. "positive" becomes present and exhaustive, which is what it means."""
    return Annotation(data.phrases, tuple(_picture_of(example) for example in data))


def _picture_of(example: Example) -> PictureMarks:
    return PictureMarks(
        example.image_id,
        example.width,
        example.height,
        {concept.phrase: _pair_of(concept) for concept in example.concepts if concept.status != "unknown"},
    )


def _pair_of(concept: Concept) -> PairMarks:
    if concept.status == "absent":
        return PairMarks("absent")
    if concept.has_masks:
        marks = [Mark(number, "mask", rle=Rle.of(mask)) for number, mask in enumerate(concept.masks, start=1)]
    else:
        boxes = concept.boxes_xyxy_px.tolist()
        marks = [Mark(number, "box", box_xyxy_px=tuple(box)) for number, box in enumerate(boxes, start=1)]
    return PairMarks("present", True, tuple(marks))


def with_marks_of(labels: Annotation, marks: Annotation) -> Annotation:
    """`labels` with what `marks` knows about the same pictures in their place, also what is no label: marks that are
    not ticked, clicks, proposals, and the cost.

    Raises:
        ValueError: a picture has another size.
    """
    phrases = labels.with_phrases(marks.phrases).phrases
    spelling, known = {phrase_key(phrase): phrase for phrase in phrases}, {p.image_id: p for p in marks.pictures}
    pictures = []
    for picture in labels.pictures:
        other = known.get(picture.image_id, picture)
        if (other.width, other.height) != (picture.width, picture.height):
            raise ValueError(
                f"image {picture.image_id!r} was marked at {other.width}x{other.height}, but is "
                f"{picture.width}x{picture.height} (width x height). Restore the picture."
            )
        pairs = {spelling[phrase_key(phrase)]: pair for phrase, pair in (*picture.pairs.items(), *other.pairs.items())}
        pictures.append(replace(picture, pairs=pairs, num_clicks=other.num_clicks, seconds=other.seconds))
    return Annotation(phrases, tuple(pictures))


def examples_of(annotation: Annotation, images: Mapping[str, Path | np.ndarray], name: str = "annotated") -> ExampleSet:
    """The labels that the marks amount to.

    Args:
        annotation: the marks.
        images: image_id to file or HWC uint8 array; pictures that are not in it are left out.
        name: of the set.

    Returns:
        A set that is not exhaustive as a whole: present and ticked as exhaustive becomes "positive", absent becomes
        "absent", and every other pair "unknown". A phrase with masks and boxes in one picture becomes boxes there.

    Example:
        >>> marks = Annotation(("coin",), (PictureMarks("a", 8, 8, {"coin": PairMarks("absent")}),))
        >>> data = examples_of(marks, {"a": np.zeros((8, 8, 3), np.uint8)})
        >>> [(example.image_id, concept.status) for example, concept in data.pairs()]
        [('a', 'absent')]
    """
    examples = []
    for picture in annotation.pictures:
        if picture.image_id in images:
            concepts = tuple(_concept_of(phrase, picture.pair(phrase)) for phrase in annotation.phrases)
            image = images[picture.image_id]
            examples.append(Example(picture.image_id, image, picture.width, picture.height, concepts))
    return ExampleSet(name, tuple(examples))


def _concept_of(phrase: str, pair: PairMarks) -> Concept:
    if pair.state == "absent":
        return Concept(phrase, "absent")
    if not pair.is_exhaustive:
        return Concept(phrase, "unknown")
    boxes = np.array([mark.box_xyxy_px for mark in pair.objects], np.float32)
    rles = [mark.rle for mark in pair.objects if mark.rle is not None]
    if len(rles) < len(boxes):
        return Concept(phrase, "positive", boxes_xyxy_px=boxes)
    return Concept(phrase, "positive", np.stack([rle.mask() for rle in rles]), boxes)


def exemplar_prompt(picture: PictureMarks, phrase: str, *, has_text: bool = True) -> Prompt:
    """What a search for more of the same asks: the phrase with all marks as positive and negative exemplars.

    Args:
        picture: the picture that is searched; exemplars are of the picture itself.
        phrase: whose marks are the exemplars.
        has_text: whether the model also reads the phrase; otherwise the exemplars alone say what is meant.

    Raises:
        ValueError: the phrase is not read and no positive mark is there.

    Example:
        >>> pair = PairMarks("present", False, (Mark(1, "box", box_xyxy_px=(2, 3, 9, 8)),))
        >>> prompt = exemplar_prompt(PictureMarks("a", 20, 10, {"coin": pair}), "coin")
        >>> prompt.phrase, prompt.exemplar_boxes_xyxy_px.tolist()
        ('coin', [[2.0, 3.0, 9.0, 8.0]])
    """
    marks = [mark for mark in picture.pair(phrase).marks if mark.status == "kept"]
    boxes = [mark for mark in marks if mark.kind != "click"]
    clicks = [mark for mark in marks if mark.kind == "click" and mark.of is None]
    return Prompt(
        phrase if has_text else None,
        np.array([mark.box_xyxy_px for mark in boxes], np.float32).reshape(-1, 4),
        [int(mark.is_positive) for mark in boxes],
        np.array([mark.point_xy_px for mark in clicks], np.float32).reshape(-1, 2),
        [int(mark.is_positive) for mark in clicks],
    )


def object_prompt(pair: PairMarks, mark_id: int) -> ObjectPrompt:
    """What asks for the outline of one marked object: its box or mask with the clicks that belong to it.

    A click that belongs to nothing asks for the object below it.

    Raises:
        KeyError: the pair has no such mark.
    """
    found = [mark for mark in pair.marks if mark.id == mark_id]
    if not found:
        raise KeyError(f"no mark {mark_id} among {[mark.id for mark in pair.marks]}")
    belonging = [mark for mark in pair.marks if mark.status == "kept" and mark_id in (mark.id, mark.of)]
    clicks = [Click(*mark.point_xy_px, mark.is_positive) for mark in belonging if mark.point_xy_px is not None]
    mask = None if found[0].rle is None else found[0].rle.mask()
    return ObjectPrompt(clicks, None if mask is not None else found[0].box_xyxy_px, mask)


def with_proposals(
    annotation: Annotation, image_id: str, phrase: str, prediction: Prediction, of: int | None = None
) -> Annotation:
    """The same with the model's answer as open proposals of a pair, in place of earlier open ones.

    What overlaps a kept mask or a rejected proposal is left out. What overlaps a kept box is offered as its outline:
    accepting it replaces the box.

    Args:
        annotation: all marks.
        image_id, phrase: the pair; a new phrase is added to the list.
        prediction: on that picture.
        of: the mark whose outline was asked for. Then only the first instance is offered, in its place, and other open
            proposals stay.

    Raises:
        KeyError: there is no such picture.
        ValueError: the prediction is of another size than the picture.
    """
    picture = annotation.picture(image_id)
    if tuple(prediction.image_size) != (picture.height, picture.width):
        raise ValueError(
            f"the prediction is {tuple(prediction.image_size)}, image {image_id!r} {(picture.height, picture.width)} "
            "(height, width); expected the same. Predict on this picture."
        )
    annotation = annotation.with_phrases([phrase])
    phrase = next(known for known in annotation.phrases if phrase_key(known) == phrase_key(phrase))
    pair = picture.pair(phrase)
    judged = pair.judged
    marks = list(judged) if of is None else [mark for mark in pair.marks if mark.of != of or mark.kind == "click"]
    for index in range(len(prediction) if of is None else min(1, len(prediction))):
        rle = Rle.of(prediction.masks[index])
        same = _same(rle.box_xyxy_px, judged) if rle.area and of is None else None
        if not rle.area or (same is not None and (same.rle is not None or same.status == "rejected")):
            continue
        replaces = of if same is None else same.id
        number = 1 + max((mark.id for mark in (*pair.marks, *marks)), default=0)
        score = round(min(1.0, max(0.0, float(prediction.scores[index]))), 4)
        marks.append(Mark(number, "mask", True, None, None, rle, "proposed", "model", score, replaces))
    changed = {**picture.pairs, phrase: replace(pair, marks=tuple(marks))}
    return annotation.with_picture(replace(picture, pairs=changed))


def _same(box: tuple[float, ...], marks: tuple[Mark, ...]) -> Mark | None:
    """The mark whose box overlaps most, if it is taken for the same object."""
    found = [(_iou(box, mark.box_xyxy_px), mark) for mark in marks if mark.box_xyxy_px and mark.is_positive]
    iou, mark = max(found, key=lambda pair: pair[0], default=(0.0, None))
    return mark if iou >= SAME_IOU else None


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
