"""Adapters: they change nothing until trained, learn in every part, can be switched off, saved, loaded and merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sam3.checkpoint import load_sam3, save
from sam3.config import TrackerConfig, TransformerConfig
from sam3.detector.detector import DetectorOutput
from sam3.prompts import Prompt
from workbench.adapter_files import read_manifest
from workbench.adapters import (
    PLANS,
    Adapter,
    Plan,
    add_adapter,
    fingerprint,
    load_adapter,
    merge,
    remove_adapter,
)
from workbench.concept_vectors import ConceptVectors
from workbench.finetune import FinetuneConfig, finetune
from workbench.pretrain.tracking import with_new_tracker

PHRASES = ("disc", "bar")
PROMPTS = [[Prompt("disc", exemplar_boxes_xyxy_px=[[4, 4, 20, 20]]), Prompt("bar"), Prompt("green star")]]


@pytest.fixture
def model(small_weights):
    return load_sam3(small_weights)


@torch.no_grad()
def answer(model, prompts=PROMPTS) -> DetectorOutput:
    torch.manual_seed(3)
    return model.eval().detect(torch.rand(1, 3, 32, 32) * 2 - 1, prompts)


def tensors(output: DetectorOutput) -> list[torch.Tensor]:
    return [output.scores, output.pred_boxes_cxcywh, output.pred_masks]


def is_same(one: DetectorOutput, other: DetectorOutput) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def disturb(adapter: Adapter, noise: float = 0.2) -> None:
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.add_(torch.randn_like(parameter) * noise)


@pytest.mark.parametrize("name", PLANS)
def test_a_new_adapter_changes_nothing_and_a_disabled_one_neither(model, name):
    before = answer(model)
    adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
    assert is_same(answer(model), before)
    disturb(adapter)
    after = answer(model)
    assert not is_same(after, before)
    with adapter.disabled():
        assert is_same(answer(model), before)
        assert adapter.state().keys() == adapter.parameters.keys() != set()
    assert is_same(answer(model), after)
    assert is_same(answer(remove_adapter(adapter)), before)
    add_adapter(model, Plan(name, rank=2), PHRASES)


@pytest.mark.parametrize("name", PLANS)
def test_every_tensor_gets_a_gradient_within_a_few_steps(model, drawn, name, tmp_path):
    adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
    seen: set[str] = set()

    def note(line) -> None:
        seen.update(key for key, p in adapter.parameters.items() if p.grad is not None and p.grad.any())

    config = FinetuneConfig(steps=4, images=4, views=2, exemplar_share=1.0)
    finetune(model, adapter, drawn, tmp_path, config, progress=False, on_step=note)
    idle = ("semantic_conv", "label_embed", "unused_projection")  # no loss asks for these
    assert [key for key in sorted(adapter.parameters.keys() - seen) if not any(part in key for part in idle)] == []


def test_every_tensor_has_a_say_in_the_answers(model):
    """All at once: what the answers do not depend on has no derivative."""
    adapter = add_adapter(model, Plan("lora", rank=2), PHRASES)
    disturb(adapter)
    with torch.enable_grad():
        sum((t * torch.randn_like(t)).sum() for t in tensors(answer.__wrapped__(model))).backward()
    gradients = {key: parameter.grad for key, parameter in adapter.parameters.items()}
    assert [key for key, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_no_plan_trains_the_tracker(small_weights):
    part = TransformerConfig(1, 1, 24)
    sizes = TrackerConfig(memory_width=8, memory_attention=part, mask_decoder=part)
    for name in PLANS:
        model = with_new_tracker(load_sam3(small_weights), sizes, 0)
        adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
        alone = add_adapter(load_sam3(small_weights), Plan(name, rank=2), PHRASES)
        assert adapter.parameters.keys() == alone.parameters.keys()
        assert adapter.num_trainable == alone.num_trainable
        assert not any(p.requires_grad for p in model.require_tracker().parameters())


def test_each_plan_trains_what_it_says(small_weights):
    adapters = {name: add_adapter(load_sam3(small_weights), Plan(name, rank=2), PHRASES) for name in PLANS}
    names = {name: set(adapter.parameters) for name, adapter in adapters.items()}
    words = "detector.text_encoder.token_embed.offsets"
    assert names["tokens"] == {words}
    assert names["presence"] and all("presence_head" in key for key in names["presence"])
    assert not [key for key in names["decoder"] if "image_encoder" in key or "text_encoder.blocks" in key]
    assert words in names["decoder"] < names["lora"]
    assert [key for key in names["lora"] if "image_encoder.blocks.1.attention.q" in key]
    assert [key for key in names["lora"] if "text_encoder.blocks.0.fc1" in key]
    assert names["full"] == {name for name, _ in load_sam3(small_weights).named_parameters()}
    sizes = {name: adapter.num_trainable for name, adapter in adapters.items()}
    assert sizes["tokens"] < sizes["presence"] < sizes["decoder"] < sizes["lora"] < sizes["full"]
    with pytest.raises(ValueError, match="'heads' is unknown; expected one of presence, tokens, decoder, lora, full"):
        Plan("heads")
    with pytest.raises(ValueError, match="learns the words of the phrases; give at least one"):
        add_adapter(load_sam3(small_weights), Plan("tokens"), ())


def test_the_presence_plan_changes_refusal_only(model):
    before = answer(model)
    disturb(add_adapter(model, Plan("presence", rank=2), PHRASES))
    after = answer(model)
    assert not torch.equal(before.presence_logits, after.presence_logits)
    for name in ("pred_logits", "pred_boxes_cxcywh", "pred_masks"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_learnt_words_belong_to_their_phrases_alone(model):
    other = [[Prompt("green disc"), Prompt("disc bar"), Prompt("visual"), Prompt("discs")]]
    own = [[Prompt("Disc"), Prompt("bar")]]
    before, before_other = answer(model, own), answer(model, other)
    disturb(add_adapter(model, Plan("tokens"), PHRASES))
    assert is_same(answer(model, other), before_other)
    after = answer(model, own)
    for pair in range(2):
        assert not torch.equal(after.pred_logits[pair], before.pred_logits[pair])


def test_words_get_one_offset_per_token_and_are_folded_into_the_embedding():
    embedding = nn.Embedding(12, 4)
    base = embedding.weight.detach().clone()
    vectors = ConceptVectors(embedding, torch.tensor([[10, 3, 4, 11, 0], [10, 5, 11, 0, 0]]))
    with torch.no_grad():
        vectors.offsets.copy_(torch.arange(1.0, 13.0).view(3, 4))
    ids = torch.tensor([[10, 5, 11, 0, 0], [10, 3, 4, 11, 0], [10, 3, 5, 11, 0]])
    change = vectors(ids) - embedding(ids)
    assert torch.allclose(change[0, 1], vectors.offsets[2], atol=1e-5)
    assert torch.allclose(change[1, 1:3], vectors.offsets[:2], atol=1e-5)
    assert not change[2].any() and not change[0, 2:].any() and not change[1, 3:].any() and not change[:, 0].any()
    folded = vectors.folded(["red circle", "disc"]).weight
    assert torch.allclose(folded[[3, 4, 5]], base[[3, 4, 5]] + vectors.offsets)
    assert torch.equal(folded[[0, 1, 2, 6, 7, 8, 9, 10, 11]], base[[0, 1, 2, 6, 7, 8, 9, 10, 11]])
    shared = ConceptVectors(embedding, torch.tensor([[10, 3, 11, 0], [10, 3, 4, 11]]))
    with torch.no_grad():
        shared.offsets[0] += 1
    with pytest.raises(ValueError, match="'coin' and 'coin stack' share a word"):
        shared.folded(["coin", "coin stack"])
    twice = ConceptVectors(embedding, torch.tensor([[10, 3, 3, 11]]))
    with torch.no_grad():
        twice.offsets[0] += 1
    with pytest.raises(ValueError, match="'tom tom' uses a word twice"):
        twice.folded(["tom tom"])
    assert torch.equal(embedding.weight, folded)


# ------------------------------------------------------------------------------------------------- saving and loading
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
    assert (loaded.plan, loaded.phrases, loaded.base) == (adapter.plan, adapter.phrases, adapter.base)
    assert loaded.facts == {"steps": 7}
    assert all(torch.equal(loaded.state()[key], value) for key, value in adapter.state().items())
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert name != "tokens" or size < 5_000


def test_an_earlier_state_can_be_saved_without_touching_the_present_one(model, small_weights, tmp_path):
    adapter = add_adapter(model, Plan("decoder", rank=2), PHRASES)
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
    adapter = add_adapter(model, Plan("decoder", rank=2), PHRASES)
    adapter.save(tmp_path / "adapter")
    (tmp_path / "adapter" / "stray").touch()
    adapter.save(tmp_path / "adapter")
    names = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert names == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "concept_vectors.safetensors",
        "manifest.json",
    ]
    assert len({path.stat().st_mode for path in (tmp_path / "adapter").iterdir()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_peft_reads_the_low_rank_updates_itself(model, small_weights, tmp_path):
    from peft import PeftModel

    adapter = add_adapter(model, Plan("presence", rank=2), PHRASES)
    disturb(adapter)
    folder, expected = adapter.save(tmp_path / "adapter"), answer(model)
    other = load_sam3(small_weights)
    PeftModel.from_pretrained(other, str(folder))
    assert is_same(answer(other), expected)


def test_a_second_adapter_in_one_model_is_refused(model, tmp_path):
    folder = add_adapter(model, Plan("tokens"), PHRASES).save(tmp_path / "adapter")
    with pytest.raises(ValueError, match="carries an adapter already"):
        add_adapter(model, Plan("tokens"), PHRASES)
    with pytest.raises(ValueError, match="carries an adapter already"):
        load_adapter(model, folder)


def test_folders_without_a_usable_adapter_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="holds no adapter of this workbench .*No such file"):
        load_adapter(model, tmp_path)
    for content, message in (("{", "JSONDecodeError"), ("{}", "KeyError"), ('{"format": "x"}', "its format is 'x'")):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path)
    folder = add_adapter(model, Plan("decoder", rank=2), PHRASES).save(tmp_path / "adapter")
    manifest = read_manifest(folder)
    assert manifest.plan["rank"] == 2 and manifest.versions["torch"] == torch.__version__
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2


def renamed(path: Path, rename: Callable[[str], str]) -> None:
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path)


def shuffle(path: Path) -> None:
    saved = load_file(path)
    names = [name for name in saved if saved[name].shape == next(iter(saved.values())).shape]
    turned = dict(zip(names, (saved[name] for name in (*names[1:], names[0])), strict=True))
    save_file({**saved, **turned}, path)


def change_rank(path: Path) -> None:
    saved = load_file(path)
    save_file(
        {name: (t[:1] if "lora_A" in name else t[:, :1]).contiguous() for name, t in saved.items()},
        path,
    )


def change_a_value(path: Path) -> None:
    saved = load_file(path)
    next(iter(saved.values())).view(-1)[0] += 1
    save_file(saved, path)


CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (lambda path: path.write_bytes(b""), "is empty; copy the adapter again"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is cut short: .* bytes"),
    "truncated header": (lambda path: path.write_bytes(path.read_bytes()[:30]), "is cut short: 30 bytes"),
    "not safetensors": (lambda path: path.write_bytes(b"\x80\x02}q\x00." * 40), "(no safetensors file|cut short)"),
    "no tensors": (lambda path: save_file({}, path), "without a single tensor"),
    "module.": (lambda path: renamed(path, "module.{}".format), "begin with 'module.'"),
    "no prefix": (lambda path: renamed(path, lambda n: n.removeprefix("base_model.model.")), "lack the prefix"),
    "other names": (lambda path: renamed(path, lambda n: n.replace("layers.0", "layers.7")), "are unknown, such as"),
    "other rank": (change_rank, "have rank 1, the manifest says rank 2"),
    "other type": (
        lambda path: save_file({n: t.half() for n, t in load_file(path).items()}, path),
        "are float16, saved were float32",
    ),
    "shuffled": (shuffle, "carry each other's values"),
    "changed": (change_a_value, "1 tensors were changed after saving"),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_way_a_file_goes_wrong_has_its_own_error_and_nothing_is_loaded(model, tmp_path, small_weights, kind):
    adapter = add_adapter(model, Plan("presence", rank=2), PHRASES)
    disturb(adapter)
    folder = adapter.save(tmp_path / "adapter")
    corrupt, message = CORRUPTIONS[kind]
    corrupt(folder / "adapter_model.safetensors")
    other = load_sam3(small_weights)
    before = answer(other)
    with pytest.raises(ValueError, match=message):
        load_adapter(other, folder)
    assert is_same(answer(other), before)
    add_adapter(other, Plan("presence"), PHRASES)


def test_the_adapter_of_other_weights_is_refused(model, small_weights, tmp_path):
    folder = add_adapter(model, Plan("decoder", rank=2), PHRASES).save(tmp_path / "adapter")
    other = load_sam3(small_weights)
    with torch.no_grad():
        other.detector.decoder.query_embed.weight[0, 0] += 1
    with pytest.raises(ValueError, match=f"belongs to a model with fingerprint .*, this one has {fingerprint(other)}"):
        load_adapter(other, folder)


def test_an_adapter_that_answers_differently_than_when_saved_is_refused(model, small_weights, tmp_path):
    """What the names and numbers of the tensors cannot show: another implementation of what they are used in."""
    adapter = add_adapter(model, Plan("lora", rank=2, alpha=4.0), PHRASES)
    disturb(adapter)
    folder = adapter.save(tmp_path / "adapter")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["plan"]["alpha"] = 8.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    other = load_sam3(small_weights)
    before = answer(other)
    with pytest.raises(ValueError, match="answers its test picture differently than when it was saved"):
        load_adapter(other, folder)
    assert is_same(answer(other), before)


def test_restoring_needs_a_state_of_the_same_adapter(model):
    adapter = add_adapter(model, Plan("decoder", rank=2), PHRASES)
    state = adapter.state()
    disturb(adapter)
    adapter.restore(state)
    assert all(torch.equal(adapter.state()[key], value) for key, value in state.items())
    first = next(iter(state))
    with pytest.raises(ValueError, match=f"1 tensors differ, such as {first}"):
        adapter.restore({key: value for key, value in state.items() if key != first})


# -------------------------------------------------------------------------------------------------------------- merging
@pytest.mark.parametrize("name", PLANS)
def test_merged_weights_answer_as_base_and_adapter_did(model, small_weights, name, tmp_path):
    adapter = add_adapter(model, Plan(name, rank=2), PHRASES)
    disturb(adapter, 0.05)
    expected = answer(model)
    merged = merge(adapter)
    assert merged.state_dict().keys() == load_sam3(small_weights).state_dict().keys()
    for file in (None, save(merged, tmp_path / "merged.safetensors")):
        found = answer(merged if file is None else load_sam3(tmp_path / "merged.safetensors"))
        for pair in range(2):  # "green star" has no part in this
            torch.testing.assert_close(found.pred_logits[pair], expected.pred_logits[pair], atol=1e-5, rtol=1e-5)
            masks = expected.pred_masks[pair]
            assert (found.pred_masks[pair] - masks).abs().max() <= 1e-5 * masks.abs().max()
        torch.testing.assert_close(found.presence_logits[:2], expected.presence_logits[:2], atol=1e-5, rtol=1e-5)


def test_the_fingerprint_tells_weights_apart_in_any_precision(model, small_weights):
    same = load_sam3(small_weights)
    assert fingerprint(same) == fingerprint(model) == fingerprint(load_sam3(small_weights, precision="bf16"))
    with torch.no_grad():
        same.image_encoder.position_embed.view(-1)[0] += np.float32(0.1)
    assert fingerprint(same) != fingerprint(model)
