"""Adapters: they change nothing until trained, learn in every part, can be switched off, saved and loaded exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sam3.checkpoint import load_sam3
from sam3.detector.detector import DetectorOutput
from sam3.prompts import Prompt
from workbench.adapters import Adapter, Plan, add_adapter, fingerprint, load_adapter, read_manifest, token_ids
from workbench.finetune import FinetuneConfig, finetune

PHRASES = ("disc", "bar")
PROMPTS = [[Prompt("disc", exemplar_boxes_xyxy_px=[[4, 4, 20, 20]]), Prompt("bar"), Prompt("green star")]]
PLANS = ("heads", "lora")


@pytest.fixture
def model(small_weights):
    return load_sam3(small_weights)


@torch.no_grad()
def answer(model) -> DetectorOutput:
    torch.manual_seed(3)
    return model.eval().detect(torch.rand(1, 3, 32, 32) * 2 - 1, PROMPTS)


def tensors(output: DetectorOutput) -> list[torch.Tensor]:
    return [output.scores, output.pred_boxes_cxcywh, output.pred_masks]


def is_same(one: DetectorOutput, other: DetectorOutput) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def disturb(adapter: Adapter) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("name", PLANS)
def test_a_new_adapter_changes_nothing_and_a_disabled_one_neither(model, name):
    before = answer(model)
    adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
    assert is_same(answer(model), before)
    disturb(adapter)
    assert not is_same(answer(model), before)
    with adapter.disabled():
        assert is_same(answer(model), before)
        assert adapter.state().keys() == adapter.parameters.keys() != set()
    assert not is_same(answer(model), before)


@pytest.mark.parametrize("name", PLANS)
def test_every_tensor_gets_a_gradient_within_a_few_steps(model, drawn, name, tmp_path):
    adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
    seen: set[str] = set()

    def note(line) -> None:
        seen.update(key for key, p in adapter.parameters.items() if p.grad is not None and p.grad.any())

    config = FinetuneConfig(steps=4, images=4, views=2, exemplar_share=1.0)
    finetune(model, adapter, drawn, tmp_path, config, progress=False, on_step=note)
    assert sorted(adapter.parameters.keys() - seen) == []


def test_every_tensor_has_a_say_in_the_answers(model):
    adapter = add_adapter(model, Plan("lora", rank=2), PHRASES)
    disturb(adapter)
    reference, silent = answer(model), []
    for key, parameter in adapter.parameters.items():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
            if is_same(answer(model), reference):
                silent.append(key)
            parameter.copy_(kept)
    assert silent == []
    assert is_same(answer(model), reference)


def test_the_heads_plan_leaves_the_encoders_alone_and_lora_adapts_them(model, small_weights):
    heads = add_adapter(model, Plan("heads", rank=2), PHRASES)
    assert not [key for key in heads.parameters if "image_encoder" in key or "text_encoder.blocks" in key]
    lora = add_adapter(load_sam3(small_weights), Plan("lora", rank=2), PHRASES)
    assert heads.parameters.keys() < lora.parameters.keys()
    assert [key for key in lora.parameters if "image_encoder.blocks.1.attention.q" in key]
    assert [key for key in lora.parameters if "text_encoder.blocks.0.fc1" in key]
    assert 0 < heads.num_trainable < lora.num_trainable


def test_own_vectors_are_learnt_for_the_tokens_of_the_phrases_only(model, small_weights):
    ids = token_ids(model, PHRASES)
    assert len(ids) == 2 and not {0, 49406, 49407} & set(ids)
    adapter = add_adapter(model, Plan("heads", rank=2), PHRASES)
    (vectors,) = (p for key, p in adapter.parameters.items() if "token_embed" in key)
    assert vectors.shape == (2, 8)
    without = add_adapter(load_sam3(small_weights), Plan("heads", rank=2, learn_tokens=False), PHRASES)
    assert not [key for key in without.parameters if "token_embed" in key]


@pytest.mark.parametrize("name", PLANS)
def test_saving_and_loading_is_exact(model, small_weights, name, tmp_path):
    adapter = add_adapter(model, Plan(name, rank=3, alpha=5.0), PHRASES)
    disturb(adapter)
    adapter.facts["steps"] = 7
    expected = answer(model)
    folder = adapter.save(tmp_path / "deep" / "adapter")
    other = load_sam3(small_weights)
    loaded = load_adapter(other, folder)
    assert is_same(answer(other), expected)
    assert (loaded.plan, loaded.phrases, loaded.base, loaded.facts) == (
        adapter.plan,
        adapter.phrases,
        adapter.base,
        {"steps": 7},
    )
    assert all(torch.equal(loaded.state()[key], value) for key, value in adapter.state().items())


def test_an_earlier_state_can_be_saved_without_touching_the_present_one(model, small_weights, tmp_path):
    adapter = add_adapter(model, Plan("heads", rank=2), PHRASES)
    disturb(adapter)
    earlier, expected = adapter.state(), answer(model)
    disturb(adapter)
    present = adapter.state()
    adapter.save(tmp_path / "adapter", earlier)
    assert all(torch.equal(adapter.state()[key], value) for key, value in present.items())
    other = load_sam3(small_weights)
    load_adapter(other, tmp_path / "adapter")
    assert is_same(answer(other), expected)


def test_saving_replaces_the_folder_as_a_whole_and_others_may_read_it(model, tmp_path):
    adapter = add_adapter(model, Plan("heads", rank=2), PHRASES)
    adapter.save(tmp_path / "adapter")
    (tmp_path / "adapter" / "stray").touch()
    adapter.save(tmp_path / "adapter")
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]
    assert len({path.stat().st_mode for path in (tmp_path / "adapter").iterdir()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_adapter_of_other_weights_is_refused(model, small_weights, tmp_path):
    folder = add_adapter(model, Plan("heads", rank=2), PHRASES).save(tmp_path / "adapter")
    other = load_sam3(small_weights)
    with torch.no_grad():
        other.detector.decoder.query_embed.weight[0, 0] += 1
    with pytest.raises(ValueError, match=f"belongs to a model with fingerprint .*, this one has {fingerprint(other)}"):
        load_adapter(other, folder)
    assert not hasattr(other, "peft_config")


def test_a_second_adapter_in_one_model_is_refused(model, tmp_path):
    folder = add_adapter(model, Plan("heads", rank=2), PHRASES).save(tmp_path / "adapter")
    with pytest.raises(ValueError, match="carries an adapter already"):
        add_adapter(model, Plan("heads", rank=2), PHRASES)
    with pytest.raises(ValueError, match="carries an adapter already"):
        load_adapter(model, folder)


def test_folders_without_a_usable_adapter_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="holds no adapter of this workbench .*No such file"):
        load_adapter(model, tmp_path)
    for content, message in (("{", "JSONDecodeError"), ("{}", "KeyError"), ('{"format": "x"}', "its format is 'x'")):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path)
    folder = add_adapter(model, Plan("heads", rank=2), PHRASES).save(tmp_path / "adapter")
    assert read_manifest(folder)["plan"]["rank"] == 2
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2


def test_restoring_needs_a_state_of_the_same_adapter(model):
    adapter = add_adapter(model, Plan("heads", rank=2), PHRASES)
    state = adapter.state()
    disturb(adapter)
    adapter.restore(state)
    assert all(torch.equal(adapter.state()[key], value) for key, value in state.items())
    first = next(iter(state))
    with pytest.raises(ValueError, match=f"1 tensors differ, such as {first}"):
        adapter.restore({key: value for key, value in state.items() if key != first})


def test_the_fingerprint_tells_weights_apart(model, small_weights):
    same = load_sam3(small_weights)
    assert fingerprint(same) == fingerprint(model)
    with torch.no_grad():
        same.image_encoder.position_embed.view(-1)[0] += np.float32(1e-3)
    assert fingerprint(same) != fingerprint(model)
