"""The predictor: pictures of every kind in, answers in picture pixels out, and the words of its refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam3.image_encoder import to_pixel_values
from sam3.model import Sam3
from sam3.pictures import read_picture
from sam3.predictor import ImagePredictor, Prediction
from sam3.prompts import Prompt

WIDTH, HEIGHT = 75, 44
PROMPTS = [
    Prompt("red circle"),
    Prompt("a dog", [[10, 5, 50, 30], [40, 20, 75, 44]], [1, 0]),
    Prompt(None, [[3, 4, 20, 22]]),
    Prompt("cat", exemplar_points_xy_px=[[70, 40]]),
]


def painted(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """Smooth ground with a block of another colour; no symmetry."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 2 % 256, columns * 3 % 256, (rows + columns) % 256], -1).astype(np.uint8)
    picture[height // 4 : height // 2, width // 5 : width // 2] = rng.integers(0, 256, 3)
    return picture


@pytest.fixture
def predictor(ready: Sam3) -> ImagePredictor:
    """Keeps every query."""
    return ImagePredictor(ready, score_threshold=0.0)


def assert_equal(one: Prediction, other: Prediction) -> None:
    for field in fields(Prediction):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


def assert_close(one: Prediction, other: Prediction) -> None:
    """Equal up to the rounding of a batch of another size."""
    assert one.phrase == other.phrase and one.image_size == other.image_size and len(one) == len(other) > 0
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.boxes_xyxy_px, other.boxes_xyxy_px, atol=1e-2)
    assert (one.masks != other.masks).mean() < 1e-3
    assert one.presence_score == pytest.approx(other.presence_score, abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ pictures
def test_pil_pictures_of_every_8_bit_mode() -> None:
    colour = painted()
    grey = colour[..., 0]
    repeated = np.repeat(grey[..., None], 3, axis=-1)
    opaque = np.dstack([colour, np.full((HEIGHT, WIDTH), 128, np.uint8)])
    few = Image.fromarray(colour).quantize(7)
    cases: list[tuple[Image.Image, np.ndarray]] = [
        (Image.fromarray(colour), colour),
        (Image.fromarray(grey), repeated),
        (Image.fromarray(opaque), colour),
        (Image.fromarray(np.dstack([grey, grey])), repeated),
        (few, np.array(few.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(few)]),
        (Image.fromarray(grey > 40), np.repeat((grey > 40)[..., None], 3, axis=-1) * np.uint8(255)),
        (Image.fromarray(255 - np.dstack([colour, np.full_like(grey, 255)]), "CMYK"), colour),
    ]
    assert [picture.mode for picture, _ in cases] == ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"]
    for picture, expected in cases:
        received = read_picture(picture)
        assert received.dtype == np.uint8 and np.array_equal(received, expected), picture.mode


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_rather_than_cut(kind: type, tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(48).reshape(6, 8) * 900).astype(kind))
    with pytest.raises(ValueError, match=r"pixel type (I|F).*expected 8 bits per channel. Choose the range"):
        read_picture(deep)
    deep.save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match="expected 8 bits per channel"):
        read_picture(tmp_path / "deep.tiff")


def test_files_are_read_from_both_kinds_of_path(tmp_path: Path) -> None:
    Image.fromarray(painted()).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(read_picture(path), painted())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    stored = painted()
    # What a viewer does to the stored pixels, by the EXIF standard.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), upright)


def test_arrays() -> None:
    colour = painted()
    assert np.array_equal(read_picture(colour), colour)
    grey = read_picture(colour[..., 1])
    assert grey.shape == (HEIGHT, WIDTH, 3) and (grey == colour[..., 1:2]).all()
    for view in (colour[..., ::-1], colour[::-1], colour[::2, ::3], colour.transpose(1, 0, 2)):
        assert np.array_equal(read_picture(view), view)
        assert to_pixel_values(read_picture(view), 28).shape == (3, 28, 28)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.zeros((4, 5, 3)),
            r"received an array of shape \(4, 5, 3\) and type float64; expected \(H, W, 3\) uint8 RGB",
        ),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"shape \(1, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((4, 5), bool), "type bool"),
        (np.zeros((4, 5), np.uint16), "type uint16"),
        (Image.new("RGB", (0, 5)), r"shape \(5, 0, 3\)"),
        (None, "type object"),
        ("nowhere.png", "picture nowhere.png does not exist"),
    ],
)
def test_pictures_that_are_refused(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_picture(picture)  # type: ignore[arg-type]


def test_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(painted(300, 200)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:400])
    for path in (tmp_path / "text.png", tmp_path / "half.png", tmp_path):
        with pytest.raises(ValueError, match="cannot be read .* expected a JPEG, PNG or similar"):
            read_picture(path)


# -------------------------------------------------------------------------------------------------------- pixel values
def test_pixel_values() -> None:
    square = painted(56, 56)
    received = to_pixel_values(square, 56)
    assert received.shape == (3, 56, 56) and received.dtype == torch.float32
    np.testing.assert_allclose(received, (square.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)
    for level, value in ((0, -1.0), (255, 1.0)):
        assert (to_pixel_values(np.full((30, 9, 3), level, np.uint8), 14) == value).all()
    assert not np.shares_memory(received.numpy(), square)


@pytest.mark.parametrize(("width", "height"), [(300, 121), (20, 33)])
def test_resizing_is_that_of_pillow_within_two_grey_levels(width: int, height: int) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    levels = (to_pixel_values(noisy, 56).permute(1, 2, 0).numpy() + 1) * 127.5
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3, err_msg="whole grey levels")
    reference = np.asarray(Image.fromarray(noisy).resize((56, 56), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(levels - reference).max() <= 2.001


# ------------------------------------------------------------------------------------------------------------- answers
def test_answers_are_in_pixels_of_the_picture(predictor: ImagePredictor) -> None:
    predictor.set_image(painted())
    for prompt, answer in zip(PROMPTS, predictor.predict(PROMPTS), strict=True):
        assert answer.phrase == prompt.phrase and answer.image_size == (HEIGHT, WIDTH)
        assert len(answer) == 9 and 0 < answer.presence_score < 1
        assert answer.masks.shape == (9, HEIGHT, WIDTH) and answer.masks.dtype == bool
        assert answer.masks.any() and not answer.masks.all()
        assert answer.scores.shape == (9,) and answer.scores.dtype == np.float32
        assert (np.diff(answer.scores) <= 0).all() and (answer.scores <= answer.presence_score).all()
        boxes = answer.boxes_xyxy_px
        assert boxes.shape == (9, 4) and boxes.dtype == np.float32
        assert (boxes >= 0).all() and (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
        assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_answers_are_those_of_the_model(ready: Sam3, predictor: ImagePredictor) -> None:
    """A picture of the size of the mask map: masks are the model's logits above zero, nothing is resized on the way
    out."""
    picture = painted(32, 32)
    predictor.set_image(picture)
    answer = predictor.predict("red circle")
    with torch.no_grad():
        output = ready.detect(to_pixel_values(picture, 112)[None], [[Prompt("red circle")]])
    scores = output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()
    order = scores.argsort(descending=True)
    np.testing.assert_allclose(answer.scores, scores[order], atol=1e-6)
    assert np.array_equal(answer.masks, output.pred_masks[0, order].numpy() > 0)
    cx, cy, w, h = output.pred_boxes_cxcywh[0, order].unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1).clamp(0, 1) * 32
    np.testing.assert_allclose(answer.boxes_xyxy_px, corners, atol=1e-4)
    assert answer.presence_score == pytest.approx(output.presence_logits.sigmoid().item(), abs=1e-6)


def test_masks_are_logits_enlarged_before_the_threshold(predictor: ImagePredictor) -> None:
    """At twice the size of the mask map, a mask is smooth where thresholding first would give 2 x 2 blocks."""
    predictor.set_image(painted(64, 64))
    masks = predictor.predict("red circle").masks
    blocks = masks.reshape(9, 32, 2, 32, 2)
    mixed = blocks.any((2, 4)) != blocks.all((2, 4))
    assert mixed.any()


def test_one_by_one_equals_all_at_once(predictor: ImagePredictor) -> None:
    predictor.set_image(painted())
    together = predictor.predict(PROMPTS)
    assert isinstance(together, list)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        alone = predictor.predict(prompt)
        assert isinstance(alone, Prediction)
        assert_close(alone, answer)
    assert_equal(predictor.predict("red circle"), predictor.predict(Prompt("red circle")))
    assert [p.phrase for p in predictor.predict(["cat", PROMPTS[2]])] == ["cat", None]


@pytest.mark.parametrize("pairs_at_once", [1, 2, 3, 16])
def test_batches_equal_single_pictures(ready: Sam3, predictor: ImagePredictor, pairs_at_once: int) -> None:
    pictures = [painted(), painted(60, 90, seed=1), painted(112, 112, seed=2)]
    asked = [[PROMPTS[0], PROMPTS[1]], ["cat"], [PROMPTS[2], "a dog", PROMPTS[0]]]
    batch = ImagePredictor(ready, 0.0, pairs_at_once=pairs_at_once)
    batch.set_images(pictures)
    answers = batch.predict_batch(asked)
    assert [len(group) for group in answers] == [2, 1, 3]
    for picture, prompts, group in zip(pictures, asked, answers, strict=True):
        predictor.set_image(picture)
        for expected, answer in zip(predictor.predict(prompts), group, strict=True):
            assert_close(answer, expected)


def test_exemplars_are_scaled_with_the_picture(predictor: ImagePredictor) -> None:
    """On pictures without content only the place of an exemplar matters: wide, high and square must agree."""
    answers = []
    for x, y in ((2.0, 0.5), (0.5, 2.0), (1.0, 1.0)):
        predictor.set_image(np.full((int(112 * y), int(112 * x), 3), 90, np.uint8))
        prompt = Prompt("a", [[10, 20, 60, 100], [5, 5, 30, 40]], [1, 0], [[90, 30]], [1]).scaled(x, y)
        answers.append(predictor.predict(prompt))
        np.testing.assert_allclose(answers[-1].scores, answers[0].scores, atol=1e-5)
        share = answers[-1].boxes_xyxy_px / np.array([x, y, x, y], np.float32)
        np.testing.assert_allclose(share, answers[0].boxes_xyxy_px / [2, 0.5, 2, 0.5], atol=1e-2)
    elsewhere = predictor.predict(Prompt("a", [[60, 20, 110, 100], [5, 5, 30, 40]], [1, 0], [[90, 30]], [1]))
    assert np.abs(elsewhere.scores - answers[-1].scores).max() > 1e-4


def test_thresholds(ready: Sam3) -> None:
    predictor = ImagePredictor(ready, 0.0)
    predictor.set_image(painted())
    everything = predictor.predict("cat")
    bar = float(everything.scores[4])
    some = predictor.predict("cat", score_threshold=bar)
    assert len(some) == 4, "a score must be higher than the threshold"
    assert np.array_equal(some.scores, everything.scores[:4]) and np.array_equal(some.masks, everything.masks[:4])
    assert np.array_equal(some.boxes_xyxy_px, everything.boxes_xyxy_px[:4])
    strict = ImagePredictor(ready, bar)
    strict.set_image(painted())
    assert_equal(strict.predict("cat"), some)
    assert len(strict.predict("cat", score_threshold=0.0)) == 9
    nothing = predictor.predict("cat", score_threshold=1.0)
    assert len(nothing) == 0 and nothing.boxes_xyxy_px.shape == (0, 4) and nothing.masks.shape == (0, HEIGHT, WIDTH)
    assert nothing.presence_score == everything.presence_score
    for wrong in (-0.1, 50, float("nan")):
        with pytest.raises(ValueError, match="received score_threshold=.*; expected a number from 0 to 1"):
            ImagePredictor(ready, wrong)
        with pytest.raises(ValueError, match="expected a number from 0 to 1"):
            predictor.predict("cat", score_threshold=wrong)


def test_supervision_detections(predictor: ImagePredictor) -> None:
    supervision = pytest.importorskip("supervision")
    predictor.set_image(painted())
    for prompt, name in ((PROMPTS[0], "red circle"), (PROMPTS[2], "visual")):
        answer = predictor.predict(prompt)
        detections = answer.to_detections()
        assert isinstance(detections, supervision.Detections) and len(detections) == 9
        assert np.array_equal(detections.xyxy, answer.boxes_xyxy_px)
        assert np.array_equal(detections.mask, answer.masks)
        assert np.array_equal(detections.confidence, answer.scores)
        assert set(detections.data["class_name"]) == {name} and set(detections.class_id) == {0}
        best = detections[detections.confidence > answer.scores[3]]
        assert len(best) == 3 and np.array_equal(best.mask, answer.masks[:3])
    nothing = predictor.predict("cat", score_threshold=1.0).to_detections()
    assert len(nothing) == 0 and nothing.mask.shape == (0, HEIGHT, WIDTH)


def test_the_same_question_gets_the_same_answer(ready: Sam3, predictor: ImagePredictor) -> None:
    predictor.set_image(painted())
    first = predictor.predict(PROMPTS)
    other = ImagePredictor(ready, 0.0)
    other.set_image(painted(30, 30, seed=5))
    other.predict("cat")
    other.set_image(Image.fromarray(painted()))
    for again in (predictor.predict(PROMPTS), other.predict(PROMPTS)):
        for one, two in zip(first, again, strict=True):
            assert_equal(one, two)


def test_another_input_size(ready: Sam3) -> None:
    predictor = ImagePredictor(ready, 0.0, image_size=70)
    predictor.set_image(painted())
    answer = predictor.predict(PROMPTS[1])
    assert answer.masks.shape == (9, HEIGHT, WIDTH)
    odd = ImagePredictor(ready, image_size=100)
    with pytest.raises(ValueError, match="S a multiple of the patch size 14"):
        odd.set_image(painted())


def test_a_model_in_training_mode_is_put_into_evaluation(working_model: Callable[..., Sam3]) -> None:
    model = working_model().train()
    predictor = ImagePredictor(model, 0.0)
    predictor.set_image(painted())
    assert not model.training
    assert_equal(predictor.predict("cat"), predictor.predict("cat"))


def test_questions_that_are_refused(predictor: ImagePredictor) -> None:
    with pytest.raises(ValueError, match="no picture is set; call set_image first"):
        predictor.predict("cat")
    with pytest.raises(ValueError, match="received no picture; give at least one"):
        predictor.set_images([])
    predictor.set_images([painted(), painted()])
    with pytest.raises(ValueError, match="2 pictures are set; use predict_batch with one list of prompts each"):
        predictor.predict("cat")
    with pytest.raises(ValueError, match="received 1 prompt lists for 2 pictures; expected one each"):
        predictor.predict_batch([["cat"]])
    predictor.set_image(painted())
    with pytest.raises(ValueError, match="received no prompt"):
        predictor.predict([])


@pytest.mark.parametrize(
    ("prompt", "exemplar"),
    [
        (Prompt("a", [[1, 1, 5, 5], [80, 10, 90, 20]]), r"\[80.0, 10.0, 90.0, 20.0\]"),
        (Prompt("a", [[10, 44, 20, 50]]), r"\[10.0, 44.0, 20.0, 50.0\]"),
        (Prompt("a", [[-9, 1, 0, 5]]), r"\[-9.0, 1.0, 0.0, 5.0\]"),
        (Prompt("a", exemplar_points_xy_px=[[40, 70]]), r"\[40.0, 70.0\]"),  # y before x
        (Prompt("a", exemplar_points_xy_px=[[3, 3], [-1, 3]]), r"\[-1.0, 3.0\]"),
    ],
)
def test_exemplars_outside_the_picture_are_refused(predictor: ImagePredictor, prompt: Prompt, exemplar: str) -> None:
    predictor.set_image(painted())
    with pytest.raises(ValueError, match=f"exemplar {exemplar} lies outside .* 75 pixels wide and 44 high; give coord"):
        predictor.predict(prompt)


def test_exemplars_on_the_edge_are_taken(predictor: ImagePredictor) -> None:
    predictor.set_image(painted())
    whole = Prompt("a", [[0, 0, WIDTH, HEIGHT], [-5, -5, 4, 4]], None, [[0, 0], [WIDTH, HEIGHT]])
    assert len(predictor.predict(whole)) == 9


def test_an_unreadable_picture_leaves_the_one_before(predictor: ImagePredictor) -> None:
    predictor.set_image(painted())
    before = predictor.predict("cat")
    with pytest.raises(ValueError, match="does not exist"):
        predictor.set_image("nowhere.png")
    assert_equal(predictor.predict("cat"), before)
