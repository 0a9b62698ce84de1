"""Costs are told before the start, without touching the model; a run that cannot fit is refused with advice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from workbench.adapters import PLANS, Plan, add_adapter
from workbench.batches import ViewPool, ask, bytes_per_view
from workbench.costs import check, estimate
from workbench.finetune import FinetuneConfig
from workbench.guard import replay_set

CONFIG = FinetuneConfig(steps=5, images=3, phrases=2, views=4)
PHRASES = ("disc", "bar")

pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def model(small_weights):
    return load_sam3(small_weights)


def test_an_estimate_leaves_model_and_random_numbers_as_they_were(model, drawn):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    for name in PLANS:
        estimate(model, Plan(name, rank=2), drawn, CONFIG)
    assert torch.equal(torch.rand(3), expected)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None for p in model.parameters()) and not model.training


@pytest.mark.parametrize("name", PLANS)
def test_an_estimate_counts_what_is_trained_and_kept(small_weights, drawn, name):
    cost = estimate(load_sam3(small_weights), Plan(name, rank=2), drawn, CONFIG)
    assert cost.trainable == add_adapter(load_sam3(small_weights), Plan(name, rank=2), PHRASES).num_trainable
    views = 0 if name in ("lora", "full") else 24 * (1 - (1 - 3 / 24) ** 5)  # 3 of 6 * 4 views, five times
    assert cost.cache_bytes == int(views * bytes_per_view(load_sam3(small_weights)))
    assert cost.seconds_per_step > 0 and cost.seconds >= 5 * cost.seconds_per_step
    assert cost.fits and f"{name}: {cost.trainable:,} numbers" in str(cost)


@pytest.mark.parametrize("steps", [4, 12, 60])
def test_kept_features_are_those_the_steps_will_draw(model, drawn, steps):
    config = replace(CONFIG, steps=steps)
    told = estimate(model, Plan("decoder", rank=2), drawn, config).cache_bytes / bytes_per_view(model)
    pool = ViewPool(model, drawn.examples, config, is_frozen=True)
    keys = {key for step in range(steps) for key in ask(pool, config, np.random.default_rng([0, 1, step]), step)[0]}
    assert told == pytest.approx(len(keys), abs=3)


def test_more_pictures_at_once_need_more_memory(drawn):
    model = load_sam3("tiny")  # whose steps are large beside what the process holds anyway
    peaks = [
        estimate(model, Plan("lora", rank=2), drawn, replace(CONFIG, images=6, images_at_once=count)).peak_bytes
        for count in (1, 6)
    ]
    assert peaks[1] > peaks[0] + 20e6


def test_replayed_scenes_are_counted(model, drawn):
    config, plan = replace(CONFIG, steps=300), Plan("decoder", rank=2)
    scenes = replay_set(3, plan).examples
    alone, with_replay, unused = (
        estimate(model, plan, drawn, chosen, given)
        for chosen, given in ((config, ()), (config, scenes), (replace(config, replay_weight=0.0), scenes))
    )
    assert with_replay.cache_bytes - alone.cache_bytes == 3 * bytes_per_view(model)
    assert with_replay.seconds_per_step > 1.1 * alone.seconds_per_step
    assert unused.cache_bytes == alone.cache_bytes


def test_a_run_that_cannot_fit_is_refused_with_advice(model, drawn):
    cost = estimate(model, Plan("decoder", rank=2), drawn, CONFIG)
    check(cost, CONFIG)
    tight = replace(cost, peak_bytes=9_000_000_000, cache_bytes=8_000_000_000, free_bytes=4_000_000_000)
    with pytest.raises(ValueError, match="needs about 9.0 GB of memory and 4.0 GB are there") as caught:
        check(tight, CONFIG)
    for advice in ("train.cache_gb=1", "train.images_at_once=1", "train.recompute=true", "plan.name=tokens"):
        assert advice in str(caught.value)


def test_pictures_without_objects_have_no_cost(model, drawn):
    empty = replace(drawn, examples=tuple(replace(e, concepts=()) for e in drawn))
    with pytest.raises(ValueError, match="shows no object at all"):
        estimate(model, Plan("decoder"), empty, CONFIG)
