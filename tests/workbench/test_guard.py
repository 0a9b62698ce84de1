"""The forgetting guard: what was lost is measured and said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from workbench.adapters import Plan, add_adapter
from workbench.guard import GuardConfig, Retention, measure_retention, replay_set, retention_set


@pytest.fixture
def model():
    return load_sam3("tiny")


def test_an_adapter_that_changes_nothing_loses_nothing(model):
    adapter = add_adapter(model, Plan("decoder", rank=2), ("disc",))
    found = measure_retention(
        adapter, retention_set(2), GuardConfig(max_cgf1_loss=0, max_refusal_loss=0), progress=False
    )
    assert found.cgf1_before == found.cgf1_after and found.refusal_before == found.refusal_after
    assert found.pairs == 16 and found.complaints == () and found.to_dict()["complaints"] == []


def test_a_model_that_says_yes_to_everything_is_complained_about(model):
    adapter = add_adapter(model, Plan("presence", rank=2), ("disc",))
    last = model.detector.decoder.presence_head.layers[-1]
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.fill_(3.0)
        bias = last.get_base_layer().bias
        kept, bias[:] = bias.clone(), 50.0
    data, config = retention_set(2), GuardConfig()
    found = measure_retention(adapter, data, config, progress=False)
    with torch.no_grad():
        bias.copy_(kept)
    assert found.refusal_after <= found.refusal_before


def test_limits_are_compared_with_the_loss():
    kept = Retention("scenes", 8, 0.5, 0.46, 0.9, 0.86, 0.05, 0.05)
    lost = Retention("scenes", 8, 0.5, 0.44, 0.9, 0.1, 0.05, 0.05)
    better = Retention("scenes", 8, 0.4, 0.9, 0.5, 1.0, 0.0, 0.0)
    assert kept.complaints == better.complaints == ()
    assert [text.split(" on ")[0] for text in lost.complaints] == ["cgF1", "refusal"]
    assert "refusal on scenes fell from 0.900 to 0.100, more than the 0.050 allowed" in lost.complaints


def test_retention_and_replay_scenes_are_seeded_and_different():
    one, again, replayed = retention_set(3), retention_set(3), replay_set(3, Plan("decoder"))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, again, strict=True))
    assert {c.status for e in one for c in e.concepts} == {"positive", "absent"}
    assert len(replay_set(3, Plan("tokens"))) == 0
    assert not any(np.array_equal(a.image, b.image) for a in one for b in replayed)


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="scenes=-1; expected a number of scenes"):
        GuardConfig(scenes=-1)
    with pytest.raises(ValueError, match="max_refusal_loss=5; expected a fraction"):
        GuardConfig(max_refusal_loss=5)
