"""Pictures of single answers: a panel for each, marks where they were made, maps where their cells are."""

from __future__ import annotations

import numpy as np
import pytest

from sam3.interactive import Segmentation
from sam3.predictor import Prediction
from sam3.prompts import Click, ObjectPrompt, Prompt
from workbench.paint import PALETTE
from workbench.show_answers import show_answers, show_maps, show_object

PICTURE = np.full((60, 80, 3), 128, np.uint8)


def prediction(phrase: str | None, *boxes: tuple[int, int, int, int]) -> Prediction:
    masks = np.zeros((len(boxes), 60, 80), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    scores = np.linspace(0.9, 0.6, len(boxes)).astype(np.float32)
    return Prediction(phrase, np.array(boxes, np.float32).reshape(-1, 4), masks, scores, 0.87, (60, 80))


def test_every_answer_has_a_panel_that_says_what_was_found(tmp_path) -> None:
    prompts = [Prompt("star"), Prompt(None, exemplar_boxes_xyxy_px=[[4, 4, 20, 20], [40, 4, 60, 20]])]
    answers = [prediction("star", (10, 10, 30, 30), (50, 30, 70, 50)), prediction(None)]
    figure = show_answers(PICTURE, answers, prompts, save=tmp_path / "a.png")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["star\n2 found, presence 0.87", "2 examples\n0 found, presence 0.87"]
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert (drawn[15, 15] != 128).any() and (drawn[55, 5] == 128).all()
    assert (np.asarray(figure.axes[1].images[0].get_array()) == 128).all()
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_exemplars_are_drawn_in_the_colour_of_their_label() -> None:
    prompt = Prompt("star", [[4, 4, 20, 20], [40, 4, 60, 20]], [1, 0], [[70, 50]], [1])
    (axes,) = show_answers(PICTURE, [prediction("star")], [prompt]).axes
    boxes = [(patch.get_x(), patch.get_width(), patch.get_edgecolor()) for patch in axes.patches]
    green, orange = (tuple(np.array(PALETTE[number]) / 255) for number in (2, 3))
    assert [(x, width) for x, width, _ in boxes] == [(4, 16), (4, 16), (40, 20), (40, 20)]  # white below each
    assert boxes[1][2][:3] == pytest.approx(green) and boxes[3][2][:3] == pytest.approx(orange)
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[70, 50]]]
    assert axes.get_title(loc="left").startswith("star + 3 examples\n")
    (axes,) = show_answers(PICTURE, [prediction("star")], titles=["adapter off"]).axes
    assert axes.get_title(loc="left").startswith("adapter off: star\n")


def test_the_masks_of_one_object_come_with_their_clicks() -> None:
    masks = np.zeros((3, 60, 80), bool)
    masks[:, 10:30, 10:40] = True
    answer = Segmentation(masks, np.array([0.9, 0.6, 0.2], np.float32), np.zeros((3, 8, 8), np.float32), 1.0)
    prompt = ObjectPrompt([Click(20, 20), Click(60, 50, is_positive=False)], box_xyxy_px=[5, 5, 45, 35])
    panels = show_object(PICTURE, answer, prompt).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "mask 1: expected fit 0.90",
        "mask 2: expected fit 0.60",
        "mask 3: expected fit 0.20",
    ]
    assert [line.get_marker() for line in panels[2].lines] == ["P", "X"] and len(panels[0].patches) == 2


def test_a_map_lies_over_the_whole_picture_whatever_its_grid() -> None:
    ramp = np.arange(12.0).reshape(3, 4)
    (axes, other) = show_maps(PICTURE, {"look": ramp, "tiny": ramp * 1e-9 - 1}, points_xy_px=[(20, 30)]).axes
    shown = axes.images[1]
    assert shown.get_extent() == [0, 80, 60, 0] and (np.asarray(shown.get_array()) == ramp).all()
    assert axes.get_title(loc="left") == "look\n0 to 11" and other.get_title(loc="left") == "tiny\n-1 to -1"
    assert axes.lines[0].get_xydata().tolist() == [[20, 30]]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="received no answer"):
        show_answers(PICTURE, [])
    with pytest.raises(ValueError, match="2 titles for 1 answers"):
        show_answers(PICTURE, [prediction("star")], titles=["before", "after"])
    with pytest.raises(ValueError, match=r"'star' is about a picture of \(60, 80\) pixels .* this one has \(40, 40\)"):
        show_answers(np.zeros((40, 40, 3), np.uint8), [prediction("star")])
    with pytest.raises(ValueError, match="received no map"):
        show_maps(PICTURE, {})
    with pytest.raises(ValueError, match=r"'flat' of shape \(4,\); expected numbers \(h, w\)"):
        show_maps(PICTURE, {"flat": np.zeros(4)})
