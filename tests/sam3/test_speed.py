"""Number formats and compilation: what they change, what they leave, and what they refuse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sam3 import Prompt, Sam3Config, load_sam3
from sam3.checkpoint import save
from sam3.config import TransformerConfig
from sam3.image_encoder import to_pixel_values
from sam3.model import Sam3
from sam3.speed import compile_model, set_precision
from workbench.adapters import Plan, add_adapter, fingerprint, load_adapter
from workbench.domains.shapes import held_out_set
from workbench.evaluate import evaluate

PHRASES = [Prompt("red circle"), Prompt("star"), Prompt("blue square", [[20.0, 30.0, 90.0, 100.0]])]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return held_out_set(1, 3)[0].load_image()


def scores_of(model: Sam3, picture: np.ndarray) -> torch.Tensor:
    pixels = to_pixel_values(picture, 224)[None].to(model.dtype)
    with torch.inference_mode():
        return model.detect(pixels, [PHRASES]).scores


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_answers_stay_close(precision, picture):
    exact, rough = scores_of(load_sam3("tiny"), picture), scores_of(load_sam3("tiny", precision=precision), picture)
    assert 0 < (exact - rough).abs().max() < 0.1


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_quality_stays(precision):
    """The aim is 0.01 of cgF1 on many scenes (benchmarks/precision.py); with these few, differences are coarser."""
    scenes = held_out_set(8, 4)
    exact, rough = (
        evaluate(load_sam3("tiny", precision=chosen), scenes, model_name="", progress=False).metrics["cgF1"]
        for chosen in ("fp32", precision)
    )
    assert exact > 0.1 and abs(exact - rough) < 0.05


def test_int8_changes_linear_layers_of_the_encoders_only():
    model = load_sam3("tiny", precision="int8")
    plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert model.precision == "int8" and "detector.decoder.layers.0.fc1" in plain
    assert plain and not any(name.startswith(("image_encoder", "detector.text_encoder")) for name in plain)
    left, all_of_it = (sum(p.numel() for p in m.image_encoder.blocks.parameters()) for m in (model, load_sam3("tiny")))
    assert left < 0.05 * all_of_it
    assert fingerprint(model) != fingerprint(load_sam3("tiny"))


def test_int8_is_for_use_only(tmp_path):
    model = load_sam3("tiny", precision="int8")
    with pytest.raises(ValueError, match="cannot be saved; load it in fp32"):
        save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="load it in fp32, put the adapter in, then"):
        add_adapter(model, Plan("decoder"), ("coin",))
    with pytest.raises(ValueError, match="is in int8 already"):
        set_precision(model, "bf16")
    with pytest.raises(ValueError, match="received precision 'int4'; expected one of fp32, bf16, fp16, int8"):
        load_sam3("tiny", precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose one of both"):
        compile_model(model)


def test_int8_after_an_adapter(tmp_path: Path, picture: np.ndarray) -> None:
    adapter = add_adapter(load_sam3("tiny"), Plan("tokens"), ["gold coin"])
    next(iter(adapter.parameters.values())).data.normal_(std=0.1)
    adapter.save(tmp_path)
    model = load_sam3("tiny")
    load_adapter(model, tmp_path)
    exact = scores_of(model, picture)
    assert (scores_of(set_precision(model, "int8"), picture) - exact).abs().max() < 0.1

    towers = add_adapter(load_sam3("tiny"), Plan("lora"), ["gold coin"])
    with pytest.raises(ValueError, match="reaches into the encoders; merge it"):
        set_precision(towers.model, "int8")


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler: install g++")
def test_compiled_layers_answer_the_same(picture):
    tiny, one = Sam3Config.tiny(), TransformerConfig(1, 2, 32)
    encoder, two = replace(tiny.image_encoder, num_layers=1, global_layers=()), replace(one, num_layers=2)
    detector = replace(tiny.detector, width=32, num_queries=8, fusion_encoder=two, decoder=one, mask_num_heads=2)
    model = Sam3(replace(tiny, image_encoder=encoder, detector=detector, tracker=None)).eval()
    names = list(model.state_dict())
    pixels = to_pixel_values(picture, tiny.image_encoder.image_size)[None]
    with torch.inference_mode():
        expected = model.detect(pixels, [PHRASES[:2]])
        received = compile_model(model).detect(pixels, [PHRASES[:2]])
    with pytest.raises(ValueError, match="choose one of both"):
        set_precision(model, "int8")
    assert model.image_encoder.blocks[0]._compiled_call_impl is not None  # type: ignore[union-attr]
    torch.testing.assert_close(received.scores, expected.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(received.pred_masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
    assert list(model.state_dict()) == names
