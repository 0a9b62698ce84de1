"""What a pre-training step looks at: scenes turned with their labels, and questions whose answers can be relied on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from workbench.domains import shapes
from workbench.domains.shapes import Scene
from workbench.examples import boxes_of_masks
from workbench.pretrain.batches import (
    Question,
    SceneBatch,
    ScenePool,
    ask,
    draw_scenes,
    masks_of,
    probes,
    turned,
    unknown_word,
)
from workbench.pretrain.losses import cell_labels, outlines


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [shapes.render_scene(np.random.default_rng([7, index])) for index in range(30)]


@pytest.fixture
def batch() -> SceneBatch:
    pools = ScenePool(4, 0), ScenePool(4, 0, is_plain=True)
    return draw_scenes(pools, 0.5, np.random.default_rng(3), 2, torch.device("cpu"))


# -------------------------------------------------------------------------------------------------------------- scenes
def test_turned_scenes_keep_boxes_and_instance_map_together(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    turns = Counter[str]()
    for scene in scenes:
        for _ in range(3):
            new = turned(scene, rng)
            numbers = np.arange(1, len(new.objects) + 1)
            boxes = boxes_of_masks(new.instance_map[None] == numbers[:, None, None])
            assert [o.box_xyxy_px for o in new.objects] == [tuple(box) for box in boxes.tolist()]
            for one, other in zip(scene.objects, new.objects, strict=True):
                assert (one.kind, one.colour, one.texture, one.size) == (
                    other.kind,
                    other.colour,
                    other.texture,
                    other.size,
                )
            for number in numbers:  # each object keeps its own pixels
                before, after = scene.image[scene.instance_map == number], new.image[new.instance_map == number]
                assert np.array_equal(np.sort(before.sum(1)), np.sort(after.sum(1)))
            has_words = any(o.kind == "word" for o in scene.objects)
            is_same = np.array_equal(new.image, scene.image)
            assert is_same or not has_words, "words stay upright"
            turns["words" if has_words else "same" if is_same else "turned"] += 1
            assert new.image.flags.c_contiguous and new.has_colour == scene.has_colour
    assert turns["turned"] > 3 * turns["same"] > 0 and turns["words"] > 0


def test_scenes_of_a_pool_follow_from_its_seed() -> None:
    pool, again, other = ScenePool(4, 5), ScenePool(4, 5), ScenePool(4, 6)
    assert np.array_equal(pool[2].image, again[2].image) and pool[2] is pool[2]
    assert not np.array_equal(pool[2].image, other[2].image) and not np.array_equal(pool[2].image, pool[1].image)
    plain = [ScenePool(4, 5, is_plain=True)[index] for index in range(4)]
    assert all(o.size != "small" and o.texture == "solid" for s in plain for o in s.objects if o.kind != "word")


def test_batches_hold_what_their_scenes_show(batch: SceneBatch) -> None:
    assert batch.pixel_values.shape == (2, 3, 224, 224) and batch.pixel_values.dtype == torch.float32
    assert batch.pixel_values.abs().max() <= 1 and batch.instance_map.shape == (2, 224, 224)
    for row, scene in enumerate(batch.scenes):
        assert np.array_equal(batch.instance_map[row].numpy(), scene.instance_map)
        assert batch.boxes_xyxy_px[row].tolist() == [list(o.box_xyxy_px) for o in scene.objects]
        shown = (batch.pixel_values[row].permute(1, 2, 0).numpy() + 1) * 127.5
        correlation = np.corrcoef(shown.ravel(), scene.image.astype(np.float32).ravel())[0, 1]
        assert correlation > 0.97, "re-lit, but the same picture"


@pytest.mark.parametrize("plain_share", [0.0, 1.0])
def test_plain_scenes_come_with_their_share(plain_share: float) -> None:
    pools = ScenePool(3, 0), ScenePool(3, 0, is_plain=True)
    drawn = draw_scenes(pools, plain_share, np.random.default_rng(0), 6, torch.device("cpu"))
    wanted, other = (pools[1], pools[0]) if plain_share else (pools[0], pools[1])
    assert len(wanted._scenes) > 1 and not other._scenes and len(drawn.scenes) == 6


# ----------------------------------------------------------------------------------------------------------- questions
def objects_of(scene: Scene, question: Question) -> tuple[set[int], set[int]]:
    """The objects that positive and negative exemplars show."""
    prompt, shown = question.prompt, (set[int](), set[int]())
    boxes = np.array([o.box_xyxy_px for o in scene.objects])
    for box, label in zip(np.asarray(prompt.exemplar_boxes_xyxy_px), np.asarray(prompt.exemplar_labels), strict=True):
        common = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
        area = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
        overlaps = common / (area - common)
        assert overlaps.max() > 0.5, "drawn a little off, not elsewhere"
        shown[1 - int(label)].add(int(overlaps.argmax()))
    for (x, y), label in zip(
        np.asarray(prompt.exemplar_points_xy_px), np.asarray(prompt.exemplar_point_labels), strict=True
    ):
        number = int(scene.instance_map[int(y), int(x)])
        assert number > 0, "a point lies on an object"
        shown[1 - int(label)].add(number - 1)
    return shown


def test_questions_with_exemplars_are_consistent(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(1)
    seen = Counter[str]()
    known = set(shapes.vocabulary())
    for scene in scenes:
        for phrase in shapes.sample_phrases(rng, scene, 4, 2):
            question = ask(scene, phrase, rng, exemplar_share=1.0)
            named = {i for i, o in enumerate(scene.objects) if phrase.matches(o)}
            positives, negatives = objects_of(scene, question)
            found = set(question.found)
            if not named:
                assert not found and not positives and not negatives and question.prompt.phrase == phrase.text
                seen["absent"] += 1
                continue
            assert positives and positives <= found and not negatives & found
            if question.prompt.phrase == phrase.text:
                assert found == named
                seen["phrase"] += 1
            else:  # the exemplars stand for their kind and colour
                alike = {(scene.objects[i].kind, scene.objects[i].colour) for i in found}
                assert len(alike) == 1
                assert found == {i for i, o in enumerate(scene.objects) if (o.kind, o.colour) in alike}
                word = question.prompt.phrase
                assert word is None or not known & set(word.split())
                seen["visual" if word is None else "new word"] += 1
            seen["negatives"] += bool(negatives)
            seen["points"] += len(question.prompt.exemplar_points_xy_px) > 0  # type: ignore[arg-type]
    assert min(seen[kind] for kind in ("absent", "phrase", "visual", "new word", "negatives", "points")) > 5, seen


def test_questions_without_exemplars(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(2)
    for scene in scenes[:5]:
        for phrase in shapes.sample_phrases(rng, scene, 3, 3):
            question = ask(scene, phrase, rng, exemplar_share=0.0)
            assert question.prompt.phrase == phrase.text and len(question.prompt.exemplar_boxes_xyxy_px) == 0  # type: ignore[arg-type]
            assert question.found == tuple(i for i, o in enumerate(scene.objects) if phrase.matches(o))


def test_made_up_words_are_new_and_short() -> None:
    words = {unknown_word(np.random.default_rng(seed)) for seed in range(200)}
    assert len(words) > 150 and not words & set(shapes.vocabulary())
    assert all(word.isalpha() and word.islower() and 4 <= len(word) <= 9 for word in words)


def test_probes_are_noised_boxes_of_all_objects() -> None:
    boxes = [torch.tensor([[0.2, 0.3, 0.4, 0.7], [0.5, 0.5, 0.9, 0.6]]), torch.tensor([[0.1, 0.1, 0.3, 0.2]])]
    drawn = [probes(boxes, [0, 1, 1, 0], np.random.default_rng(seed)) for seed in range(30)]
    for noised, true, valid in drawn:
        assert noised.shape == true.shape == (4, 2, 4)
        assert valid.tolist() == [[True, True], [True, False], [True, False], [True, True]]
        torch.testing.assert_close(true[0], torch.tensor([[0.3, 0.5, 0.2, 0.4], [0.7, 0.55, 0.4, 0.1]]))
        torch.testing.assert_close(true[2, 0], torch.tensor([0.2, 0.15, 0.2, 0.1]))
        shift = ((noised - true) / true[..., 2:].repeat(1, 1, 2))[valid].abs()
        assert (shift[:, :2] <= 0.2501).all() and (shift[:, 2:] <= 0.3001).all()
    spread = torch.stack([noised for noised, _, _ in drawn]).std(0)
    assert (spread[drawn[0][2]] > 0).all()


def test_masks_and_labels_are_read_off_the_instance_map(batch: SceneBatch) -> None:
    image = torch.tensor([0, 1, 1])
    number = torch.tensor([0, 0, len(batch.scenes[1].objects) - 1])
    masks = masks_of(batch.instance_map, image, number, 2)
    assert masks.shape == (3, 112, 112) and masks.dtype == torch.bool
    for mask, row, n in zip(masks, image, number, strict=True):
        expected = (batch.instance_map[row] == n + 1).float()
        assert mask.float().mean().item() == pytest.approx(expected.mean().item(), abs=0.01)
        assert expected[1::2, 1::2].bool().equal(mask)
    labels = cell_labels(batch.instance_map, 16)
    assert labels.shape == (2, 16, 16) and labels[1, 4, 9] == batch.instance_map[1, 63, 133]
    small = torch.tensor([[[0, 0, 0], [0, 2, 2], [0, 2, 3]]])
    edges = [[False, False, False], [False, True, True], [False, True, True]]
    assert outlines(small).tolist() == [edges]
