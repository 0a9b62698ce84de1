"""Clicks, boxes and masks on a picture: what reaches the tracker, several objects, refinement, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sam3.image_encoder import to_pixel_values
from sam3.interactive import Segmentation
from sam3.masks import fill_holes
from sam3.model import Sam3
from sam3.predictor import ImagePredictor, Prediction
from sam3.prompts import Click, ObjectPrompt, Prompt
from sam3.tracker.prompt_encoder import Hints

WIDTH, HEIGHT = 90, 50
CLICK = Click(27.0, 20.0)


def painted(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - 40) ** 2 + (rows - 22) ** 2 < 15**2


@pytest.fixture
def predictor(clickable: Sam3) -> ImagePredictor:
    predictor = ImagePredictor(clickable, score_threshold=0.0)
    predictor.set_image(painted())
    return predictor


def assert_same(one: Segmentation, other: Segmentation) -> None:
    np.testing.assert_allclose(one.iou_scores, other.iou_scores, atol=1e-5)
    np.testing.assert_allclose(one.mask_logits, other.mask_logits, atol=1e-4)
    assert (one.masks != other.masks).mean() < 1e-3
    assert one.object_score == pytest.approx(other.object_score, abs=1e-5)


def test_one_click_gives_three_masks_best_first(predictor: ImagePredictor) -> None:
    answer = predictor.segment(ObjectPrompt([CLICK]))
    assert answer.masks.shape == (3, HEIGHT, WIDTH) and answer.masks.dtype == bool and len(answer) == 3
    assert answer.mask_logits.shape == (3, 32, 32) and answer.mask_logits.dtype == np.float32
    assert (np.diff(answer.iou_scores) <= 0).all() and 0 <= answer.iou_scores.min() <= answer.iou_scores.max() <= 1
    assert 0 <= answer.object_score <= 1
    assert np.unique(answer.masks.reshape(3, -1), axis=0).shape[0] == 3


@torch.no_grad()
def test_pixels_reach_the_tracker_as_parts_of_the_picture(predictor: ImagePredictor, clickable: Sam3) -> None:
    """The heads, called by hand with a box and two clicks, give the same."""
    prompt = ObjectPrompt([CLICK, Click(80, 5, is_positive=False)], box_xyxy_px=[9, 10, 45, 45])
    answer = predictor.segment(prompt)
    pixels = to_pixel_values(painted(), 112)[None]
    features = clickable.tracker_features(clickable.image_encoder.trunk(pixels))
    tracker = clickable.require_tracker()
    points = torch.tensor([[[0.1, 0.2], [0.5, 0.9], [0.3, 0.4], [80 / 90, 0.1]]])
    hints = Hints(points, torch.tensor([[2, 3, 1, 0]]))
    expected = tracker.segment(features, hints, is_ambiguous=False)
    assert len(answer) == 1
    np.testing.assert_allclose(answer.mask_logits, expected.mask_logits[0], atol=1e-4)
    filled = fill_holes(expected.mask_logits[0], 3, 10.0)  # 256 cells of 288 x 288 are 3 of 32 x 32
    full = F.interpolate(filled[None], size=(HEIGHT, WIDTH), mode="bilinear")[0] > 0
    assert (answer.masks != full.numpy()).mean() < 1e-3


def test_several_objects_equal_single_answers(predictor: ImagePredictor) -> None:
    prompts = [
        ObjectPrompt([CLICK]),
        ObjectPrompt(box_xyxy_px=[5, 5, 60, 40]),
        ObjectPrompt([Click(70, 30), Click(20, 10, is_positive=False)]),
        ObjectPrompt([Click(60, 12)]),
        ObjectPrompt([CLICK], mask=disc()),
        ObjectPrompt(mask=disc()),
    ]
    answers = predictor.segment(prompts)
    assert [len(answer) for answer in answers] == [3, 1, 1, 3, 1, 1]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(predictor.segment(prompt), answer)
    logits = [answer.mask_logits[0] for answer in answers]
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(logits) for b in logits[:i]), "every prompt matters"


@pytest.mark.parametrize(("is_ambiguous", "count"), [(True, 3), (False, 1)])
def test_the_number_of_masks_can_be_chosen(predictor: ImagePredictor, is_ambiguous: bool, count: int) -> None:
    for prompt in (ObjectPrompt([CLICK]), ObjectPrompt(box_xyxy_px=[5, 5, 60, 40]), ObjectPrompt(mask=disc())):
        assert len(predictor.segment(prompt, is_ambiguous=is_ambiguous)) == count


def test_an_answer_is_refined_with_its_logits(predictor: ImagePredictor) -> None:
    first = predictor.segment(ObjectPrompt([CLICK]))
    clicks = [CLICK, Click(70, 40, is_positive=False)]
    refined = predictor.segment(ObjectPrompt(clicks, mask_logits=first.mask_logits[0]))
    plain = predictor.segment(ObjectPrompt(clicks))
    assert len(refined) == len(plain) == 1
    assert np.abs(refined.mask_logits - plain.mask_logits).max() > 0.01
    assert np.abs(first.mask_logits).max() <= 32


def test_masks_of_any_resolution_mean_the_same(predictor: ImagePredictor) -> None:
    large = np.repeat(np.repeat(disc(), 4, axis=0), 4, axis=1)
    one, other = predictor.segment([ObjectPrompt(mask=disc()), ObjectPrompt(mask=large)])
    np.testing.assert_allclose(one.iou_scores, other.iou_scores, atol=0.05)
    grid = F.interpolate(torch.from_numpy(disc() * 20.0 - 10)[None, None], (32, 32), mode="bilinear", antialias=True)
    assert_same(predictor.segment(ObjectPrompt(mask_logits=grid[0, 0].numpy())), one)


def test_an_instance_of_a_phrase_is_refined_by_clicks(predictor: ImagePredictor) -> None:
    found = predictor.predict("cat")
    assert len(found) == 9
    refined = predictor.refine(found, 2, [CLICK, Click(70, 40, is_positive=False)])
    clicks = [CLICK, Click(70, 40, is_positive=False)]
    expected = predictor.segment(ObjectPrompt(clicks, mask=found.masks[2]))
    assert np.array_equal(refined.masks[2], expected.masks[0])
    rows, columns = np.nonzero(refined.masks[2])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert refined.boxes_xyxy_px[2].tolist() == box
    others = [0, 1, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(refined.masks[others], found.masks[others])
    assert np.array_equal(refined.boxes_xyxy_px[others], found.boxes_xyxy_px[others])
    assert np.array_equal(refined.scores, found.scores) and refined.phrase == "cat"
    assert np.array_equal(predictor.predict("cat").masks, found.masks), "the answer itself is not changed"


def test_an_emptied_mask_has_an_empty_box(predictor: ImagePredictor) -> None:
    found = predictor.predict("cat")
    emptied = found.with_mask(-1, np.zeros((HEIGHT, WIDTH), dtype=bool))
    assert not emptied.masks[-1].any() and emptied.boxes_xyxy_px[-1].tolist() == [0, 0, 0, 0]


def test_features_are_shared_with_phrases(clickable: Sam3) -> None:
    calls: list[Any] = []
    handle = clickable.image_encoder.patch_embed.register_forward_hook(lambda *call: calls.append(call))
    predictor = ImagePredictor(clickable)
    predictor.set_image(painted())
    predictor.predict("cat")
    predictor.segment([ObjectPrompt([CLICK]), ObjectPrompt(box_xyxy_px=[5, 5, 60, 40])])
    predictor.segment(ObjectPrompt(mask=disc()))
    handle.remove()
    assert len(calls) == 1


def test_refusals_of_the_predictor(predictor: ImagePredictor, clickable: Sam3, ready: Sam3) -> None:
    with pytest.raises(ValueError, match="no picture is set; call set_image first"):
        ImagePredictor(clickable).segment(ObjectPrompt([CLICK]))
    without = ImagePredictor(ready)
    without.set_image(painted())
    with pytest.raises(ValueError, match="this model has no tracker, so it takes no clicks"):
        without.segment(ObjectPrompt([CLICK]))
    with pytest.raises(ValueError, match=r"Click\(x_px=91.0.*outside the picture, which is 90 pixels wide and 50 high"):
        predictor.segment(ObjectPrompt([Click(91, 3)]))
    with pytest.raises(ValueError, match=r"the box \[90.0, 5.0, 99.0, 9.0\] lies outside the picture"):
        predictor.segment(ObjectPrompt(box_xyxy_px=[90, 5, 99, 9]))
    found = predictor.predict("cat")
    with pytest.raises(ValueError, match="received index 9; the prediction has 9 instances"):
        predictor.refine(found, 9, [CLICK])
    other: Prediction = replace(found, image_size=(8, 9))
    with pytest.raises(ValueError, match=r"a picture of \(8, 9\) pixels, the one that is set has \(50, 90\)"):
        predictor.refine(other, 0, [CLICK])
    predictor.set_images([painted(), painted(1)])
    with pytest.raises(ValueError, match="2 pictures are set; call set_image with the one that is meant"):
        predictor.segment(ObjectPrompt([CLICK]))
    assert len(predictor.predict_batch([[Prompt("cat")], [Prompt("cat")]])) == 2


def test_no_object_no_answer(predictor: ImagePredictor) -> None:
    assert predictor.segment([]) == []
