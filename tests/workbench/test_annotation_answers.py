"""A real model answers what a person asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sam3.config import Sam3Config
from sam3.model import Sam3
from sam3.predictor import ImagePredictor
from workbench.annotation import Mark, PairMarks
from workbench.annotation_answers import answer_request
from workbench.annotation_labels import with_proposals
from workbench.annotation_session import AnnotationSession, Request
from workbench.widgets import Annotator


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    picture = Image.new("RGB", (96, 72), (230, 230, 230))
    draw = ImageDraw.Draw(picture)
    for x, y in ((10, 10), (60, 12), (30, 40)):
        draw.ellipse((x, y, x + 22, y + 22), fill=(200, 30, 30))
    picture.save(tmp_path / "a.png")
    return tmp_path


def test_what_the_model_finds_is_proposed(folder: Path) -> None:
    """Weights are random, so that this is about what is asked and how it comes back, not about being right."""
    predictor = ImagePredictor(Sam3(Sam3Config.tiny()), score_threshold=0.0)
    annotator = Annotator(folder, ["red circle"])
    box = {"id": 4, "kind": "box", "positive": True, "box": [10, 10, 33, 33]}
    value = annotator.annotation.to_json()
    value["pictures"][0]["pairs"]["red circle"] = {"state": "present", "exhaustive": False, "marks": [box]}
    value["pictures"][0]["revision"] = 1
    annotator.session.receive(value)

    count = answer_request(predictor, annotator, Request(1, "similar", "a.png", "red circle"))
    pair = AnnotationSession(folder).annotation.picture("a.png").pair("red circle")
    assert count == len(pair.proposals) > 0 and [mark.id for mark in pair.objects] == [4]

    assert answer_request(predictor, annotator, Request(2, "outline", "a.png", "red circle", 4)) >= 1
    pair = annotator.annotation.picture("a.png").pair("red circle")
    (outline,) = [mark for mark in pair.proposals if mark.of == 4]
    assert outline.id == max(mark.id for mark in pair.marks)
    expected = predictor.segment(_prompt_of_box(), is_ambiguous=False).masks[0]
    assert np.array_equal(outline.rle.mask(), expected)  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="no mark 99"):
        answer_request(predictor, annotator, Request(3, "outline", "a.png", "red circle", 99))


def _prompt_of_box() -> object:
    from sam3.prompts import ObjectPrompt

    return ObjectPrompt(box_xyxy_px=[10, 10, 33, 33])


def test_an_outline_is_offered_for_a_mark_that_has_a_mask_already(folder: Path) -> None:
    from sam3.predictor import Prediction
    from sam3.rle import Rle

    session = AnnotationSession(folder, ["red circle"])
    mask = np.zeros((72, 96), bool)
    mask[10:32, 10:32] = True
    other = Mark(2, "mask", rle=Rle.of(np.roll(mask, 50, 1)), status="proposed", source="model", score=0.6)
    pair = PairMarks("present", True, (Mark(1, "mask", rle=Rle.of(mask)), other))
    picture = session.annotation.picture("a.png")
    marks = session.annotation.with_picture(type(picture)("a.png", 96, 72, {"red circle": pair}))
    better = np.roll(mask, 1, 0)[None]
    found = Prediction("red circle", np.zeros((1, 4), np.float32), better, np.array([1.2], np.float32), 0.9, (72, 96))
    assert len(with_proposals(marks, "a.png", "red circle", found).picture("a.png").pair("red circle").proposals) == 0
    offered = with_proposals(marks, "a.png", "red circle", found, of=1).picture("a.png").pair("red circle").proposals
    assert [(mark.id, mark.of, mark.score) for mark in offered] == [(2, None, 0.6), (3, 1, 1.0)]
