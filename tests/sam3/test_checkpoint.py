"""Weights in and out: round trips through every layout, forms of a native file, saving, places weights come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import sam3
from sam3 import checkpoint, weight_files
from sam3.checkpoint import CheckpointError, load_sam3, save
from sam3.config import Sam3Config, TrackerConfig, TransformerConfig
from sam3.foreign_configs import config_from_transformers
from sam3.model import Sam3

SMALL_TRACKER = TrackerConfig(
    memory_width=8,
    num_memory_frames=5,
    memory_attention=TransformerConfig(2, 1, 40),
    mask_decoder=TransformerConfig(2, 4, 48),
    num_fuser_layers=1,
)


def assert_same(received: Sam3, expected: Sam3, *, but: tuple[str, ...] = ()) -> None:
    mine, theirs = received.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    different = [key for key in mine if not torch.equal(mine[key], theirs[key]) and not key.startswith(but or "\n")]
    assert different == []


@pytest.mark.parametrize("extent", ["image model", "tracker pyramid", "tracker"])
def test_round_trip_through_every_layout(small: Sam3Config, extent: str, tmp_path: Path) -> None:
    config = replace(
        small,
        image_encoder=replace(
            small.image_encoder,
            pyramid_scales=(4.0, 2.0, 1.0, 0.5),
            has_tracker_pyramid=extent != "image model",
            drop_path=0.1,
        ),
        text_encoder=replace(small.text_encoder, unused_projection_width=5),
        tracker=SMALL_TRACKER if extent == "tracker" else None,
    )
    first = Sam3(config).eval()
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.normal_()
    save(first, tmp_path / "a.pt", layout="native")
    second = load_sam3(tmp_path / "a.pt")
    assert second.config == config
    assert second.load_report.filled == () and not second.training
    assert (second.tracker is None) == ("no tracker" in str(second.load_report)) == (extent != "tracker")
    assert_same(second, first)
    save(second, tmp_path / "folder", layout="transformers")
    third = load_sam3(tmp_path / "folder")
    assert third.config == config
    points = tuple(f"detector.exemplar_encoder.point_{part}" for part in ("coordinates", "pool", "position"))
    assert_same(third, first, but=points)
    assert len(third.load_report.filled) == 6
    assert not any(third.state_dict()[key].any() for key in third.load_report.filled)
    save(third, tmp_path / "b.safetensors", metadata={"trained_on": "coins", "steps": 7})
    fourth = load_sam3(tmp_path / "b.safetensors")
    assert fourth.config == config
    assert_same(fourth, third)
    assert fourth.load_report.metadata == {"trained_on": "coins", "steps": "7"}


def test_transformers_folder_survives_the_way_through_our_layouts(oracle: Callable[[str], Any], tmp_path: Path) -> None:
    folder = oracle("ragged").folder
    save(load_sam3(folder), tmp_path / "a.pt", layout="native")
    save(load_sam3(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    save(load_sam3(tmp_path / "b.safetensors"), tmp_path / "back", layout="transformers")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back")]
    assert [config_from_transformers(c, has_tracker_pyramid=False) for c in configs] == [load_sam3(folder).config] * 2


def test_sharded_folder(oracle: Callable[[str], Any], tmp_path: Path) -> None:
    oracle("even").model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same(load_sam3(tmp_path), load_sam3(oracle("even").folder))
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="not there"):
        load_sam3(tmp_path)


def test_fused_tensors_keep_their_order(model: Sam3, native: dict[str, Tensor]) -> None:
    attention = model.detector.decoder.layers[1].prompt_attention
    fused = native["detector.transformer.decoder.layers.1.ca_text.in_proj_weight"]
    assert torch.equal(fused, torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]))
    position = native["detector.backbone.vision_backbone.trunk.pos_embed"]
    assert position.shape == (1, 17, 32) and torch.equal(position[:, 1:], model.image_encoder.position_embed)


def test_a_tracker_that_is_cut_off_is_refused(small: Sam3Config, tmp_path: Path) -> None:
    config = replace(small, image_encoder=replace(small.image_encoder, has_tracker_pyramid=True), tracker=SMALL_TRACKER)
    save(Sam3(config), tmp_path / "a.pt", layout="native")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["model"]["tracker.no_obj_ptr"], content["model"]["tracker.obj_ptr_proj.layers.1.bias"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"2 missing:\n  tracker.no_obj_ptr\n  tracker.obj_ptr_proj.layers.1.bias"
    ):
        load_sam3(tmp_path / "a.pt")


def test_a_model_without_tracker_says_what_to_do(model: Sam3, ours: Path) -> None:
    loaded = load_sam3(ours)
    assert loaded.tracker is None
    assert "the file has no tracker that this model can use: no clicks, no videos" in str(loaded.load_report)
    with pytest.raises(ValueError, match="this model has no tracker, .*; load weights that have one"):
        loaded.require_tracker()
    with pytest.raises(ValueError, match="a tracker needs its own feature pyramid; set has_tracker_pyramid=True"):
        replace(loaded.config, tracker=SMALL_TRACKER)


def test_files_from_before_there_was_a_tracker(ours: Path, model: Sam3) -> None:
    with safe_open(ours, framework="pt") as file:
        header = file.metadata()
    config = json.loads(header["config"])
    del config["tracker"]
    save_file(load_file(ours), ours, metadata={**header, "config": json.dumps(config)})
    assert_same(load_sam3(ours), model)


def test_native_file_carries_the_rotary_tables(native: dict[str, Tensor]) -> None:
    window = native["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"]
    whole = native["detector.backbone.vision_backbone.trunk.blocks.2.attn.freqs_cis"]
    assert (window.dtype, window.shape, whole.shape) == (torch.complex64, (16, 8), (64, 8))
    # Cell (row 3, column 5) of the 8 x 8 grid, read as if it were 4 x 4: first half columns, second half rows.
    angles = torch.tensor([5 / 2, 3 / 2])[:, None] * 10000.0 ** (-torch.arange(4) * 4 / 16)
    torch.testing.assert_close(whole[3 * 8 + 5], torch.polar(torch.ones(8), angles.flatten()))


@pytest.mark.parametrize("form", ["bare", "wrapped", "data parallel", "detector only", "with trackers"])
def test_forms_of_a_native_file(
    small: Sam3Config, form: str, model: Sam3, native: dict[str, Tensor], tmp_path: Path
) -> None:
    path, extra = tmp_path / "other.pt", {"tracker.maskmem_tpos_enc": torch.ones(7, 1, 1, 64)}
    config = {"format": weight_files.FORMAT, "config": small.to_dict()}
    if form == "bare":
        torch.save({**native, **config}, path)
    elif form == "wrapped":
        torch.save({"model": native, "epoch": 3, **config}, path)
    elif form == "data parallel":
        torch.save({"model": {f"module.{name}": value for name, value in native.items()}, **config}, path)
    elif form == "detector only":
        bare = {name.removeprefix("detector."): value for name, value in native.items()}
        torch.save({"model": bare | {"inst_interactive_predictor.model.x": torch.ones(2)}, **config}, path)
    else:
        torch.save({"model": native | extra, **config}, path)
    loaded = load_sam3(path)
    assert_same(loaded, model)
    report = loaded.load_report
    rotary = [name for name in report.left_out if name.endswith("freqs_cis")]
    assert len(rotary) == small.image_encoder.num_layers
    others = set(report.left_out) - set(rotary)
    assert others == {
        "bare": {"format", "config"},
        "detector only": {"inst_interactive_predictor.model.x"},
        "with trackers": {"tracker.maskmem_tpos_enc"},
    }.get(form, set())
    if form == "with trackers":
        assert "1 of tracker.*" in str(report)


def test_image_half_of_a_newer_native_file(
    small: Sam3Config, model: Sam3, native: dict[str, Tensor], tmp_path: Path
) -> None:
    """A 3.1 file has three-level necks, two of them for its own tracker, and other groups beside the detector."""
    necks = {
        name.replace(".convs.", f".{kind}_convs."): value
        for name, value in native.items()
        if ".vision_backbone.convs." in name
        for kind in ("interactive", "propagation")
    }
    more = {"tracker.model.output_valid_embed": torch.ones(1, 256), "something_new.weight": torch.ones(3)}
    stored = {"format": weight_files.FORMAT, "config": small.to_dict()}
    torch.save({"model": native | necks | more, **stored}, tmp_path / "newer.pt")
    loaded = load_sam3(tmp_path / "newer.pt")
    assert_same(loaded, model)
    assert {*necks, *more} < set(loaded.load_report.left_out)
    torch.save({"model": native | {"detector.new_head.weight": torch.ones(3)}, **stored}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match=r"1 unexpected:\n  new_head.weight\n.*another variant"):
        load_sam3(tmp_path / "newer.pt")


def test_native_file_without_a_note_about_its_sizes(small: Sam3Config, tmp_path: Path) -> None:
    config = replace(
        small,
        image_encoder=replace(small.image_encoder, has_tracker_pyramid=True),
        text_encoder=replace(small.text_encoder, width=128, unused_projection_width=8),
        tracker=SMALL_TRACKER,
    )
    model = Sam3(config)
    save(model, tmp_path / "a.pt", layout="native")
    bare = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    torch.save(bare, tmp_path / "b.pt")
    loaded = load_sam3(tmp_path / "b.pt")
    assert loaded.config == config
    assert_same(loaded, model)
    assert "2 heads in the text encoder and 4 everywhere in the detector" in str(loaded.load_report)


def test_dtype_of_file_and_model(model: Sam3, tmp_path: Path) -> None:
    save(model, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert {value.dtype for value in load_file(tmp_path / "half.safetensors").values()} == {torch.bfloat16}
    loaded = load_sam3(tmp_path / "half.safetensors")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.detector.decoder.norm.weight, model.detector.decoder.norm.weight.bfloat16().float())
    assert load_sam3(tmp_path / "half.safetensors", precision="fp16").dtype == torch.float16
    save(model, tmp_path / "folder", layout="transformers", dtype=torch.float16)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["dtype"] == "float16"


def test_loaded_parameters_are_ready_to_use(model: Sam3, ours: Path) -> None:
    loaded = load_sam3(ours)
    parameters = list(loaded.parameters())
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in parameters)
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters if parameter.numel()}) == sum(
        parameter.numel() > 0 for parameter in parameters
    )
    ours.write_bytes(b"\0" * ours.stat().st_size)  # the same file, overwritten in place
    assert_same(loaded, model)


LOADING = """
import sys
from pathlib import Path

from sam3 import weight_files
from sam3.checkpoint import load_sam3

def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

weight_files._MAPPED_BYTES = 2**22
load_sam3(sys.argv[1])  # what a first call needs besides, with a small model
before = peak()
load_sam3(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is told otherwise")
@pytest.mark.parametrize("layout", ["workbench", "native", "transformers"])
def test_loading_takes_hardly_more_memory_than_the_model(
    layout: checkpoint.Layout, small: Sam3Config, tmp_path: Path
) -> None:
    large = replace(small, image_encoder=replace(small.image_encoder, mlp_width=400_000))  # 0.2 GB
    end = {"workbench": ".safetensors", "native": ".pt", "transformers": ""}[layout]
    for name, config in {"small": small, "large": large}.items():
        save(Sam3(config), tmp_path / f"{name}{end}", layout=layout)
    command = [sys.executable, "-c", LOADING, *(str(tmp_path / f"{name}{end}") for name in ("small", "large"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    size = sum(p.numel() for p in Sam3(large).parameters()) * 4
    assert size < int(done.stdout) < 1.4 * size


def test_a_file_that_changes_while_it_is_read(model: Sam3, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = weight_files.open_weights(ours)
    name = "detector.decoder.norm.bias"
    assert [tensor.tolist() for tensor in file.read([name, name])] == [model.state_dict()[name].tolist()] * 2
    save_file({"something": torch.ones(2)}, ours)
    with pytest.raises(CheckpointError, match="has changed while it was read"):
        next(file.read([name]))


def test_split_tensors_do_not_share_memory(small: Sam3Config, native: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": native, "format": weight_files.FORMAT, "config": small.to_dict()}, tmp_path / "a.pt")
    attention = load_sam3(tmp_path / "a.pt").detector.decoder.layers[0].self_attention
    assert attention.q.weight.untyped_storage().data_ptr() != attention.k.weight.untyped_storage().data_ptr()


def test_saving_is_all_or_nothing(model: Sam3, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours.read_bytes()

    def fail_half_way(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(before[:1000])
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail_half_way)
    with pytest.raises(OSError, match="no space"):
        save(model, ours)
    assert ours.read_bytes() == before
    with pytest.raises(OSError, match="no space"):
        save(model, ours.parent / "folder", layout="transformers")
    assert [path.name for path in ours.parent.iterdir()] == [ours.name]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(
    model: Sam3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, move = tmp_path / "folder", os.replace
    save(model, folder, layout="transformers")

    def fail_to_move_in(source: Path, target: Path) -> None:
        if source.suffix == ".part":
            raise OSError("the folder is busy")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail_to_move_in)
    with pytest.raises(OSError, match="busy"):
        save(model, folder, layout="transformers", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert load_file(folder / "model.safetensors")["text_projection.bias"].dtype == torch.float32


def test_folders_are_replaced_only_when_ours(model: Sam3, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    save(model, folder, layout="transformers")
    save(model, folder, layout="transformers", dtype=torch.float16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    (folder / "thesis.txt").write_text("the only copy")
    with pytest.raises(CheckpointError, match="'thesis.txt' would be deleted"):
        save(model, folder, layout="transformers")
    assert (folder / "thesis.txt").read_text() == "the only copy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_what_cannot_be_saved(small: Sam3Config, tmp_path: Path) -> None:
    model = Sam3(small)
    with pytest.raises(ValueError, match="layout is 'onnx'; expected one of"):
        save(model, tmp_path / "x", layout="onnx")  # type: ignore[arg-type]
    with torch.no_grad():
        model.detector.decoder.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"(?s)Nothing was written.*1 not finite.*decoder.norm.weight.*diverged"):
        save(model, tmp_path / "x.safetensors")
    model = Sam3(small)
    model.detector.decoder.layers[0].fc1.lora_A = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"(?s)2 unexpected.*lora_A.*Merge or remove"):
        save(model, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (tmp_path / "none.pt", "a/b/c", "weights/none.pt", "nothing"):
        with pytest.raises(CheckpointError, match="nothing at"):
            load_sam3(source)
    monkeypatch.setattr(weight_files, "TINY_PATH", tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="workbench pretrain"):
        load_sam3()


def test_packaged_weights(model: Sam3, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "TINY_PATH", ours)
    loaded = load_sam3()
    assert_same(loaded, model)
    assert loaded.load_report.source == "tiny"


def test_hub_without_network_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)accept the licence.*hf auth login.*HF_HUB_OFFLINE") as caught:
        load_sam3("nobody/no-such-model-here")
    assert caught.value.__cause__ is not None


def test_hub_download(oracle: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(oracle("even").folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_same(load_sam3("facebook/sam3"), load_sam3(oracle("even").folder))
    assert asked == [("facebook/sam3", ["config.json", "*.safetensors", "*.json"])]


def test_public_names() -> None:
    assert sam3.load_sam3 is load_sam3 and sam3.Sam3Config is Sam3Config
    assert all(getattr(sam3, name).__name__ == name for name in sam3.__all__)
    with pytest.raises(AttributeError, match="public names are Click, FrameResult, ImagePredictor"):
        _ = sam3.load_sam2


def test_loading_draws_no_numbers_that_are_never_read(monkeypatch):
    """Where no numbers are kept, torch loads its compiler to draw them, which takes seconds."""

    def draw(*_):
        raise AssertionError("numbers were drawn")

    monkeypatch.setattr("torch.nn.init._no_grad_normal_", draw)
    assert load_sam3("tiny").load_report.num_tensors > 100
    with pytest.raises(AssertionError, match="numbers were drawn"):
        torch.nn.Embedding(2, 2)
