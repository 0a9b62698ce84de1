"""The whole model on small random weights: what is computed once, what may not change an answer, where gradients go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from sam3.boxes import xyxy_to_cxcywh
from sam3.detector.criterion import LossWeights, criterion
from sam3.detector.detector import DetectorOutput, LayerOutput, pad_prompts
from sam3.detector.exemplar_encoder import Exemplars
from sam3.detector.matcher import Targets
from sam3.model import Sam3
from sam3.prompts import Prompt

SIDE = 112
ONE_BOX = Prompt("cat", [[10, 20, 60, 90]])
MANY = Prompt(None, [[5, 5, 30, 40], [50, 10, 100, 60], [20, 70, 90, 110]], [1, 0, 1], [[8, 9], [90, 30]], [1, 0])
POINT = Prompt("a dog", exemplar_points_xy_px=[[33, 44]])
WORDS = Prompt("a small red striped circle")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    torch.manual_seed(11)
    return torch.rand(2, 3, SIDE, SIDE) * 2 - 1


@pytest.fixture(scope="module")
def learner(working_model: Callable[..., Sam3]) -> Sam3:
    """In training mode, without anything random."""
    return working_model(image={"drop_path": 0.0}, detector={"dropout": 0.0}).train()


@torch.no_grad()
def run(model: Sam3, pixel_values: Tensor, prompts: list[list[Prompt]]) -> dict[str, Tensor]:
    output = model.detect(pixel_values, prompts)
    return {
        "logits": output.pred_logits,
        "boxes": output.pred_boxes_cxcywh,
        "presence": output.presence_logits,
        "masks": output.pred_masks,
        "semantic": output.semantic_logits,
    }


def assert_same(received: dict[str, Tensor], expected: dict[str, Tensor], rows: list[int]) -> None:
    """`received` equals the given rows of `expected`, up to rounding of sums in another order."""
    for name, value in received.items():
        torch.testing.assert_close(value, expected[name][rows], atol=2e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_layers(received: tuple[LayerOutput, ...], expected: tuple[LayerOutput, ...]) -> None:
    assert len(received) == len(expected)
    for one, other in zip(received, expected, strict=True):
        for field in fields(LayerOutput):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


class Calls:
    """Leading sizes of the first input of every call of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.sizes: list[int] = []
        self.handle = module.register_forward_pre_hook(lambda _, inputs: self.sizes.append(len(inputs[0])))


def test_one_output_per_pair(ready: Sam3, pixels: Tensor) -> None:
    with torch.no_grad():
        output = ready.detect(pixels, [[WORDS, ONE_BOX, MANY], [POINT]])
    assert output.image_index.tolist() == [0, 0, 0, 1]
    assert output.pred_logits.shape == output.scores.shape == (4, 9)
    assert output.pred_boxes_cxcywh.shape == (4, 9, 4) and output.presence_logits.shape == (4,)
    assert output.pred_masks.shape == (4, 9, 32, 32) and output.semantic_logits.shape == (4, 1, 32, 32)
    assert output.fused_tokens.shape == (4, 64, 32) and output.mask_pairs.tolist() == [0, 1, 2, 3]
    assert len(output.layers) == 1 and output.one_to_many == output.probes == ()
    assert ((output.pred_boxes_cxcywh > 0) & (output.pred_boxes_cxcywh < 1)).all()
    expected = output.pred_logits.sigmoid() * output.presence_logits.sigmoid()[:, None]
    torch.testing.assert_close(output.scores, expected)
    assert torch.unique(output.presence_logits).numel() == 4, "every prompt matters"


def test_each_picture_and_each_distinct_phrase_is_encoded_once(ready: Sam3, pixels: Tensor) -> None:
    calls = [Calls(m) for m in (ready.image_encoder, ready.detector.text_encoder, ready.detector.decoder)]
    try:
        run(ready, pixels, [[WORDS, ONE_BOX, Prompt("cat")], [Prompt("cat"), MANY, WORDS, POINT]])
    finally:
        for call in calls:
            call.handle.remove()
    assert [call.sizes for call in calls] == [[2], [4], [7]]  # pictures; cat, circle, dog, "visual"; pairs


def test_features_and_text_at_hand_are_used(ready: Sam3, pixels: Tensor) -> None:
    prompts = [[WORDS, ONE_BOX], [MANY]]
    expected = run(ready, pixels, prompts)
    with torch.no_grad():
        features, text = ready.image_encoder(pixels), ready.encode_text([p.text for row in prompts for p in row])
        calls = [Calls(ready.image_encoder), Calls(ready.detector.text_encoder)]
        output = ready.detect(features, prompts, text=text)
    assert [call.sizes for call in calls] == [[], []]
    for call in calls:
        call.handle.remove()
    assert torch.equal(output.pred_logits, expected["logits"]) and torch.equal(output.pred_masks, expected["masks"])


def test_several_pictures_and_prompts_equal_single_runs(ready: Sam3, pixels: Tensor) -> None:
    """Also says that filling up exemplars to the longest prompt changes nothing."""
    together = run(ready, pixels, [[WORDS, ONE_BOX, MANY], [MANY, POINT]])
    singles = [(0, WORDS), (0, ONE_BOX), (0, MANY), (1, MANY), (1, POINT)]
    for row, (picture, prompt) in enumerate(singles):
        assert_same(run(ready, pixels[picture : picture + 1], [[prompt]]), together, [row])


def test_a_picture_that_is_asked_nothing(ready: Sam3, pixels: Tensor) -> None:
    assert_same(run(ready, pixels, [[], [ONE_BOX, WORDS]]), run(ready, pixels[1:], [[ONE_BOX, WORDS]]), [0, 1])


def test_what_stands_in_the_padding_changes_nothing(ready: Sam3, pixels: Tensor) -> None:
    exemplars = ready.exemplars([WORDS, MANY], SIDE)
    assert exemplars.box_is_valid.sum(1).tolist() == [0, 3] and exemplars.point_is_valid.sum(1).tolist() == [0, 2]
    other = copy.deepcopy(exemplars)
    other.boxes_cxcywh[0], other.points_xy[0] = torch.tensor([0.5, 0.4, 0.3, 0.2]), 0.7
    other.box_labels[0], other.point_labels[0] = 1, 1
    with torch.no_grad():
        features, text = ready.image_encoder(pixels[:1]), ready.encode_text([WORDS.text, MANY.text])
        image_index = torch.tensor([0, 0])
        one, two = (ready.detector(features, image_index, text, e) for e in (exemplars, other))
    torch.testing.assert_close(one.pred_logits, two.pred_logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(one.pred_boxes_cxcywh, two.pred_boxes_cxcywh, atol=2e-5, rtol=1e-5)


def test_exemplars_are_normalised_and_padded(ready: Sam3) -> None:
    exemplars = ready.exemplars([WORDS, ONE_BOX, MANY], SIDE)
    assert exemplars.boxes_cxcywh.shape == (3, 3, 4) and exemplars.points_xy.shape == (3, 2, 2)
    torch.testing.assert_close(exemplars.boxes_cxcywh[1, 0], torch.tensor([35, 55, 50, 70]) / SIDE)
    torch.testing.assert_close(exemplars.points_xy[2, 1], torch.tensor([90, 30]) / SIDE)
    assert exemplars.box_labels.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert exemplars.box_is_valid.tolist() == [[False] * 3, [True, False, False], [True] * 3]
    none, alike = Exemplars.none(2), ready.exemplars([WORDS, WORDS], SIDE)
    for field in fields(Exemplars):
        assert getattr(none, field.name).shape == getattr(alike, field.name).shape
        assert getattr(none, field.name).dtype == getattr(alike, field.name).dtype


def test_the_order_of_exemplars_does_not_matter_but_their_labels_do(ready: Sam3, pixels: Tensor) -> None:
    boxes, labels = [[5, 5, 30, 40], [50, 10, 100, 60]], [1, 0]
    answers = run(
        ready, pixels[:1], [[Prompt("a", boxes, labels), Prompt("a", boxes[::-1], labels[::-1]), Prompt("a", boxes)]]
    )
    assert_same({name: value[:1] for name, value in answers.items()}, answers, [1])
    assert (answers["logits"][0] - answers["logits"][2]).abs().max() > 1e-3


def test_padding_of_prompts() -> None:
    padded, is_valid = pad_prompts([torch.ones(2, 3), torch.zeros(0, 3), torch.full((1, 3), 2.0)])
    assert padded[..., 0].tolist() == [[1, 1], [0, 0], [2, 0]]
    assert is_valid.tolist() == [[True, True], [False, False], [True, False]]
    labels, _ = pad_prompts([torch.tensor([5]), torch.tensor([6, 7])])
    assert labels.tolist() == [[5, 0], [6, 7]]


def test_masks_of_equals_pred_masks(ready: Sam3, pixels: Tensor) -> None:
    with torch.no_grad():
        output = ready.detect(pixels, [[WORDS, ONE_BOX], [MANY]])
    pair, query = torch.tensor([2, 0, 1, 0, 2]), torch.tensor([8, 0, 3, 7, 1])
    torch.testing.assert_close(output.masks_of(pair, query), output.pred_masks[pair, query])
    assert output.masks_of(pair[:0], query[:0]).shape == (0, 32, 32)


def test_masks_of_some_pairs(ready: Sam3, pixels: Tensor) -> None:
    prompts = [[WORDS, ONE_BOX], [MANY, POINT]]
    with torch.no_grad():
        full = ready.detect(pixels, prompts)
        some = ready.detect(pixels, prompts, mask_pairs=torch.tensor([1, 3]))
        none = ready.detect(pixels, prompts, with_masks=False)
    torch.testing.assert_close(some.pred_masks, full.pred_masks[[1, 3]], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(some.semantic_logits, full.semantic_logits[[1, 3]], atol=2e-5, rtol=1e-5)
    assert torch.equal(some.pred_logits, full.pred_logits) and torch.equal(none.pred_logits, full.pred_logits)
    pair, query = torch.tensor([3, 1, 3]), torch.tensor([0, 4, 8])
    torch.testing.assert_close(some.masks_of(pair, query), full.pred_masks[pair, query], atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="masks of pair 2 are wanted, but only 2 other pairs have some; name it"):
        some.masks_of(torch.tensor([1, 2]), torch.tensor([0, 0]))
    for wanted in (lambda: none.pred_masks, lambda: none.semantic_logits, lambda: none.masks_of(pair, query)):
        with pytest.raises(ValueError, match="only when the detector is called with with_masks=True"):
            wanted()


PROBES = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4]]]).expand(3, -1, -1)


def test_one_to_many_and_probes_leave_the_learned_queries_alone(learner: Sam3, pixels: Tensor) -> None:
    prompts = [[WORDS, ONE_BOX], [MANY]]

    def detect(**more: object) -> DetectorOutput:
        with torch.no_grad():
            return learner.detect(pixels, prompts, **more)  # type: ignore[arg-type]

    plain = detect()
    assert len(plain.layers) == 3 and plain.layers[0].mask_vectors is None and plain.layers[-1].mask_vectors is not None
    doubled, probed, both = (
        detect(one_to_many=True),
        detect(probe_boxes_cxcywh=PROBES),
        detect(one_to_many=True, probe_boxes_cxcywh=PROBES),
    )
    for output in (doubled, probed, both):
        assert_same_layers(output.layers, plain.layers)
        torch.testing.assert_close(output.pred_masks, plain.pred_masks, atol=2e-5, rtol=1e-5)
    assert doubled.probes == probed.one_to_many == plain.one_to_many == plain.probes == ()
    assert_same_layers(both.one_to_many, doubled.one_to_many)
    assert_same_layers(both.probes, probed.probes)
    assert [layer.pred_logits.shape for layer in both.one_to_many] == [(3, 9)] * 3
    assert [layer.pred_boxes_cxcywh.shape for layer in both.probes] == [(3, 2, 4)] * 3
    assert (doubled.one_to_many[0].pred_logits - plain.layers[0].pred_logits).abs().max() > 1e-3
    pair, query = torch.tensor([2, 0]), torch.tensor([1, 8])
    many = both.masks_of(pair, query, both.one_to_many[-1])
    vectors = both.one_to_many[-1].mask_vectors
    assert vectors is not None and both.mask_features is not None
    expected = torch.einsum("nc,nchw->nhw", vectors[pair, query], both.mask_features.pixels[pair])
    torch.testing.assert_close(many, expected)


def test_probes_do_not_see_each_other(learner: Sam3, pixels: Tensor) -> None:
    with torch.no_grad():
        both = learner.detect(pixels[:1], [[WORDS]], probe_boxes_cxcywh=PROBES[:1])
        alone = learner.detect(pixels[:1], [[WORDS]], probe_boxes_cxcywh=PROBES[:1, 1:])
    for one, other in zip(alone.probes, both.probes, strict=True):
        torch.testing.assert_close(one.pred_logits, other.pred_logits[:, 1:], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(one.pred_boxes_cxcywh, other.pred_boxes_cxcywh[:, 1:], atol=2e-5, rtol=1e-5)


def test_probes_and_queries_start_at_their_boxes(learner: Sam3, pixels: Tensor) -> None:
    """With a box head that says "stay", every layer gives back the boxes it started from."""
    model = copy.deepcopy(learner)
    last = model.detector.decoder.box_head.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        model.detector.decoder.anchors.weight.normal_()
        output = model.detect(pixels[:1], [[WORDS]], one_to_many=True, probe_boxes_cxcywh=PROBES[:1])
    anchors = model.detector.decoder.anchors.weight.sigmoid()[None]
    for group, expected in ((output.layers, anchors), (output.one_to_many, anchors), (output.probes, PROBES[:1])):
        for layer in group:
            torch.testing.assert_close(layer.pred_boxes_cxcywh, expected, atol=1e-5, rtol=0)


def test_box_losses_of_a_layer_reach_the_layer_before(learner: Sam3, pixels: Tensor) -> None:
    """Look forward twice: the last box depends on the last two layers' own steps, and on no earlier one."""
    model = copy.deepcopy(learner)
    boxes: list[Tensor] = []

    def keep(_: nn.Module, __: object, delta: Tensor) -> None:
        delta.retain_grad()
        boxes.append(delta)

    model.detector.decoder.box_head.register_forward_hook(keep)
    # Without this the queries themselves would carry gradients from layer to layer.
    for layer in model.detector.decoder.layers:
        layer.register_forward_hook(lambda _, __, x: x.detach())
    model.detect(pixels[:1], [[WORDS]]).layers[-1].pred_boxes_cxcywh.sum().backward()
    reached = [delta.grad is not None and bool(delta.grad.any()) for delta in boxes]
    assert reached == [False, True, True]


# Weights of the released files that no computation uses, and what a loss cannot move: a bias of the keys shifts all
# logits of a query alike, except where rotary codes turn it.
UNUSED = ("text_encoder.unused_projection", "image_encoder.pyramid.3.", "mask_head.convs.2.", "mask_head.norms.2.")


def test_gradients_reach_every_live_parameter(working_model: Callable[..., Sam3], pixels: Tensor) -> None:
    model = working_model().train()
    prompts = [[WORDS, ONE_BOX], [MANY, POINT]]
    boxes = xyxy_to_cxcywh(torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.3, 0.2, 0.9, 0.8], [0.5, 0.5, 0.7, 0.9]]))
    masks = torch.rand(3, 32, 32) > 0.5
    output = model.detect(pixels, prompts, one_to_many=True, probe_boxes_cxcywh=torch.rand(4, 2, 4) * 0.4 + 0.2)
    weights = LossWeights(semantic=20.0, semantic_dice=30.0)
    losses = criterion(output, Targets(torch.tensor([0, 0, 2]), boxes, 4, masks), weights)
    (losses.total + output.probes[-1].pred_logits.sum()).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    unused = {name for name, p in model.named_parameters() if any(part in name for part in UNUSED)}
    key_biases = {
        name for name, _ in model.named_parameters() if name.endswith(".k.bias") and "image_encoder" not in name
    }
    assert unused <= still and all(p.grad is None for n, p in model.named_parameters() if n in unused)
    assert still - unused <= key_biases
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_recomputed_layers_give_the_same_gradients_from_less_memory(
    working_model: Callable[..., Sam3], pixels: Tensor
) -> None:
    """With dropout: a layer that is computed again drops what it dropped the first time."""
    model = working_model(image={"drop_path": 0.3}, detector={"dropout": 0.2}).train()

    def gradients(is_on: bool) -> tuple[dict[str, Tensor], int]:
        model.recompute(is_on)
        model.zero_grad()
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = model.detect(pixels, [[WORDS, ONE_BOX], [MANY, POINT]])
            loss = output.pred_logits.sum() + output.pred_boxes_cxcywh.sum() + output.pred_masks.square().mean()
        kept_bytes = sum(kept.values())
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, kept_bytes

    (plain, all_bytes), (again, some_bytes) = gradients(False), gradients(True)
    assert plain.keys() == again.keys() and all(torch.equal(again[name], value) for name, value in plain.items())
    assert some_bytes < 0.6 * all_bytes


def test_training_after_inference(working_model: Callable[..., Sam3], pixels: Tensor) -> None:
    """Tables made under inference mode stay cached, and must serve a backward pass. No other test uses this size."""
    model = working_model().train()
    small = pixels[:1, :, :84, :84]
    with torch.inference_mode():
        model.detect(small, [[ONE_BOX]])
    model.detect(small, [[ONE_BOX]]).pred_logits.sum().backward()
    assert model.image_encoder.patch_embed.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(
    working_model: Callable[..., Sam3], ready: Sam3, pixels: Tensor, dtype: torch.dtype
) -> None:
    prompts = [[WORDS, MANY], [POINT]]
    expected = run(ready, pixels, prompts)
    model = working_model().to(dtype)
    with torch.no_grad():
        output = model.detect(pixels.to(dtype), prompts)
    assert output.pred_logits.dtype == dtype and output.pred_boxes_cxcywh.dtype == torch.float32
    spread = expected["boxes"].std()
    assert (output.pred_boxes_cxcywh - expected["boxes"]).abs().mean() < 0.1 * spread
    assert (output.scores - expected["logits"].sigmoid() * expected["presence"].sigmoid()[:, None]).abs().max() < 0.1


def test_anchors_are_not_rounded_in_half_precision(working_model: Callable[..., Sam3], pixels: Tensor) -> None:
    """Anchor logits that bfloat16 holds exactly give boxes with float32's precision."""
    model = working_model().bfloat16()
    last = model.detector.decoder.box_head.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        model.detector.decoder.anchors.weight.copy_(torch.linspace(-2, 2, 36).view(9, 4))
        boxes = model.detect(pixels[:1].bfloat16(), [[WORDS]]).pred_boxes_cxcywh
    expected = model.detector.decoder.anchors.weight.float().sigmoid()
    torch.testing.assert_close(boxes[0], expected, atol=1e-5, rtol=0)


def test_refusals(ready: Sam3, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="received 1 prompt lists with 1 prompts for 2 pictures; expected one"):
        ready.detect(pixels, [[WORDS]])
    with pytest.raises(ValueError, match="received 2 prompt lists with 0 prompts for 2 pictures"):
        ready.detect(pixels, [[], []])
    with pytest.raises(ValueError, match="the phrase 'very very .* tokens; at most 12 can be read: use a short noun"):
        ready.detect(pixels, [[Prompt("very " * 20 + "long")], []])


def test_a_phrase_is_read_up_to_the_limit(ready: Sam3) -> None:
    """Start, ten words and end fill the twelve places."""
    with torch.no_grad():
        assert ready.encode_text(["a " * 10]).is_valid.all()
        features = ready.encode_text(["cat", "a dog", "cat"])
    assert torch.equal(features.tokens[0], features.tokens[2]) and features.is_valid.sum(1).tolist() == [3, 4, 3]
    with pytest.raises(ValueError, match="has 13 tokens"):
        ready.encode_text(["a " * 11])
