"""Replay: nothing is asked of a model that has not changed, what has changed is drawn back, and forgetting is less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from workbench.adapters import Plan, add_adapter
from workbench.batches import ViewPool
from workbench.finetune import FinetuneConfig, finetune
from workbench.guard import replay_set
from workbench.replay import Again, Replay, divergence

DECODER = Plan("decoder", rank=2)
CONFIG = FinetuneConfig(steps=2, images=2, phrases=2, views=2)


@pytest.fixture
def adapter():
    return add_adapter(load_sam3("tiny"), DECODER, ("disc", "bar"))


@pytest.fixture
def known(adapter, drawn):
    replay = Replay(
        ViewPool(adapter.model, drawn.examples, CONFIG, is_frozen=True, replay=replay_set(2, DECODER).examples)
    )
    replay.remember(adapter.model, adapter)
    return replay


def all_of(replay: Replay) -> list[Again]:
    return replay.choose(len(replay.keys), 100, np.random.default_rng(0))


def loss_of(replay: Replay, adapter) -> torch.Tensor:
    again = all_of(replay)
    return replay.loss(adapter.model.eval(), again, sum(len(scene.phrases) for scene in again))


def test_divergence_is_that_of_coins():
    probability, now = torch.tensor([0.2, 0.5, 0.999]), torch.tensor([0.7, 0.5, 0.999])
    expected = probability * (probability / now).log() + (1 - probability) * ((1 - probability) / (1 - now)).log()
    torch.testing.assert_close(divergence(now.logit(), probability), expected, atol=1e-6, rtol=1e-4)
    assert divergence(torch.tensor([-50.0, 50.0]), torch.tensor([0.0, 1.0])).abs().max() < 1e-6


def test_every_phrase_is_remembered_and_no_change_costs_nothing(known, adapter):
    assert [key[0] for key in known.keys] == [known.pool.num_learn, known.pool.num_learn + 1]
    assert len(known.answers) == 16 and any(len(answer.query) for answer in known.answers.values())
    assert all(answer.masks.dtype == torch.float16 for answer in known.answers.values())
    assert loss_of(known, adapter) < 1e-3


def test_what_has_changed_is_drawn_back(known, adapter):
    parameters = list(adapter.parameters.values())
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in parameters:
            parameter += 0.05 * torch.randn_like(parameter)
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = loss_of(known, adapter)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1 and losses[-1] < 0.7 * losses[0]


def test_a_step_asks_some_scenes_and_some_phrases(known):
    again = known.choose(1, 3, np.random.default_rng(5))
    assert len(again) == 1 and len(set(again[0].phrases)) == 3
    assert known.choose(1, 3, np.random.default_rng(5)) == again
    assert known.choose(0, 3, np.random.default_rng(5)) == []


def test_a_run_with_replay_forgets_less(drawn, tmp_path):
    """Far fewer steps and a far higher rate than anybody would take."""
    config = FinetuneConfig(steps=12, images=2, phrases=2, views=2, rate=0.01, seed=1)
    scenes, forgotten = replay_set(3, DECODER), {}
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        adapter = add_adapter(load_sam3("tiny"), DECODER, ("disc", "bar"))
        lines: list[dict] = []
        chosen = replace(config, replay_weight=weight)
        out = tmp_path / f"{weight}"
        finetune(adapter.model, adapter, drawn, out, chosen, replay=scenes, progress=False, on_step=lines.append)
        assert ("replay" in lines[-1]) == (weight > 0)
        pool = ViewPool(adapter.model, drawn.examples, chosen, is_frozen=True, replay=scenes.examples)
        before = Replay(pool)
        before.remember(adapter.model, adapter)
        forgotten[weight] = float(loss_of(before, adapter).detach())
    assert forgotten[2.0] < 0.6 * forgotten[0.0]


def test_scenes_in_parts_give_the_same_step_and_belong_to_the_settings(drawn, tmp_path):
    results = []
    for at_once in (None, 1):
        torch.manual_seed(0)
        adapter = add_adapter(load_sam3("tiny"), DECODER, ("disc", "bar"))
        lines: list[dict] = []
        config = FinetuneConfig(steps=2, images=2, phrases=2, views=2, images_at_once=at_once)
        out, scenes = tmp_path / f"{at_once}", replay_set(2, DECODER)
        finetune(adapter.model, adapter, drawn, out, config, replay=scenes, progress=False, on_step=lines.append)
        results.append(lines)
    for whole, parts in zip(*results, strict=True):
        assert parts["replay"] == pytest.approx(whole["replay"], rel=0.02, abs=1e-4)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=0.01)
    with pytest.raises(ValueError, match="other settings, pictures or weights"):
        finetune(adapter.model, adapter, drawn, out, config, progress=False)
