"""Pre-training on a very narrow model: how it starts, that it learns, and that it goes on where it stopped."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sam3.boxes import xyxy_to_cxcywh
from sam3.config import DetectorConfig, ImageEncoderConfig, Sam3Config, TextEncoderConfig, TransformerConfig
from sam3.detector.criterion import LossWeights
from sam3.detector.matcher import Targets
from sam3.image_encoder import Block
from sam3.layers import rotary_table, rotate
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.domains import shapes
from workbench.pretrain import PretrainConfig
from workbench.pretrain import run as run_module
from workbench.pretrain.batches import SceneBatch, ScenePool, draw_scenes
from workbench.pretrain.initialise import new_model, whitening_filters
from workbench.pretrain.losses import (
    DenseHeads,
    dense_loss,
    full_loss,
    masked_parts,
    nearest_anchors,
    outline_stage_loss,
    own_mask_loss,
)
from workbench.pretrain.measure import calibrate
from workbench.pretrain.run import Run, make_optimiser, sample_patches

PART = TransformerConfig(1, 2, 24)
NARROW = Sam3Config(
    ImageEncoderConfig(
        image_size=224,
        width=32,
        num_layers=2,
        num_heads=4,
        mlp_width=48,
        window_size=8,
        global_layers=(1,),
        position_grid=16,
        drop_path=0.0,
        pyramid_scales=(4.0, 2.0, 1.0),
        has_tracker_pyramid=False,
    ),
    TextEncoderConfig(width=8, num_layers=1, num_heads=2, mlp_width=16, unused_projection_width=0),
    DetectorConfig(
        width=24,
        num_queries=12,
        exemplar_encoder=PART,
        fusion_encoder=PART,
        decoder=TransformerConfig(2, 4, 24),
        roi_size=3,
        mask_num_heads=2,
        mask_stages=2,
        dropout=0.0,
    ),
)
RECIPE = PretrainConfig(
    dense_steps=3,
    full_steps=4,
    outline_steps=2,
    images=2,
    phrases=2,
    scenes=8,
    warmup=2,
    checkpoint_every=2,
    exemplar_share=0.5,
)


@pytest.fixture(scope="module", autouse=True)
def patches_sampled_once() -> Iterator[None]:
    """Rendering the scenes that the first filters are made from takes longer than the rest of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "sample_patches", functools.cache(run_module.sample_patches))
        yield


@pytest.fixture(scope="module")
def fresh() -> Sam3:
    """A newly initialised narrow model, to be left as it is."""
    return new_model(NARROW, sample_patches(NARROW, 0, 800), 0)


@pytest.fixture
def batch() -> SceneBatch:
    pools = ScenePool(4, 0), ScenePool(4, 0, is_plain=True)
    return draw_scenes(pools, 0.5, np.random.default_rng(3), 2, torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------------------- start
def favoured(block: Block, head: int, grid: int, spacing: float) -> dict[tuple[int, int], tuple[int, int]]:
    """Where a head looks from every cell when the picture says nothing: its biases, turned by position, decide."""
    attention = block.attention
    table = rotary_table(grid, grid, block.head_dim, spacing, torch.device("cpu"))
    q, k = (layer.bias.view(attention.num_heads, -1)[head] for layer in (attention.q, attention.k))
    logits = rotate(q.expand(grid * grid, -1), *table) @ rotate(k.expand(grid * grid, -1), *table).T
    best = logits.argmax(1).tolist()
    return {(i % grid, i // grid): (b % grid, b // grid) for i, b in enumerate(best)}


@torch.no_grad()
def test_attention_heads_look_at_their_neighbours(fresh: Sam3) -> None:
    straight = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    diagonal = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
    for block, offsets, grid, spacing in zip(
        fresh.image_encoder.blocks, (straight, diagonal), (8, 16), (1.0, 0.5), strict=True
    ):
        assert isinstance(block, Block)
        for head, (dx, dy) in enumerate(offsets):
            looks = favoured(block, head, grid, spacing)
            inner = [(x, y) for x, y in looks if 0 <= x + dx < grid and 0 <= y + dy < grid]
            assert all(looks[x, y] == (x + dx, y + dy) for x, y in inner)


def test_anchors_cover_the_picture_evenly(fresh: Sam3) -> None:
    anchors = fresh.detector.decoder.anchors.weight.detach().sigmoid()
    torch.testing.assert_close(anchors[:, 2:], torch.full((12, 2), 0.2))
    columns, rows = (anchors[:, axis].mul(1e4).round().unique() / 1e4 for axis in (0, 1))
    assert columns.tolist() == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=1e-3)
    assert rows.tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6], abs=1e-3)
    assert len({tuple(a) for a in anchors[:, :2].tolist()}) == 12


@torch.no_grad()
def test_queries_start_by_looking_inside_their_boxes(fresh: Sam3) -> None:
    decoder = copy.deepcopy(fresh.detector.decoder)
    for mlp in (decoder.bias_x, decoder.bias_y):  # what is left at random is small; without it the rule is exact
        first, last = mlp.layers
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        last.weight[:, 2:] = 0
    box = torch.tensor([[[0.5, 0.4, 0.25, 0.5]]])
    bias = decoder.box_bias(box, (16, 16))[0, :, 0].view(4, 16, 16)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[3:11, 6:11] = True  # cells whose corner lies in the box
    for head in bias[:3]:
        assert head[inside].min() > head[~inside].max()
    assert not bias[3].any(), "one head may look anywhere"


@torch.no_grad()
def test_first_filters_whiten_pictures(fresh: Sam3) -> None:
    patches = sample_patches(NARROW, 1, 2000)
    values = torch.from_numpy(patches.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    responses = nn.functional.conv2d(values, whitening_filters(patches, 32)).flatten(1)
    covariance = torch.cov(responses.T)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    assert off_diagonal.abs().max() < 1e-2
    assert (covariance.diagonal() <= 1.01).all() and (covariance.diagonal()[:8] > 0.9).all()
    with pytest.raises(ValueError, match="a patch has 588 values, too few for 600 filters; use a smaller width"):
        whitening_filters(patches, 600)


def test_the_start_follows_from_the_seed(fresh: Sam3) -> None:
    patches = sample_patches(NARROW, 0, 800)
    assert patches.shape == (800, 14, 14, 3) and patches.dtype == np.uint8
    again, other = new_model(NARROW, patches, 0), new_model(NARROW, patches, 1)
    assert again.state_dict().keys() == Sam3(NARROW).state_dict().keys()
    for (name, a), b in zip(fresh.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(other.detector.decoder.query_embed.weight, fresh.detector.decoder.query_embed.weight)


# ------------------------------------------------------------------------------------------------------------- learning
def losses_on_one_batch(
    model: Sam3, heads: nn.Module, loss_of: Callable[[np.random.Generator], torch.Tensor]
) -> list[float]:
    """The loss over two dozen steps, with the same questions in each."""
    optimiser = make_optimiser(model, heads, 3e-3, 0.0)
    values = []
    for _ in range(24):
        loss = loss_of(np.random.default_rng(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    return values


def test_stage_one_learns_a_fixed_batch(fresh: Sam3, batch: SceneBatch) -> None:
    model, heads = copy.deepcopy(fresh).train(), DenseHeads(NARROW)
    values = losses_on_one_batch(model, heads, lambda rng: dense_loss(model, heads, batch, rng, use_fine=True)[0])
    assert all(map(math.isfinite, values)) and np.mean(values[-3:]) < 0.6 * np.mean(values[:3])


def test_stage_two_learns_a_fixed_batch(fresh: Sam3, batch: SceneBatch) -> None:
    model, heads = copy.deepcopy(fresh).train(), DenseHeads(NARROW)
    settings: dict[str, Any] = {"phrases": 2, "exemplar_share": 0.5, "weights": LossWeights(mask=100.0)}

    def loss_of(rng: np.random.Generator, *, with_masks: bool = True) -> torch.Tensor:
        return full_loss(model, heads, batch, rng, **settings, with_masks=with_masks, by_anchor=True)[0]

    for with_masks in (False, True):
        model.zero_grad()
        loss_of(np.random.default_rng(0), with_masks=with_masks).backward()
        masks, rest = model.detector.mask_head.instance_conv.weight, model.detector.decoder.query_embed.weight
        assert rest.grad is not None and (masks.grad is not None) == with_masks
    values = losses_on_one_batch(model, heads, loss_of)
    assert all(map(math.isfinite, values)) and np.mean(values[-3:]) < 0.75 * np.mean(values[:3])


def test_stage_three_learns_a_fixed_batch_and_changes_nothing_but_masks(fresh: Sam3, batch: SceneBatch) -> None:
    model = copy.deepcopy(fresh).eval().requires_grad_(False)
    for part in masked_parts(model):
        part.requires_grad_(True)
    # Queries of random weights look nowhere; every object is given one that looks at it.
    truth = [torch.from_numpy(boxes) / batch.instance_map.shape[-1] for boxes in batch.boxes_xyxy_px]
    with torch.no_grad():
        model.detector.decoder.anchors.weight.zero_()
        model.detector.decoder.anchors.weight[: len(truth[0])] = xyxy_to_cxcywh(truth[0]).clamp(0.01, 0.99).logit()

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        return outline_stage_loss(model, batch, rng, phrases=2, exemplar_share=0.5)[0]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    values = losses_on_one_batch(model, torch.nn.Identity(), loss_of)
    assert all(map(math.isfinite, values)) and np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    allowed = ("detector.mask_head.", "image_encoder.pyramid.0.", "image_encoder.pyramid.1.")
    assert changed and all(name.startswith(allowed) for name in changed)


def test_queries_answer_for_the_objects_nearest_to_their_anchors(fresh: Sam3) -> None:
    anchors = fresh.detector.decoder.anchors.weight.detach().sigmoid()
    boxes = anchors[[3, 0, 2]] + torch.tensor([0.01, -0.01, 0.1, 0.1])
    matches = nearest_anchors(fresh, Targets(pair=torch.tensor([0, 0, 2]), boxes_cxcywh=boxes, num_pairs=3))
    assert (matches.pair.tolist(), matches.query.tolist(), matches.target.tolist()) == ([0, 0, 2], [3, 0, 2], [0, 1, 2])
    twins = nearest_anchors(fresh, Targets(torch.zeros(2, dtype=torch.long), anchors[[1, 1]], 1))
    assert len(set(twins.query.tolist())) == 2 and 1 in twins.query.tolist()


def test_the_mask_around_each_cell_is_asked_where_it_belongs() -> None:
    labels = torch.zeros(1, 224, 224, dtype=torch.long)
    labels[0, 84:112, 98:140] = 1  # cells of 14 pixels: rows 6 and 7, columns 7 to 9; samples every 7 pixels
    truth = torch.full((1, 16, 16, 16, 16), -20.0)
    for row in (6, 7):
        for column in (7, 8, 9):
            top, left = 12 - (2 * row - 7), 14 - (2 * column - 7)
            truth[0, row, column, top : top + 4, left : left + 6] = 20.0
    prediction = truth.flatten(3).permute(0, 3, 1, 2)
    assert own_mask_loss(prediction, labels) < 1e-6
    assert own_mask_loss(prediction.roll(1, dims=3), labels) > 1


def test_a_batch_in_which_nothing_is_to_be_found_has_a_loss(fresh: Sam3, batch: SceneBatch) -> None:
    model, heads = copy.deepcopy(fresh).train(), DenseHeads(NARROW)
    settings: dict[str, Any] = {"phrases": 1, "exemplar_share": 0.0, "weights": LossWeights(), "with_masks": False}
    loss, values = full_loss(model, heads, batch, np.random.default_rng(0), **settings)
    loss.backward()
    assert math.isfinite(loss.item()) and values["giou"] == 0 and values["presence"] > 0


def test_a_run_with_other_settings_is_refused(whole: Run) -> None:
    with pytest.raises(ValueError, match="holds a pre-training with other settings"):
        Run(whole.out, replace(RECIPE, full_rate=1e-5), NARROW, torch.device("cpu")).train()


def test_every_weight_is_trained_and_vectors_do_not_decay(fresh: Sam3) -> None:
    heads = DenseHeads(NARROW)
    matrices, vectors = make_optimiser(fresh, heads, 1e-3, 0.05).param_groups
    everything = {id(p) for module in (fresh, heads) for p in module.parameters()}
    assert {id(p) for p in matrices["params"]} | {id(p) for p in vectors["params"]} == everything
    assert len(matrices["params"]) + len(vectors["params"]) == len(everything)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    without = {id(p) for p in vectors["params"]}
    assert id(fresh.detector.decoder.anchors.weight) in without and id(fresh.image_encoder.norm.weight) in without
    assert id(fresh.image_encoder.position_embed) in without
    assert id(fresh.image_encoder.blocks[0].fc1.weight) not in without


# ------------------------------------------------------------------------------------------------------------- the run
def train(out: Path, *, stop_after: int | None = None) -> Run:
    """One process's run in a folder, broken off when it has done `stop_after` steps."""
    run = Run(out, RECIPE, NARROW, torch.device("cpu"))
    if stop_after is None:
        run.train()
        return run
    original, done = run._one_step, 0

    def step(optimiser: torch.optim.Optimizer) -> dict[str, float]:
        nonlocal done
        if done == stop_after:
            raise KeyboardInterrupt
        done += 1
        return original(optimiser)

    run._one_step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.train()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("whole"))


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole: Run, tmp_path: Path) -> None:
    """Broken off before the first state, at a state, after the change of stages and between states."""
    for stop_after in (1, 2, 2, 3, 1):
        train(tmp_path, stop_after=stop_after)
    parted = train(tmp_path)
    assert (parted.stage, parted.step) == (whole.stage, whole.step) == ("outline", 2)
    for kind in ("model", "average", "heads"):
        one, other = getattr(parted, kind).state_dict(), getattr(whole, kind).state_dict()
        assert [name for name in other if not torch.equal(one[name], other[name])] == []
    mean, value = (getattr(whole, kind).detector.mask_head.instance_conv.weight for kind in ("average", "model"))
    assert not torch.equal(mean, value)


def test_a_finished_run_is_not_repeated(whole: Run) -> None:
    before = (whole.out / "log.jsonl").read_text()
    again = train(whole.out)
    assert (whole.out / "log.jsonl").read_text() == before
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.average.state_dict().values(), whole.average.state_dict().values(), strict=True)
    )


def test_the_log_and_the_state_say_what_was_done(whole: Run) -> None:
    lines = [json.loads(line) for line in (whole.out / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("dense", 3), ("full", 4), ("outline", 2)]
    assert all(math.isfinite(line["loss"]) and line["gradient"] > 0 for line in lines)
    assert {"kind", "colour", "alignment"} <= lines[0].keys() and {"presence", "probe", "giou"} <= lines[1].keys()
    state = torch.load(whole.out / "state.pt", weights_only=True)
    assert json.loads(state["config"]) == json.loads(json.dumps(asdict(RECIPE)))
    assert (state["stage"], state["step"]) == ("outline", 2)


def test_validation_is_asked_of_the_average_and_logged(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECIPE, dense_steps=1, full_steps=3, outline_steps=1), NARROW, torch.device("cpu"))
    asked: list[bool] = []

    def validate(model: Sam3) -> dict[str, float]:
        asked.append(model is run.average and not model.training)
        return {"cgF1@0.5": 0.25}

    assert run.train(validate, validate_every=2) is run.average
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert asked == [True, True, True]
    steps = [(v["step"], v["cgF1@0.5"]) for v in lines if v["stage"] == "validation"]
    assert steps == [(2, 0.25), (3, 0.25), (1, 0.25)]


@torch.no_grad()
def test_calibration_is_folded_into_the_weights(fresh: Sam3) -> None:
    model = copy.deepcopy(fresh).eval()
    pixels, prompts = torch.rand(1, 3, 224, 224) * 2 - 1, [[Prompt("red circle"), Prompt("star")]]
    before = model.detect(pixels, prompts)
    shift, factor = calibrate(model, shapes.held_out_set(1, 5), progress=False)
    after = model.detect(pixels, prompts)
    torch.testing.assert_close(after.presence_logits, before.presence_logits + shift, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.pred_logits, (before.pred_logits * factor).clamp(-12, 12), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.pred_boxes_cxcywh, before.pred_boxes_cxcywh)
