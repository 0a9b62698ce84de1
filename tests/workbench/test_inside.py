"""Attention weights are those the layers use: mixed by them, the values give what the layer gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sam3.checkpoint import load_sam3
from sam3.layers import Attention, rotary_table
from sam3.prompts import Prompt
from sam3.tracker.memory_bank import MemoryBank
from sam3.tracker.prompt_encoder import Hints
from workbench.inside import attention_layers, attention_weights, watch_attention


def mixed(layer: Attention, weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    values = layer.v(value).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    return layer.out((weights @ values).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kind", ["plain", "bool mask", "bias", "causal", "rotary", "other rotary for keys"])
def test_weights_mix_the_values_into_what_the_layer_gives(kind: str) -> None:
    layer, query, key, value = Attention(16, 2), torch.randn(2, 6, 16), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    table, other = (rotary_table(2, 3, 8, scale, torch.device("cpu")) for scale in (1.0, 0.5))
    options: dict = {
        "plain": {},
        "bool mask": {"mask": torch.rand(2, 1, 1, 6) > 0.3},
        "bias": {"mask": torch.randn(2, 2, 6, 6)},
        "causal": {"is_causal": True},
        "rotary": {"rotary": table},
        "other rotary for keys": {"rotary": table, "key_rotary": other},
    }[kind]
    if kind == "bool mask":
        options["mask"][..., 0] = True
    weights = attention_weights(layer, query, key, **options)
    assert weights.shape == (2, 2, 6, 6) and torch.allclose(weights.sum(-1), torch.ones(2, 2, 6))
    assert torch.allclose(mixed(layer, weights, value), layer(query, key, value, **options), atol=1e-6)


@torch.no_grad()
def test_a_model_is_watched_and_answers_as_before(small_weights: Path) -> None:
    model = load_sam3(small_weights)
    names = [name for name in attention_layers(model) if name.endswith(("image_attention", "prompt_attention"))]
    question = torch.randn(1, 3, 32, 32), [[Prompt("red disc", exemplar_boxes_xyxy_px=[[2, 2, 20, 20]])]]
    alone = model.detect(*question)
    with watch_attention(model, names) as seen:
        watched = model.detect(*question)
    assert torch.equal(alone.scores, watched.scores)
    assert sorted(seen) == sorted(names) and len(names) >= 5
    queries = seen["detector.decoder.layers.1.image_attention"]
    assert queries.shape == (1, 2, 1 + 6, 16)  # presence token and queries, over 4 x 4 cells
    for weights in seen.values():
        assert torch.allclose(weights.sum(-1), torch.ones(1), atol=1e-5)
    seen.clear()
    model.detect(*question)
    assert seen == {}  # no longer watched


@torch.no_grad()
def test_the_trackers_memory_is_watched(video_weights: Path) -> None:
    model = load_sam3(video_weights)
    tracker = model.require_tracker()
    features = model.tracker_features(model.image_encoder.trunk(torch.randn(1, 3, 32, 32)))
    hints = Hints(torch.tensor([[[0.4, 0.5]]]), torch.ones(1, 1, dtype=torch.long))
    bank = MemoryBank()
    bank.store(0, tracker.step(features, hints=hints).memory)
    with watch_attention(tracker, ["memory_attention.layers.0.memory_attention"]) as seen:
        tracker.remember(features, bank.recall(1))
    (weights,) = seen.values()
    assert weights.shape == (1, 1, 16, 16 + 2)  # the map, and the pointer in pieces of 8 channels


def test_an_unknown_layer_is_refused_by_name(small_weights: Path) -> None:
    model = load_sam3(small_weights)
    with (
        pytest.raises(ValueError, match="'decoder' is no attention layer of this model; .* such as image_encoder"),
        watch_attention(model, ["decoder"]),
    ):
        pass
