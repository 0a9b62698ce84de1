"""Prompts: what is accepted, what is refused and with which words, and scaling to another picture size."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sam3.prompts import VISUAL_PHRASE, Click, ObjectPrompt, Prompt, as_prompts

BOXES = [[10, 20, 40, 60], [1.5, 2.5, 3.5, 4.5]]


def test_a_phrase_alone() -> None:
    prompt = Prompt("red circle")
    assert prompt.text == prompt.phrase == "red circle"
    for array, shape in (
        (prompt.exemplar_boxes_xyxy_px, (0, 4)),
        (prompt.exemplar_labels, (0,)),
        (prompt.exemplar_points_xy_px, (0, 2)),
        (prompt.exemplar_point_labels, (0,)),
    ):
        assert isinstance(array, np.ndarray) and array.shape == shape


def test_exemplars_alone_are_asked_as_visual() -> None:
    for prompt in (Prompt(exemplar_boxes_xyxy_px=BOXES), Prompt(exemplar_points_xy_px=[[3, 4]])):
        assert prompt.phrase is None and prompt.text == VISUAL_PHRASE == "visual"


@pytest.mark.parametrize("left_out", [None, (), []])
def test_labels_left_out_are_positive(left_out: Any) -> None:
    prompt = Prompt("a", BOXES, left_out, [[1, 2]], left_out)
    assert prompt.exemplar_labels.tolist() == [1, 1]
    assert prompt.exemplar_point_labels.tolist() == [1]


@pytest.mark.parametrize("labels", [[1, 0], (True, False), np.array([1.0, 0.0]), np.array([[1], [0]], np.uint8)])
def test_labels_of_any_number_type(labels: Any) -> None:
    received = Prompt("a", BOXES, labels).exemplar_labels
    assert received.tolist() == [1, 0] and received.dtype == np.int64


def test_a_prompt_does_not_change_with_the_arrays_it_was_made_from() -> None:
    boxes, labels = np.array(BOXES, np.float32), np.array([1, 0])
    prompt = Prompt("a", boxes, labels)
    boxes += 100
    labels[:] = 1
    assert prompt.exemplar_boxes_xyxy_px.tolist() == BOXES
    assert prompt.exemplar_labels.tolist() == [1, 0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.phrase = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        (None, "received neither phrase nor exemplar; give a phrase, an example box or an example point"),
        ("", "received the phrase ''; expected a short noun phrase"),
        (" \n", "expected a short noun phrase such as 'red circle'"),
        (3, "received the phrase 3"),
    ],
)
def test_phrases_that_are_refused(phrase: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(phrase)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[5, 5, 5, 9]], r"box \[5.0, 5.0, 5.0, 9.0\] has no area; expected x0 < x1 and y0 < y1 in pixels"),
        ([[1, 1, 9, 9], [9, 1, 1, 9]], r"box \[9.0, 1.0, 1.0, 9.0\] has no area"),
        ([1, 2, 3, 4], r"exemplar_boxes_xyxy_px: received shape \(4,\); expected finite numbers \(N, 4\) in pixels"),
        ([[1, 2, 3]], r"received shape \(1, 3\)"),
        ([[1, 2, 3, np.nan]], "expected finite numbers"),
        ([[1, 2, 3, 4], [1, 2]], r"exemplar_boxes_xyxy_px: .* expected numbers \(N, 4\) in pixels"),
        ([["a", "b", "c", "d"]], r"exemplar_boxes_xyxy_px: .* expected numbers \(N, 4\) in pixels"),
    ],
)
def test_boxes_that_are_refused(boxes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt("a", boxes)


@pytest.mark.parametrize("points", [[[1, 2, 3]], [[1, np.inf]], [1, 2]])
def test_points_that_are_refused(points: Any) -> None:
    with pytest.raises(ValueError, match=r"exemplar_points_xy_px: received shape .* \(N, 2\) in pixels"):
        Prompt("a", exemplar_points_xy_px=points)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 0.7], [1, -1], [1, 1, 1]])
def test_labels_that_are_refused(labels: list[float]) -> None:
    with pytest.raises(
        ValueError, match=r"exemplar_labels: received \[.*\]; expected 2 labels, 1 positive or 0 negative"
    ):
        Prompt("a", BOXES, labels)
    with pytest.raises(ValueError, match="exemplar_point_labels: received .* expected 2 labels"):
        Prompt("a", exemplar_points_xy_px=[[1, 2], [3, 4]], exemplar_point_labels=labels)
    with pytest.raises(ValueError, match="exemplar_labels: received .* expected 0 labels"):
        Prompt("a", exemplar_labels=labels)


def test_scaling_keeps_everything_but_the_coordinates() -> None:
    prompt = Prompt("a", BOXES, [0, 1], [[4, 6]], [0])
    scaled = prompt.scaled(0.5, 3.0)
    assert scaled.phrase == "a"
    assert scaled.exemplar_boxes_xyxy_px.tolist() == [[5, 60, 20, 180], [0.75, 7.5, 1.75, 13.5]]
    assert scaled.exemplar_points_xy_px.tolist() == [[2, 18]]
    assert scaled.exemplar_boxes_xyxy_px.dtype == scaled.exemplar_points_xy_px.dtype == np.float32
    assert scaled.exemplar_labels.tolist() == [0, 1] and scaled.exemplar_point_labels.tolist() == [0]
    assert prompt.exemplar_boxes_xyxy_px.tolist() == BOXES
    assert Prompt("b").scaled(2, 3).exemplar_boxes_xyxy_px.shape == (0, 4)


def test_as_prompts() -> None:
    prompt = Prompt("b", BOXES)
    assert as_prompts(prompt) == [prompt]
    assert [p.phrase for p in as_prompts("a b")] == ["a b"]
    mixed = as_prompts(("a", prompt))
    assert [p.phrase for p in mixed] == ["a", "b"] and mixed[1] is prompt
    with pytest.raises(ValueError, match="received no prompt; give at least one phrase or Prompt"):
        as_prompts([])


def test_negative_exemplars_alone_are_refused() -> None:
    for exemplars in (
        {"exemplar_boxes_xyxy_px": [[1, 1, 5, 5]], "exemplar_labels": [0]},
        {"exemplar_points_xy_px": [[1, 1]], "exemplar_point_labels": [0]},
    ):
        with pytest.raises(ValueError, match="negative exemplars only.*add a phrase or a positive exemplar"):
            Prompt(**exemplars)
        assert Prompt("star", **exemplars).phrase == "star"


def test_clicks() -> None:
    assert Click(3, 4.5) == Click(3.0, 4.5, True) != Click(3, 4.5, is_positive=False)
    assert isinstance(Click(np.float32(3), np.int64(4), np.bool_(False)).is_positive, bool)  # type: ignore[arg-type]
    assert Click(1, 2, 0).is_positive is False  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Click(1, 2).x_px = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 2), r"received the click \('a', 2\); expected two numbers"),
        ((None, 2), "expected two numbers"),
        ((1, np.nan), "expected finite numbers, in pixels of the picture"),
        ((1, 2, 7), "received is_positive=7; expected True on the object, False beside it"),
        ((1, 2, "no"), "received is_positive='no'"),
    ],
)
def test_clicks_that_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Click(*arguments)


def test_what_is_known_of_one_object() -> None:
    mask, logits = np.eye(4, dtype=bool), np.ones((3, 3))
    prompt = ObjectPrompt([Click(1, 2)], box_xyxy_px=(1, 2, 3, 4), mask=mask)
    mask[:] = False
    assert prompt.clicks == (Click(1, 2),) and np.array_equal(prompt.mask, np.eye(4))  # type: ignore[arg-type]
    assert prompt.box_xyxy_px.tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert ObjectPrompt(Click(1, 2)).clicks == (Click(1, 2),)  # type: ignore[arg-type]
    assert ObjectPrompt(mask_logits=logits).mask_logits.dtype == np.float32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "received nothing that says which object is meant; give a click, a box or a mask"),
        ({"clicks": [(1, 2)]}, r"received \(1, 2\) among the clicks; expected Click"),
        ({"box_xyxy_px": [5, 5, 5, 9]}, r"the box \[\[5.0, 5.0, 5.0, 9.0\]\] has no area"),
        ({"box_xyxy_px": [5, 5, 9]}, "box_xyxy_px: received shape"),
        ({"box_xyxy_px": []}, "has no area"),
        ({"mask": np.ones((2, 2))}, r"a mask of shape \(2, 2\) and type float64; expected \(H, W\) bool"),
        ({"mask": np.ones((1, 2, 2), bool)}, r"a mask of shape \(1, 2, 2\)"),
        ({"mask_logits": np.full((2, 2), np.inf)}, r"mask logits of shape \(2, 2\); expected finite numbers"),
        ({"mask": np.ones((2, 2), bool), "mask_logits": np.ones((2, 2))}, "a mask and mask logits; give one of them"),
    ],
)
def test_objects_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectPrompt(**given)
