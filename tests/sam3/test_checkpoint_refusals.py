"""Weight files that must be refused, each with a message that says what is wrong and what to do."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sam3 import weight_files
from sam3.checkpoint import CheckpointError, load_sam3, save
from sam3.config import Sam3Config
from sam3.model import Sam3


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object], **parts: Any) -> None:
    """Changes the tensors, and parts of the config, in a file of our layout."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={**header, "config": json.dumps({**json.loads(header["config"]), **parts})})


def test_missing_unexpected_and_misshapen(model: Sam3, ours: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["detector.decoder.norm.bias"]
        tensors["detector.decoder.norms.bias"] = torch.ones(32)
        tensors["detector.scoring.norm.weight"] = torch.ones(31)
        tensors["detector.scoring.norm.bias"] = torch.ones(32, dtype=torch.int32)

    rewrite(ours, change)
    with pytest.raises(CheckpointError) as caught:
        load_sam3(ours)
    assert str(caught.value).splitlines() == [
        f"{ours} (workbench layout): the tensors are not those of the SAM 3 model "
        f"({len(model.state_dict())} expected). Nothing was loaded.",
        "1 missing:",
        "  detector.decoder.norm.bias",
        "1 unexpected:",
        "  detector.decoder.norms.bias",
        "2 of wrong shape or type:",
        "  detector.scoring.norm.bias: received (32,) torch.int32, expected floats (32,)",
        "  detector.scoring.norm.weight: received (31,) torch.float32, expected floats (32,)",
        "Likely cause: the config describes another size than the weights have. Use the config that belongs to them.",
    ]


def test_long_lists_are_cut(ours: Path) -> None:
    rewrite(ours, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".text_encoder." in name])
    with pytest.raises(
        CheckpointError, match=r"(?s)\d\d missing:(\n  detector\.text\S+){10}\n  \.\.\.\nLikely cause: the f"
    ):
        load_sam3(ours)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_numbers_that_are_not_finite(bad: float, kind: torch.dtype, ours: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["image_encoder.blocks.1.fc2.weight"] = tensors["image_encoder.blocks.1.fc2.weight"].to(kind)
        tensors["image_encoder.blocks.1.fc2.weight"][2, 5] = bad

    rewrite(ours, change)
    with pytest.raises(CheckpointError, match=r"(?s)1 not finite.*blocks.1.fc2.weight.*diverged"):
        load_sam3(ours)


def test_large_finite_numbers_pass(ours: Path) -> None:
    rewrite(ours, lambda tensors: tensors["detector.decoder.norm.bias"].fill_(3e38))
    assert load_sam3(ours).detector.decoder.norm.bias[0] > 1e38


@pytest.mark.parametrize("keep", [0, 7, 5000, -100])
def test_cut_off_files(keep: int, model: Sam3, ours: Path, tmp_path: Path) -> None:
    save(model, tmp_path / "native.pt", layout="native")
    save(model, tmp_path / "folder", layout="transformers")
    for path in (ours, tmp_path / "native.pt", tmp_path / "folder" / "model.safetensors"):
        path.write_bytes(path.read_bytes()[:keep])
        target = path.parent if path.parent.name == "folder" else path
        with pytest.raises(CheckpointError, match="damaged|no readable .pt archive"):
            load_sam3(target)


def test_header_that_lies_about_its_length(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_sam3(path)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(native: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": native, "note": Bomb(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="Python objects besides tensors"):
        load_sam3(tmp_path / "x.pt")
    torch.save({"note": Bomb(tmp_path / "ran")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="no readable .pt archive"):
        load_sam3(tmp_path / "old.pt")
    assert not (tmp_path / "ran").exists()


def test_native_files_of_something_else(small: Sam3Config, native: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"layer1.weight": torch.ones(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"(?s)1124 missing.*1 unexpected.*weights of something else"):
        load_sam3(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(CheckpointError, match="holds a list; expected a dict"):
        load_sam3(path)
    torch.save({"model": native, "format": weight_files.FORMAT, "config": {"width": 3}}, path)
    with pytest.raises(CheckpointError, match="sizes stored in it cannot be read"):
        load_sam3(path)
    key = "detector.transformer.decoder.norm.weight"
    stored = {"format": weight_files.FORMAT, "config": small.to_dict()}
    torch.save({"model": {**native, key: "a string"}, **stored}, path)
    with pytest.raises(CheckpointError, match="transformer.decoder.norm.weight: received str, expected floats"):
        load_sam3(path)
    rotary = "detector.backbone.vision_backbone.trunk.blocks.2.attn.freqs_cis"
    torch.save({"model": {**native, rotary: native[rotary].conj().resolve_conj()}, **stored}, path)
    with pytest.raises(CheckpointError, match="rotary table .*blocks.2.* another variant"):
        load_sam3(path)


def test_wrong_config(small: Sam3Config, ours: Path) -> None:
    rewrite(ours, lambda tensors: None, detector={**small.to_dict()["detector"], "width": 64})
    with pytest.raises(CheckpointError, match="(?s)of wrong shape or type.*Use the config that belongs to them"):
        load_sam3(ours)
    rewrite(ours, lambda tensors: None, detector={**small.to_dict()["detector"], "width": 33})
    with pytest.raises(CheckpointError, match="no model can be built with these sizes: attention width 33"):
        load_sam3(ours)
    rewrite(ours, lambda tensors: None, detector={"widht": 97})
    with pytest.raises(CheckpointError, match="sizes stored in it cannot be read"):
        load_sam3(ours)
    save_file(load_file(ours), ours, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="pass the folder that also holds config.json"):
        load_sam3(ours)


@pytest.mark.parametrize(
    ("part", "key", "value", "complaint"),
    [
        ("text_config", "hidden_act", "quick_gelu", "hidden_act is 'quick_gelu'; this model can only represent 'gelu'"),
        ("text_config", "layer_norm_eps", 1e-6, "layer_norm_eps is 1e-06"),
        ("detr_decoder_config", "hidden_act", "gelu", "detr_decoder_config hidden_act"),
        ("detr_encoder_config", "hidden_size", 64, "detr_encoder_config hidden_size is 64"),
        ("vision_config", "scale_factors", [2.0, 1.0, 0.5], "scale_factors is (2.0, 1.0, 0.5)"),
        ("backbone_config", "hidden_act", "gelu_pytorch_tanh", "vision backbone hidden_act"),
        ("backbone_config", "layer_scale_init_value", 0.1, "layer_scale_init_value is 0.1"),
        ("backbone_config", "num_channels", 4, "num_channels is 4"),
        ("backbone_config", "rope_parameters", {"rope_type": "axial", "rope_theta": 100.0}, "rope_theta is 100.0"),
        ("backbone_config", "image_size", [112, 224], "[112, 224] is not square"),
        (None, "model_type", "sam3_tracker", "model_type 'sam3_tracker'"),
        (None, "vision_config", "large", "'str' object"),
    ],
)
def test_transformers_settings_we_cannot_represent(
    part: str | None, key: str, value: Any, complaint: str, oracle: Callable[[str], Any], tmp_path: Path
) -> None:
    shutil.copytree(oracle("even").folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    parts = {None: config, "backbone_config": config["vision_config"]["backbone_config"], **config}
    parts[part][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe a SAM 3 model that this code can run") as caught:
        load_sam3(tmp_path)
    assert complaint in str(caught.value)


def test_incomplete_folders(oracle: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_sam3(tmp_path)
    shutil.copy(oracle("even").folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="neither model.safetensors nor .*can carry code"):
        load_sam3(tmp_path)
    outside = tmp_path.parent / "outside.safetensors"
    shutil.copy(oracle("even").folder / "model.safetensors", outside)
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not there"):
        load_sam3(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list; expected a JSON object"):
        load_sam3(tmp_path)
    tensors = load_file(oracle("even").folder / "model.safetensors")
    tensors["vision_encoder.extra.weight"] = torch.ones(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unexpected:\n  vision_encoder.extra.weight"):
        load_sam3(tmp_path)
