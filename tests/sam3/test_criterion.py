"""Matching and losses against golden values of the reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sam3.detector.criterion import (
    box_losses,
    classification_loss,
    dice_loss,
    mask_losses,
    presence_loss,
    semantic_losses,
)
from sam3.detector.detector import DetectorOutput, LayerOutput
from sam3.detector.mask_head import MaskFeatures
from sam3.detector.matcher import Matches, Targets, match_one_to_many, match_one_to_one

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics" / "losses"
CASES = json.loads((GOLDEN / "detection_losses.json").read_text())["cases"]
MASKS = json.loads((GOLDEN / "mask_losses.json").read_text())


def layer_of(case: dict) -> LayerOutput:
    return LayerOutput(
        torch.tensor(case["pred_logits"]),
        torch.tensor(case["pred_boxes_cxcywh"]),
        torch.tensor(case["presence_logits"]),
    )


def targets_of(case: dict, **changes: object) -> Targets:
    counts = torch.tensor(case["num_targets"])
    return Targets(
        pair=torch.arange(len(counts)).repeat_interleave(counts),
        boxes_cxcywh=torch.tensor(case["target_boxes_cxcywh"]).reshape(-1, 4),
        num_pairs=len(counts),
        **changes,  # type: ignore[arg-type]
    )


def golden_matches(case: dict, kind: str) -> Matches:
    golden = case[kind]
    target = golden["target"] if golden["target"] is not None else list(range(len(golden["query"])))
    return Matches(*(torch.tensor(v, dtype=torch.long) for v in (golden["batch"], golden["query"], target)))


def as_set(matches: Matches) -> set[tuple[int, int, int]]:
    return set(zip(matches.pair.tolist(), matches.query.tolist(), matches.target.tolist(), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"seed{c['seed']}")
def test_matching_equals_golden(case: dict) -> None:
    layer, targets = layer_of(case), targets_of(case)
    one = match_one_to_one(layer.pred_logits, layer.pred_boxes_cxcywh, targets)
    many = match_one_to_many(layer.pred_logits, layer.pred_boxes_cxcywh, targets)
    assert as_set(one) == as_set(golden_matches(case, "hungarian"))
    assert as_set(many) == as_set(golden_matches(case, "one_to_many"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"seed{c['seed']}")
def test_detection_losses_equal_golden(case: dict) -> None:
    layer, targets, expected = layer_of(case), targets_of(case), case["expected"]
    hungarian = golden_matches(case, "hungarian")
    many = golden_matches(case, "one_to_many")
    assert ("boxes_o2m" in expected) == bool(len(many.pair))
    for matches, name in ((hungarian, "boxes_o2o"), *([(many, "boxes_o2m")] if len(many.pair) else [])):
        box, giou = box_losses(layer, targets, matches, case["num_boxes_normaliser"])
        assert box.item() == pytest.approx(expected[name]["loss_bbox"], abs=1e-4)
        assert giou.item() == pytest.approx(expected[name]["loss_giou"], abs=1e-4)
    for name, weight in (("roboflow", 10.0), ("odinw", 5.0)):
        golden = expected[f"classification_{name}"]
        loss = classification_loss(layer, targets, hungarian, weight)
        presence = presence_loss(layer.presence_logits, targets)
        assert loss.item() == pytest.approx(golden["loss_ce"], abs=1e-4)
        assert presence.item() == pytest.approx(golden["presence_loss"], abs=1e-4)
        assert 20 * loss.item() + 20 * presence.item() == pytest.approx(golden["core_loss"], abs=1e-3)
    weak = targets_of(case, is_exhaustive=torch.ones(len(case["num_targets"]), dtype=torch.bool))
    loss = classification_loss(layer, weak, hungarian, 5.0, with_presence=False)
    assert loss.item() == pytest.approx(expected["classification_no_presence_weak"]["loss_ce"], abs=1e-4)


def output_of(mask_logits: torch.Tensor, semantic_logits: torch.Tensor) -> DetectorOutput:
    """An output whose mask of query q is `mask_logits[:, q]`: one pixel channel per query, unit mask vectors."""
    num_pairs, num_queries = mask_logits.shape[:2]
    layer = LayerOutput(
        torch.zeros(num_pairs, num_queries),
        torch.full((num_pairs, num_queries, 4), 0.5),
        torch.zeros(num_pairs),
        torch.eye(num_queries).expand(num_pairs, -1, -1),
    )
    return DetectorOutput(
        (layer,),
        torch.zeros(num_pairs, dtype=torch.long),
        MaskFeatures(mask_logits, semantic_logits),
        torch.arange(num_pairs),
        torch.zeros(num_pairs, 1, 1),
    )


@pytest.mark.parametrize("pixels_at_once", [2**23, 1])
def test_mask_losses_equal_golden(pixels_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam3.detector.criterion.PIXELS_AT_ONCE", pixels_at_once)
    case = MASKS["instance"]
    output = output_of(torch.tensor(case["pred_masks"]), torch.zeros(1, 1, 9, 9))
    count = len(case["matched_queries"])
    targets = Targets(
        torch.zeros(count, dtype=torch.long),
        torch.full((count, 4), 0.5),
        1,
        masks=torch.tensor(case["target_masks"]).bool(),
        has_mask=torch.tensor(case["valid"]).bool(),
    )
    matches = Matches(targets.pair, torch.tensor(case["matched_queries"]), torch.arange(count))
    focal, dice = mask_losses(output, output.layers[-1], targets, matches, case["num_boxes"])
    assert focal.item() == pytest.approx(case["expected"]["loss_mask"], abs=1e-4)
    assert dice.item() == pytest.approx(case["expected"]["loss_dice"], abs=1e-4)


def test_many_masks_give_the_same_gradients_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    vectors, pixels = torch.randn(1, 40, 8, requires_grad=True), torch.randn(1, 8, 24, 24, requires_grad=True)
    numbers = torch.arange(40)
    truth = torch.rand(40, 48, 48) > 0.6
    targets = Targets(torch.zeros(40, dtype=torch.long), torch.full((40, 4), 0.5), 1, masks=truth)
    layer = LayerOutput(torch.zeros(1, 40), torch.zeros(1, 40, 4), torch.zeros(1), vectors)
    features = MaskFeatures(pixels, torch.zeros(1, 1, 24, 24))
    output = DetectorOutput((layer,), torch.zeros(1, dtype=torch.long), features, numbers[:1], torch.zeros(1, 1, 1))

    def gradients(num_masks: int) -> tuple[list[torch.Tensor], int]:
        monkeypatch.setattr("sam3.detector.criterion.PIXELS_AT_ONCE", num_masks * 48 * 48)
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            focal, dice = mask_losses(output, layer, targets, Matches(targets.pair, numbers, numbers), 7)
        return list(torch.autograd.grad(20 * focal + dice, (vectors, pixels))), sum(kept.values())

    (whole, all_bytes), (parts, some_bytes) = gradients(40), gradients(6)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert some_bytes < all_bytes / 4


def test_semantic_losses_equal_golden() -> None:
    case = MASKS["semantic"]
    logits = torch.tensor(case["logits"])
    counts = torch.tensor(case["instances_per_query"])
    targets = Targets(
        torch.arange(3).repeat_interleave(counts),
        torch.full((5, 4), 0.5),
        3,
        masks=torch.tensor(case["instance_masks"]).bool(),
    )
    focal, dice = semantic_losses(output_of(torch.zeros(3, 1, 9, 9), logits), targets)
    assert focal.item() == pytest.approx(case["expected"]["loss_semantic_seg"], abs=1e-4)
    assert dice.item() == pytest.approx(case["expected"]["loss_semantic_dice"], abs=1e-4)


def test_dice_of_a_perfect_mask_is_zero() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[0, :2] = 1
    assert dice_loss((truth * 2 - 1) * 100, truth).item() == pytest.approx(0.0, abs=1e-6)


def test_a_query_that_serves_two_objects_has_one_aim_and_one_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
    box = torch.tensor([0.5, 0.5, 0.4, 0.4])
    layer = LayerOutput(logits, box.expand(1, 2, 4), torch.zeros(1))
    targets = Targets(torch.tensor([0, 0]), box.expand(2, 4), 1)
    both = Matches(torch.tensor([0, 0]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    one = Matches(*(indices[:1] for indices in (both.pair, both.query, both.target)))
    losses = [classification_loss(layer, targets, matches, 10.0) for matches in (both, one)]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    assert losses[0].item() == pytest.approx(losses[1].item())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_pairs_with_an_object_without_mask_do_not_teach_the_semantic_map() -> None:
    logits = torch.randn(3, 1, 9, 9)
    masks = torch.zeros(3, 9, 9, dtype=torch.bool)
    masks[:2, 2:5, 2:5] = True
    pair, boxes = torch.tensor([0, 1, 1]), torch.full((3, 4), 0.5)
    partly = Targets(pair, boxes, 3, masks=masks, has_mask=torch.tensor([True, True, False]))
    alone = Targets(pair[:1], boxes[:1], 3, masks=masks[:1])
    received, expected = (semantic_losses(output_of(torch.zeros(3, 1, 9, 9), logits), t) for t in (partly, alone))
    for one, other in zip(received, expected, strict=True):
        torch.testing.assert_close(one, other)
    nothing = Targets(pair, boxes, 3, masks=masks, has_mask=torch.zeros(3, dtype=torch.bool))
    assert [loss.item() for loss in semantic_losses(output_of(torch.zeros(3, 1, 9, 9), logits), nothing)] == [0.0, 0.0]
