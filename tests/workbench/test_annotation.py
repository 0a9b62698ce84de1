"""Marks as plain values: what is refused, what survives JSON, which labels and prompts they amount to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3.predictor import Prediction
from sam3.rle import Rle
from workbench.annotation import (
    Annotation,
    Mark,
    PairMarks,
    PictureMarks,
    load_annotation,
    merged,
    save_annotation,
)
from workbench.annotation_labels import annotation_of, examples_of, exemplar_prompt, object_prompt, with_proposals
from workbench.examples import Concept, Example, ExampleSet

WIDTH, HEIGHT = 40, 30


def square(x: int, y: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def box(number: int, *corners: float, **more: Any) -> Mark:
    return Mark(number, "box", box_xyxy_px=corners, **more)  # type: ignore[arg-type]


def full() -> Annotation:
    coins = (
        box(1, 1, 2, 9, 10),
        Mark(2, "mask", rle=Rle.of(square(20, 10))),
        Mark(3, "click", False, point_xy_px=(5.5, 25)),
        box(4, 30, 20, 38, 29, is_positive=False),
        Mark(5, "click", point_xy_px=(4, 4), of=1),
        Mark(6, "mask", rle=Rle.of(square(2, 20)), status="proposed", source="model", score=0.75),
        Mark(7, "mask", rle=Rle.of(square(12, 20)), status="rejected", source="model", score=0.5),
    )
    return Annotation(
        ("coin", "red  circle"),
        (
            PictureMarks("a.png", WIDTH, HEIGHT, {"coin": PairMarks("present", True, coins)}, 3, 12, 40.5),
            PictureMarks("b.png", WIDTH, HEIGHT, {"coin": PairMarks("absent")}, 1, 2, 9.5),
            PictureMarks("c.png", WIDTH, HEIGHT),
        ),
    )


def prediction(*masks: np.ndarray) -> Prediction:
    stack = np.stack(masks) if masks else np.zeros((0, HEIGHT, WIDTH), bool)
    boxes = np.array([Rle.of(mask).box_xyxy_px for mask in masks], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.6, len(masks), dtype=np.float32)
    return Prediction("coin", boxes, stack, scores, 0.9, (HEIGHT, WIDTH))


def test_everything_survives_json_and_a_file(tmp_path: Path) -> None:
    annotation = full()
    assert Annotation.from_json(json.loads(json.dumps(annotation.to_json()))) == annotation
    save_annotation(annotation, tmp_path / "marks.json")
    assert load_annotation(tmp_path / "marks.json") == annotation
    assert [file.name for file in tmp_path.iterdir()] == ["marks.json"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(format="other"), "form 'other'; expected 'workbench-marks-1'"),
        (lambda v: v.update(phrases=["coin", "Coin "]), "phrase 'coin' occurs twice"),
        (lambda v: v.update(phrases=["star"]), r"marks of 'coin'; the phrases are \['star'\]"),
        (lambda v: v["pictures"][1].update(id="a.png"), "image_id 'a.png' occurs twice"),
        (lambda v: v["pictures"][0].pop("width"), "'width'"),
        (lambda v: v["pictures"][0].update(width=9), "add up to 1200 pixels, the size 30x9"),
        (
            lambda v: v["pictures"][0]["pairs"]["coin"].update(state="maybe"),
            "state is 'maybe'; expected one of present",
        ),
        (lambda v: v["pictures"][0]["pairs"]["coin"].update(state="absent"), "but 2 objects are marked"),
        (lambda v: v["pictures"][1]["pairs"]["coin"].update(exhaustive=True), "exhaustive without a marked object"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][0].update(box=[9, 2, 1, 10]), "has no area"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][0].update(box=[9, 2, 41, 10]), "expected 0..40, 0..30"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][0].update(box=[1, 2, 3]), "expected 4 finite numbers"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][0].update(id=2), "expected each once"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][0].update(kind="oval"), "kind is 'oval'"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][1].update(rle="00"), "run lengths cannot be decoded"),
        (lambda v: v["pictures"][0]["pairs"]["coin"]["marks"][5].update(score=2), "score is 2; expected 0..1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(edit: Any, message: str) -> None:
    value = full().to_json()
    edit(value)
    with pytest.raises(ValueError, match=message):
        Annotation.from_json(value)


def test_only_finished_pairs_become_labels() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    data = examples_of(full(), {"a.png": image, "b.png": image, "c.png": image})
    known = {(example.image_id, concept.phrase): concept for example, concept in data.pairs()}
    assert {pair: concept.status for pair, concept in known.items()} == {
        ("a.png", "coin"): "positive",
        ("b.png", "coin"): "absent",
    }
    # One of the two objects is a box only, so both are boxes; negatives, proposals and rejected ones are no objects.
    assert known["a.png", "coin"].boxes_xyxy_px.tolist() == [[1, 2, 9, 10], [20, 10, 28, 18]]
    unticked = full().picture("a.png")
    pair = replace(unticked.pairs["coin"], is_exhaustive=False)
    partly = full().with_picture(replace(unticked, pairs={"coin": pair}))
    assert [e.image_id for e, _ in examples_of(partly, {"a.png": image, "b.png": image}).pairs()] == ["b.png"]


def test_labels_come_back_from_marks_unchanged() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    masks = np.stack([square(1, 2), square(20, 15)])
    data = ExampleSet(
        "set",
        (
            Example("a", image, WIDTH, HEIGHT, (Concept("coin", masks=masks), Concept("star", "absent"))),
            Example("b", image, WIDTH, HEIGHT, (Concept("coin", boxes_xyxy_px=[[1, 2, 3.5, 4]]),)),  # type: ignore[arg-type]
            Example("c", image, WIDTH, HEIGHT, (Concept("coin", "unknown"),)),
        ),
    )
    again = examples_of(annotation_of(data), {"a": image, "b": image, "c": image})
    assert again.phrases == data.phrases
    assert [(e.image_id, c.phrase, c.status) for e, c in again.pairs()] == [
        (e.image_id, c.phrase, c.status) for e, c in data.pairs()
    ]
    np.testing.assert_array_equal(again.example("a").concept("coin").masks, masks)  # type: ignore[union-attr]
    np.testing.assert_array_equal(again.example("b").concept("coin").boxes_xyxy_px, [[1, 2, 3.5, 4]])  # type: ignore[union-attr]


def test_prompts_hold_what_was_kept() -> None:
    picture = full().picture("a.png")
    prompt = exemplar_prompt(picture, "coin")
    assert prompt.phrase == "coin"
    assert np.asarray(prompt.exemplar_boxes_xyxy_px).tolist() == [[1, 2, 9, 10], [20, 10, 28, 18], [30, 20, 38, 29]]
    assert np.asarray(prompt.exemplar_labels).tolist() == [1, 1, 0]
    assert np.asarray(prompt.exemplar_points_xy_px).tolist() == [[5.5, 25]]  # the other click belongs to an object
    assert np.asarray(prompt.exemplar_point_labels).tolist() == [0]
    assert exemplar_prompt(picture, "coin", has_text=False).phrase is None
    with pytest.raises(ValueError, match="neither phrase nor exemplar"):
        exemplar_prompt(full().picture("c.png"), "coin", has_text=False)

    boxed = object_prompt(picture.pair("coin"), 1)
    assert np.asarray(boxed.box_xyxy_px).tolist() == [1, 2, 9, 10]
    assert [(click.x_px, click.y_px) for click in boxed.clicks] == [(4, 4)]
    masked = object_prompt(picture.pair("coin"), 2)
    assert masked.box_xyxy_px is None and np.array_equal(np.asarray(masked.mask), square(20, 10))
    assert object_prompt(picture.pair("coin"), 3).clicks[0].is_positive is False
    with pytest.raises(KeyError, match="no mark 99"):
        object_prompt(picture.pair("coin"), 99)


def test_proposals_replace_open_ones_and_leave_out_what_was_judged() -> None:
    new, outline = square(30, 2), square(1, 2)
    found = prediction(new, outline, square(20, 10), square(12, 20))
    pair = with_proposals(full(), "a.png", "Coin", found).picture("a.png").pair("coin")
    assert [mark.id for mark in pair.marks if mark.status != "proposed"] == [1, 2, 3, 4, 5, 7]
    # The kept mask 2 and the rejected one 7 are not proposed again; the box 1 gets an outline.
    assert [(mark.of, mark.score) for mark in pair.proposals] == [(None, 0.9), (1, 0.8)]
    assert np.array_equal(pair.proposals[0].rle.mask(), new)  # type: ignore[union-attr]
    assert pair.is_exhaustive and len({mark.id for mark in pair.marks}) == len(pair.marks)
    fresh = with_proposals(full(), "c.png", "blue star", found)
    assert fresh.phrases[-1] == "blue star" and len(fresh.picture("c.png").pair("blue star").proposals) == 4
    assert with_proposals(full(), "a.png", "coin", prediction()).picture("a.png").pair("coin").proposals == ()
    with pytest.raises(ValueError, match=r"the prediction is \(30, 40\), image 'x' \(4, 5\)"):
        with_proposals(Annotation((), (PictureMarks("x", 5, 4),)), "x", "coin", found)


def test_of_two_versions_the_newer_one_of_each_picture_stays() -> None:
    older, newer = full(), full()
    older = older.with_picture(replace(older.picture("b.png"), revision=9, num_clicks=77))
    newer = newer.with_picture(replace(newer.picture("c.png"), revision=2, num_clicks=5))
    both = merged(older, replace(newer, phrases=("coin",)))
    assert [picture.num_clicks for picture in both.pictures] == [12, 77, 5]
    assert both.phrases == ("coin",)


def test_the_cost_counts_pictures_on_which_time_was_spent() -> None:
    cost = full().cost()
    assert (cost.num_pictures, cost.median_seconds, cost.median_clicks) == (2, 25.0, 7)
    assert Annotation().cost().num_pictures == 0
