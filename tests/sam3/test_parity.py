"""Our model against transformers' `Sam3Model`, with the same random weights, loaded from its saved folder.

transformers leaves the summary token of the exemplar encoder out when no box is given; the original does not. One dummy
box with label -10 (padding) makes both comparable without boxes.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3 import key_tables
from sam3.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from sam3.checkpoint import load_sam3, save
from sam3.config import Sam3Config
from sam3.model import Sam3
from sam3.prompts import Prompt

pytestmark = pytest.mark.parity

NAMES = ("even", "ragged", "same-grid", "windows-only")
PHRASES = ("cat", "a small red striped circle", "visual", "two blue stars")
TOLERANCE = {"logits": 1e-5, "boxes": 1e-5, "presence": 1e-5, "semantic": 1e-5, "masks": 1e-4}


@torch.no_grad()
def outputs_of(model: Sam3, pixel_values: Tensor, prompts: list[list[Prompt]]) -> dict[str, Tensor]:
    output = model.detect(pixel_values, prompts)
    return {
        "logits": output.pred_logits,
        "boxes": cxcywh_to_xyxy(output.pred_boxes_cxcywh),
        "presence": output.presence_logits,
        "semantic": output.semantic_logits,
        "masks": output.pred_masks,
    }


@torch.no_grad()
def expected_outputs(theirs: Any, ours: Sam3, pixel_values: Tensor, prompts: list[list[Prompt]]) -> dict[str, Tensor]:
    """The oracle has no picture index: each pair brings its own copy of the picture."""
    flat = [prompt for per_image in prompts for prompt in per_image]
    picture = torch.tensor([index for index, per_image in enumerate(prompts) for _ in per_image])
    slots = max(1, *(len(prompt.exemplar_boxes_xyxy_px) for prompt in flat))
    boxes, labels = torch.full((len(flat), slots, 4), 0.5), torch.full((len(flat), slots), -10)
    for row, prompt in enumerate(flat):
        count = len(prompt.exemplar_boxes_xyxy_px)
        boxes[row, :count] = xyxy_to_cxcywh(torch.tensor(prompt.exemplar_boxes_xyxy_px) / pixel_values.shape[-1])
        labels[row, :count] = torch.tensor(prompt.exemplar_labels)
    ids = ours.tokenizer([prompt.text for prompt in flat])
    output = theirs(
        pixel_values=pixel_values[picture],
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        input_boxes=boxes,
        input_boxes_labels=labels,
    )
    return {
        "logits": output.pred_logits,
        "boxes": output.pred_boxes,
        "presence": output.presence_logits.flatten(),
        "semantic": output.semantic_seg,
        "masks": output.pred_masks,
    }


def assert_equal(received: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected["logits"].abs().max() < 12, "the clamp would hide a difference"
    for name, tolerance in TOLERANCE.items():
        assert expected[name].shape == received[name].shape
        torch.testing.assert_close(
            received[name], expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def questions(kind: str, side: int) -> list[list[Prompt]]:
    """Prompts for one or two pictures; box coordinates as fractions of the side."""

    def prompt(phrase: str | None, boxes: list[list[float]], labels: list[int]) -> Prompt:
        return Prompt(phrase, [[side * value for value in box] for box in boxes], labels)

    if kind == "one phrase":
        return [[Prompt(PHRASES[1])]]
    if kind == "two pictures, several phrases":
        return [[Prompt(PHRASES[0]), Prompt(PHRASES[1]), Prompt(PHRASES[3])], [Prompt(PHRASES[1])]]
    return [
        [
            prompt(PHRASES[0], [[0.1, 0.2, 0.6, 0.9], [0.4, 0.05, 0.95, 0.5], [0, 0, 1, 1]], [1, 0, 1]),
            prompt(None, [[0.7, 0.7, 0.73, 0.74]], [1]),
            Prompt(PHRASES[1]),
        ],
        [prompt(PHRASES[3], [[0.3, 0.3, 1.2, 0.8], [-0.2, 0.1, 0.4, 0.4]], [0, 0])],
    ]


@pytest.mark.parametrize("kind", ["one phrase", "two pictures, several phrases", "boxes"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal(name: str, kind: str, oracle: Callable[[str], Any]) -> None:
    theirs = oracle(name)
    ours = load_sam3(theirs.folder)
    prompts = questions(kind, theirs.config.image_encoder.image_size)
    pixel_values = torch.rand(len(prompts), 3, *[theirs.config.image_encoder.image_size] * 2) * 2 - 1
    expected = expected_outputs(theirs.model, ours, pixel_values, prompts)
    assert_equal(outputs_of(ours, pixel_values, prompts), expected)
    if len(expected["logits"]) > 1:  # the comparison must be able to see the prompt and the picture
        assert (expected["logits"][0] - expected["logits"][-1]).abs().max() > 100 * TOLERANCE["logits"]


def test_other_input_size_than_the_config(oracle: Callable[[str], Any]) -> None:
    """Windows need not fill the grid; only global layers tie transformers to the size in its config."""
    theirs = oracle("windows-only")
    ours = load_sam3(theirs.folder)
    pixel_values, prompts = torch.rand(1, 3, 72, 72) * 2 - 1, questions("one phrase", 72)
    expected = expected_outputs(theirs.model, ours, pixel_values, prompts)
    assert_equal(outputs_of(ours, pixel_values, prompts), expected)


@pytest.mark.parametrize("name", NAMES)
def test_text_tower(name: str, oracle: Callable[[str], Any]) -> None:
    theirs = oracle(name)
    ours = load_sam3(theirs.folder)
    ids = ours.tokenizer(PHRASES)
    assert len(set((ids != 0).sum(1).tolist())) > 2, "phrases of several lengths"
    with torch.no_grad():
        expected = theirs.model.get_text_features(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
        received = ours.encode_text(PHRASES)
    assert torch.equal(received.is_valid, ids != 0)
    torch.testing.assert_close(received.tokens[received.is_valid], expected[received.is_valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_image_encoder(name: str, oracle: Callable[[str], Any]) -> None:
    theirs = oracle(name)
    ours = load_sam3(theirs.folder)
    pixel_values = torch.rand(2, 3, *[theirs.config.image_encoder.image_size] * 2) * 2 - 1
    with torch.no_grad():
        expected = theirs.model.vision_encoder(pixel_values).fpn_hidden_states
        received = ours.image_encoder(pixel_values).pyramid
    for level, reference in zip(received, expected, strict=False):
        torch.testing.assert_close(level, reference, rtol=0, atol=1e-5)


def test_layer_norm_eps_comes_from_the_folder(oracle: Callable[[str], Any], tmp_path: Path) -> None:
    """transformers' default of 1e-6 is kept, and said; the epsilon is large here, so that a wrong one would show."""
    theirs = oracle("even")
    ours = load_sam3(theirs.folder)
    for file in theirs.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["backbone_config"]["layer_norm_eps"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config))
    changed = load_sam3(tmp_path)
    assert "layer_norm_eps 0.1" in str(changed.load_report)
    theirs_changed = type(theirs.model).from_pretrained(tmp_path).eval()
    pixel_values = torch.rand(1, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        expected = theirs_changed.vision_encoder(pixel_values).fpn_hidden_states[2]
        received, unchanged = (m.image_encoder(pixel_values).pyramid[2] for m in (changed, ours))
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-5)
    assert (unchanged - expected).abs().max() > 1e-2


def test_video_folder(transformers_sam3: types.ModuleType, oracle: Callable[[str], Any], tmp_path: Path) -> None:
    """The published folder holds the video model: detector, second neck and a tracker."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    torch.manual_seed(1)
    detector = oracle("same-grid").model
    widths = ("memory_attention_hidden_size", "memory_encoder_hidden_size", "mask_downsampler_embed_dim")
    tracker = {
        "vision_config": detector.config.vision_config.to_dict(),
        "image_size": 160,
        "prompt_encoder_config": {"hidden_size": 64, "patch_size": 16},
        "mask_decoder_config": {"hidden_size": 64, "iou_head_hidden_dim": 64},
        **dict.fromkeys((*widths, "memory_fuser_embed_dim"), 64),
        "memory_fuser_intermediate_dim": 256,
    }
    config = Sam3VideoConfig(detector_config=detector.config.to_dict(), tracker_config=tracker)
    video = Sam3VideoModel(config).eval()
    video.detector_model.load_state_dict(detector.state_dict())
    video.save_pretrained(tmp_path)
    model = load_sam3(tmp_path)
    assert model.config.image_encoder.has_tracker_pyramid and model.tracker is not None
    assert model.load_report.left_out == (key_tables.REPEATED_KEY,)

    pixel_values, prompts = torch.rand(1, 3, 160, 160) * 2 - 1, questions("one phrase", 160)
    assert_equal(outputs_of(model, pixel_values, prompts), expected_outputs(detector, model, pixel_values, prompts))
    with torch.no_grad():
        tokens = detector.vision_encoder(pixel_values).last_hidden_state
        expected, _ = video.tracker_neck(tokens.view(1, 10, 10, -1).permute(0, 3, 1, 2))
        trunk, pyramid = model.image_encoder.trunk(pixel_values), model.image_encoder.tracker_pyramid
        assert pyramid is not None
        levels = [level(trunk) for level in pyramid]
    for level, reference, detector_level in zip(
        levels, expected, model.image_encoder.features(trunk).pyramid, strict=False
    ):
        torch.testing.assert_close(level, reference, rtol=0, atol=1e-5)
        assert not torch.equal(level, detector_level)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_our_folder_runs_in_transformers(oracle: Callable[[str], Any], tmp_path: Path) -> None:
    """The way back: a folder we write is read by transformers without a complaint, and answers alike."""
    from transformers import Sam3Model

    ours = Sam3(Sam3Config.tiny().without_tracker()).eval()
    save(ours, tmp_path / "folder", layout="transformers")
    theirs, info = Sam3Model.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(info.values()), info
    oracle("even")  # makes box pooling possible
    side = ours.config.image_encoder.image_size
    pixel_values, prompts = torch.rand(2, 3, side, side) * 2 - 1, questions("boxes", side)
    expected = expected_outputs(theirs.eval(), ours, pixel_values, prompts)
    assert_equal(outputs_of(ours, pixel_values, prompts), expected)
