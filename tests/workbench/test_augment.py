"""Views: what is seen, the masks and the boxes move together, and unclear answers are left out.

The pictures hold their own coordinates (red = column, green = row), so that every view says where it was cut out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.augment import AugmentConfig, View, make_view
from workbench.examples import Concept, Example, boxes_of_masks

GEOMETRY = AugmentConfig(flip=True, turn=True, zoom=0.5, brightness=0.0, contrast=0.0, colour=0.0)
WIDTH, HEIGHT, SIZE = 180, 120, 144
EDGE, MIDDLE = (0, 40, 50, 90), (80, 50, 100, 70)


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def hook() -> np.ndarray:
    """An L with arms of unequal length, so that every turn and flip of it looks different."""
    return rectangle((60, 30, 130, 45)) | rectangle((60, 30, 80, 75))


def pictured(*concepts: Concept) -> Example:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return Example("a", np.stack([columns, rows, 0 * rows], -1).astype(np.uint8), WIDTH, HEIGHT, concepts)


def source(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of the picture that each pixel of a view shows."""
    return view.pixels[..., 0], view.pixels[..., 1]


def shown(mask: np.ndarray, view: View) -> np.ndarray:
    """The mask as the view shows it."""
    columns, rows = source(view)
    return mask[rows, columns]


def visible_share(box: tuple[int, int, int, int], view: View) -> float:
    """Share of a box that lies in the view, to about a pixel."""
    columns, rows = (values.astype(float) for values in source(view))
    wide = min(box[2], columns.max() + 1) - max(box[0], columns.min())
    high = min(box[3], rows.max() + 1) - max(box[1], rows.min())
    return max(wide, 0) * max(high, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def block(*boxes: tuple[int, int, int, int], has_masks: bool) -> Concept:
    if has_masks:
        return Concept("block", masks=np.stack([rectangle(box) for box in boxes]))
    return Concept("block", boxes_xyxy_px=np.array(boxes))


@pytest.fixture(scope="module")
def example() -> Example:
    return pictured(Concept("hook", masks=hook()[None]), Concept("star", "absent"), Concept("moon", "unknown"))


def test_without_settings_the_whole_picture_is_shown(example: Example) -> None:
    view = make_view(example, SIZE, 72, None, (0,))
    assert view.pixels.shape == (SIZE, SIZE, 3) and view.pixels.dtype == np.uint8
    columns, rows = source(view)
    assert (columns[:, 0] <= 1).all() and (columns[:, -1] >= WIDTH - 2).all() and (rows[0] <= 1).all()
    concept = view.concepts[0]
    assert concept.is_present and concept.has_masks and concept.masks.shape == (1, 72, 72)
    box = boxes_of_masks(hook()[None])[0] / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    np.testing.assert_allclose(concept.boxes_xyxy[0], box, atol=1e-6)
    assert overlap(shown(hook(), make_view(example, 72, 72, None, (0,))), concept.masks[0]) > 0.94
    for seed in ((1,), (0, 2, 3)):
        again = make_view(example, SIZE, 72, None, seed)
        assert np.array_equal(again.pixels, view.pixels) and np.array_equal(again.concepts[0].masks, concept.masks)


def test_picture_masks_and_boxes_stay_together(example: Example) -> None:
    found = 0
    for seed in range(40):
        view = make_view(example, SIZE, SIZE, GEOMETRY, (seed,))
        concepts = {concept.phrase: concept for concept in view.concepts}
        if "hook" not in concepts:
            continue
        found += 1
        received, expected = concepts["hook"], shown(hook(), view)
        assert overlap(expected, received.masks[0]) > 0.94
        tight = boxes_of_masks(expected[None])[0] / SIZE
        np.testing.assert_allclose(received.boxes_xyxy[0], tight, atol=2.5 / SIZE)
        assert received.boxes_xyxy.dtype == np.float32 and received.masks.dtype == bool
    assert found > 20


def test_boxes_alone_move_like_masks() -> None:
    outlined, boxed = (pictured(block(MIDDLE, EDGE, has_masks=has_masks)) for has_masks in (True, False))
    compared = 0
    for seed in range(30):
        one, other = (make_view(e, SIZE, 36, GEOMETRY, (seed,)) for e in (outlined, boxed))
        assert np.array_equal(one.pixels, other.pixels)
        if one.concepts and other.concepts:
            compared += 1
            assert not other.concepts[0].has_masks and not other.concepts[0].masks.any()
            assert other.concepts[0].masks.shape == (len(one.concepts[0].masks), 36, 36)
            np.testing.assert_allclose(other.concepts[0].boxes_xyxy, one.concepts[0].boxes_xyxy, atol=1e-6)
    assert compared > 10


def orientation(view: View) -> tuple[bool, ...]:
    """Whether columns run left to right or down, and whether they and the rows grow."""
    columns, rows = (values.astype(int) for values in source(view))
    is_upright = abs(columns[0, -1] - columns[0, 0]) > abs(columns[-1, 0] - columns[0, 0])
    return bool(is_upright), bool(columns[-1, -1] > columns[0, 0]), bool(rows[-1, -1] > rows[0, 0])


def test_all_turns_and_flips_occur_when_allowed(example: Example) -> None:
    def found(config: AugmentConfig) -> set[tuple[bool, ...]]:
        return {orientation(make_view(example, 36, 36, config, (seed,))) for seed in range(50)}

    upright, mirrored = (True, True, True), (True, False, True)
    assert len(found(GEOMETRY)) == 8
    assert len(found(replace(GEOMETRY, flip=False))) == 4
    assert found(replace(GEOMETRY, turn=False)) == {upright, mirrored}
    assert found(replace(GEOMETRY, turn=False, flip=False)) == {upright}


def test_zoom_bounds_the_crop_and_keeps_the_aspect(example: Example) -> None:
    shares, corners = [], []
    for seed in range(60):
        columns, rows = source(make_view(example, SIZE, 36, replace(GEOMETRY, turn=False), (seed,)))
        wide, high = int(columns.max()) - int(columns.min()) + 1, int(rows.max()) - int(rows.min()) + 1
        assert wide / WIDTH == pytest.approx(high / HEIGHT, abs=0.03)
        shares.append(wide / WIDTH)
        corners.append((columns.min() / WIDTH, rows.min() / HEIGHT))
    assert 0.48 < min(shares) < 0.55 and 0.95 < max(shares) <= 1.0
    assert np.ptp(corners, axis=0).min() > 0.2, "crops come from everywhere"
    for zoom in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match=f"received zoom={zoom}; expected the least share of the picture kept"):
            AugmentConfig(zoom=zoom)


@pytest.mark.parametrize("config", [None, GEOMETRY])
def test_unknown_phrases_are_left_out_and_absent_ones_kept(example: Example, config: AugmentConfig | None) -> None:
    for seed in range(10):
        concepts = {concept.phrase: concept for concept in make_view(example, SIZE, 36, config, (seed,)).concepts}
        assert "moon" not in concepts
        star = concepts["star"]
        assert not star.is_present and star.boxes_xyxy.shape == (0, 4) and star.masks.shape == (0, 36, 36)


@pytest.mark.parametrize("has_masks", [True, False])
def test_objects_cut_by_the_crop(has_masks: bool) -> None:
    """Of two objects: both in view, one in view and the other not, or one cut so far that the answer is unclear."""
    example = pictured(block(EDGE, MIDDLE, has_masks=has_masks), Concept("star", "absent"))
    config = replace(GEOMETRY, min_visible=0.5)
    outcomes = set()
    for seed in range(80):
        view = make_view(example, SIZE, 36, config, (seed,))
        shares = [visible_share(box, view) for box in (EDGE, MIDDLE)]
        if any(0 < share < 0.08 or abs(share - 0.5) < 0.06 for share in shares):
            continue  # too near a bar to be told from the picture
        concepts = {concept.phrase: concept for concept in view.concepts}
        assert "star" in concepts, "other phrases are still answered"
        if any(0 < share < 0.5 for share in shares) or not any(shares):
            outcomes.add("left out")
            assert "block" not in concepts
        else:
            outcomes.add(sum(share >= 0.5 for share in shares))
            assert len(concepts["block"].boxes_xyxy) == sum(share >= 0.5 for share in shares)
    assert outcomes == {"left out", 1, 2}


def test_min_visible_decides_what_is_unclear() -> None:
    example = pictured(block(EDGE, has_masks=True))
    answered = {
        bar: sum(
            bool(make_view(example, SIZE, 36, replace(GEOMETRY, min_visible=bar), (s,)).concepts) for s in range(50)
        )
        for bar in (0.0, 0.4, 0.8)
    }
    assert answered[0.0] > answered[0.4] > answered[0.8] > 0


@pytest.mark.parametrize("config", [None, replace(GEOMETRY, zoom=0.8)])
def test_objects_thinner_than_a_cell_of_the_mask_are_kept(config: AugmentConfig | None) -> None:
    line, dot = rectangle((70, 55, 110, 56)), rectangle((90, 60, 92, 62))
    view = make_view(pictured(Concept("thin", masks=np.stack([line, dot]))), SIZE, 20, config, (3,))
    thin = view.concepts[0]
    assert thin.masks.any((1, 2)).all() and thin.masks.shape == (2, 20, 20)
    for mask, box, truth in zip(thin.masks, thin.boxes_xyxy, (line, dot), strict=True):
        drawn = boxes_of_masks(mask[None])[0] / 20
        assert (drawn[:2] <= box[:2] + 0.05).all() and (drawn[2:] >= box[2:] - 0.05).all()
        tight = boxes_of_masks(shown(truth, view)[None])[0] / SIZE
        np.testing.assert_allclose(box, tight, atol=2.5 / SIZE)


def test_an_object_too_small_to_be_drawn_makes_the_phrase_unclear() -> None:
    specks = Concept("speck", masks=np.stack([rectangle((90, 60, 91, 61)), rectangle((20, 20, 80, 80))]))
    assert make_view(pictured(specks), SIZE, 4, None, (0,)).concepts == ()


def test_a_view_follows_from_its_seed(example: Example) -> None:
    config = AugmentConfig(turn=True)
    views = [make_view(example, SIZE, 36, config, seed) for seed in ((1, 2, 3), (1, 2, 3), (1, 2, 4), (3, 2, 1))]
    assert np.array_equal(views[0].pixels, views[1].pixels)
    for one, other in zip(views[0].concepts, views[1].concepts, strict=True):
        assert one.phrase == other.phrase
        assert np.array_equal(one.masks, other.masks) and np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
    for other in views[2:]:
        assert not np.array_equal(views[0].pixels, other.pixels)


def test_colours_change_without_moving_anything(example: Example) -> None:
    plain = replace(GEOMETRY, zoom=0.9)
    strong = replace(plain, brightness=0.4, contrast=0.4, colour=0.3)
    changes = []
    for seed in range(12):
        one, other = (make_view(example, SIZE, 36, config, (seed,)) for config in (plain, strong))
        for a, b in zip(one.concepts, other.concepts, strict=True):
            assert np.array_equal(a.masks, b.masks) and np.array_equal(a.boxes_xyxy, b.boxes_xyxy)
        changes.append((other.pixels.astype(float) - one.pixels).mean((0, 1)))
        for channel in (0, 1):  # brighter stays brighter
            order = one.pixels[..., channel].ravel().argsort(kind="stable")
            assert (np.diff(other.pixels[..., channel].ravel()[order].astype(int)) >= 0).all()
    assert np.std(changes, axis=0).min() > 2, "every view is lit in its own way"


def test_strengths_of_zero_change_no_grey_level(example: Example) -> None:
    view = make_view(example, WIDTH, 36, replace(GEOMETRY, zoom=1.0, flip=False, turn=False), (0,))
    whole = make_view(example, WIDTH, 36, None, (0,))
    assert np.array_equal(view.pixels, whole.pixels)


def test_the_picture_of_the_example_is_not_touched(example: Example) -> None:
    before = example.load_image().copy()
    view = make_view(example, SIZE, 36, AugmentConfig(), (0,))
    view.pixels[:] = 0
    assert np.array_equal(example.load_image(), before)
