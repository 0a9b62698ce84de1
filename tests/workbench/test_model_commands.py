"""`workbench merge`: what it writes answers as base and adapter did, in our hands and in those of transformers."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sam3.checkpoint import load_sam3
from sam3.model import Sam3
from sam3.prompts import Prompt
from workbench.adapters import Plan, add_adapter, load_adapter

PHRASES = ("red disc", "bar")
LAYOUTS = {"workbench": "merged.safetensors", "native": "merged.pt", "transformers": "merged"}
TOLERANCE = {"logits": 1e-5, "boxes": 1e-5, "presence": 1e-5, "semantic": 1e-4, "masks": 1e-4}


def pictures(model: Sam3) -> Tensor:
    side = model.config.image_encoder.image_size
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.no_grad()
def answer(model: Sam3, exemplar: bool = False) -> dict[str, Tensor]:
    """What the model says to both phrases in two pictures; with an example box if asked."""
    box = {"exemplar_boxes_xyxy_px": [[4, 4, 20, 20]]} if exemplar else {}
    output = model.detect(pictures(model), [[Prompt(phrase, **box) for phrase in PHRASES]] * 2)
    boxes = output.pred_boxes_cxcywh
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)
    return {
        "logits": output.pred_logits,
        "boxes": corners,
        "presence": output.presence_logits,
        "semantic": output.semantic_logits,
        "masks": output.pred_masks,
    }


def assert_equal(received: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tolerance in TOLERANCE.items():
        assert (received[name] - expected[name]).abs().max() <= tolerance, name


def disturbed(weights: Path | str, plan: str, folder: Path, phrases: tuple[str, ...] = PHRASES) -> Path:
    """An adapter that changes everything it can change."""
    torch.manual_seed(1)
    adapter = add_adapter(load_sam3(weights), Plan(plan, rank=2), phrases)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapter.save(folder)


@pytest.fixture(scope="module")
def adapter(small_weights, tmp_path_factory) -> Path:
    """Low-rank updates in both encoders and the detector, and words."""
    return disturbed(small_weights, "lora", tmp_path_factory.mktemp("run") / "adapter")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_answers_as_base_and_adapter(succeed, layout, adapter, small_weights, tmp_path):
    out = tmp_path / LAYOUTS[layout]
    text = succeed("merge", adapter, "--model", small_weights, "--out", out, "--layout", layout)
    model = load_sam3(small_weights)
    before = answer(model)
    load_adapter(model, adapter)
    expected = answer(model)
    assert (expected["logits"] - before["logits"]).abs().max() > 0.01, "the adapter must matter"
    merged = load_sam3(out)
    assert merged.load_report.layout == layout
    assert_equal(answer(merged), expected)
    assert_equal(answer(merged, exemplar=True), answer(model, exemplar=True))
    assert f"in {layout} layout: {out}, " in text and "(lora, red disc, bar)" in text
    assert "What the words of red disc, bar learnt now counts" in text
    assert ("example points" in text) == (layout == "transformers")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("weights", ["small", "tiny"])
def test_transformers_itself_loads_the_folder_and_answers_alike(
    succeed, weights, adapter, small_weights, tmp_path, monkeypatch
):
    from transformers import Sam3Model

    if weights == "tiny":
        base, folder = "tiny", disturbed("tiny", "decoder", tmp_path / "adapter")
    else:
        base, folder = small_weights, adapter
    succeed("merge", folder, "--model", base, "--out", tmp_path / "folder", "--layout", "transformers")
    theirs, info = Sam3Model.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(info.values()), info
    model = load_sam3(base)
    load_adapter(model, folder)
    # Without any box transformers drops a summary token; a padding box (label -10) is pooled, masked, and keeps it.
    pooled = types.SimpleNamespace(roi_align=lambda x, boxes, size: x.new_zeros(len(boxes), x.shape[1], size, size))
    monkeypatch.setattr(
        sys.modules[Sam3Model.__module__], "torchvision", types.SimpleNamespace(ops=pooled), raising=False
    )
    ids = model.tokenizer(PHRASES * 2)
    with torch.no_grad():
        output = theirs.eval()(
            pixel_values=pictures(model).repeat_interleave(2, dim=0),
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            input_boxes=torch.full((4, 1, 4), 0.5),
            input_boxes_labels=torch.full((4, 1), -10),
        )
    found = {
        "logits": output.pred_logits,
        "boxes": output.pred_boxes,
        "presence": output.presence_logits.flatten(),
        "semantic": output.semantic_seg,
        "masks": output.pred_masks,
    }
    assert_equal(found, answer(model))


@pytest.mark.parametrize("plan", ["presence", "tokens", "full"])
def test_every_plan_is_merged_into_plain_weights(succeed, plan, small_weights, tmp_path):
    folder = disturbed(small_weights, plan, tmp_path / "adapter")
    out = tmp_path / "deep" / "merged.safetensors"
    text = succeed("merge", folder, "--model", small_weights, "--out", out)
    assert ("now counts in every phrase" in text) == (plan == "tokens")
    model = load_sam3(small_weights)
    load_adapter(model, folder)
    assert_equal(answer(load_sam3(out)), answer(model))
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["adapted"] == plan and file.metadata()["phrases"] == "red disc, bar"


def test_words_that_learnt_two_things_cannot_be_merged(fail, small_weights, tmp_path):
    folder = disturbed(small_weights, "tokens", tmp_path / "adapter", ("gold coin", "old coin"))
    text = fail("merge", folder, "--model", small_weights, "--out", tmp_path / "merged.safetensors")
    assert "'gold coin' and 'old coin' share a word but learnt different vectors" in text
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_weights_that_would_answer_otherwise_are_not_written(fail, small_weights, tmp_path):
    """Examples without a phrase are asked with the word "visual"; merged weights would understand them differently."""
    folder = disturbed(small_weights, "tokens", tmp_path / "adapter", ("bar", "disc", "visual mark"))
    text = fail("merge", folder, "--model", small_weights, "--out", tmp_path / "merged.safetensors")
    assert "answer a test picture differently" in text and "nothing was written" in text
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "merged.pt"], "the workbench layout is written to a file that ends with .safetensors"),
        (["--out", "merged", "--layout", "native"], "the native layout is written to a file that ends with .pt"),
        (["--out", "merged.pt", "--layout", "transformers"], "the transformers layout is written to a folder"),
        (["--out", "merged", "--layout", "onnx"], "--layout received 'onnx'; expected workbench, native, transformers"),
        (["--out", "kept.safetensors"], "kept.safetensors exists already; give a new name"),
        (["--out", "merged.safetensors", "--model", "tiny"], "belongs to a model with fingerprint"),
    ],
)
def test_merge_refuses_before_anything_is_written(
    fail, adapter, small_weights, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("kept.safetensors").write_bytes(b"kept")
    # Of two --model the last one counts.
    assert message in fail("merge", adapter, "--model", small_weights, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]
    assert Path("kept.safetensors").read_bytes() == b"kept"
