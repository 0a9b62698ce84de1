"""Weights in and out: the name tables against lists of every name, round trips, and files that must be refused.

The lists in golden/keys give names and shapes of the released layouts, taken from the instantiated original model and
from transformers 5.23. Full-size checks use shapes only.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sam3
from sam3 import checkpoint, key_tables, weight_files
from sam3.checkpoint import CheckpointError, load_sam3, save
from sam3.config import DetectorConfig, ImageEncoderConfig, Sam3Config, TextEncoderConfig, TransformerConfig
from sam3.foreign_configs import config_from_native, config_from_transformers, native_rotary_tables
from sam3.model import Sam3

KEYS = Path(__file__).parents[1] / "golden" / "keys"
SMALL = Sam3Config(
    ImageEncoderConfig(
        image_size=64,
        patch_size=8,
        width=32,
        num_layers=3,
        num_heads=2,
        mlp_width=40,
        window_size=4,
        global_layers=(2,),
        position_grid=4,
        pyramid_scales=(4.0, 2.0, 1.0),
        has_tracker_pyramid=False,
    ),
    TextEncoderConfig(
        vocab_size=99,
        context_length=8,
        width=16,
        num_layers=2,
        num_heads=2,
        mlp_width=24,
        unused_projection_width=0,
    ),
    DetectorConfig(
        width=32,
        num_queries=5,
        exemplar_encoder=TransformerConfig(1, 4, 48),
        fusion_encoder=TransformerConfig(2, 4, 48),
        decoder=TransformerConfig(3, 4, 48),
        roi_size=3,
        mask_num_heads=4,
        mask_stages=2,
    ),
)
# Sizes that a native file without any note about them must tell by its shapes alone.
SHAPED_LIKE_THE_RELEASE = replace(
    SMALL,
    image_encoder=replace(SMALL.image_encoder, has_tracker_pyramid=True),
    text_encoder=replace(SMALL.text_encoder, width=128, unused_projection_width=8),
)


def table(name: str) -> list[dict[str, str]]:
    with gzip.open(KEYS / f"{name}.tsv.gz", "rt") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def shapes_in(name: str) -> dict[str, tuple[int, ...]]:
    return {row["name"]: tuple(int(side) for side in row["shape"].split(",")) for row in table(name)}


@cache
def our_shapes(config: Sam3Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in Sam3(config).state_dict().items()}


def foreign_shapes(layout: key_tables.Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes our full-size model asks a file of `layout` for."""
    places = {key: key_tables.source(key, layout) for key in our_shapes(Sam3Config.sam3())}
    shapes = our_shapes(Sam3Config.sam3())
    return {place.name: place.foreign_shape(shapes[key]) for key, place in places.items() if place is not None}


@pytest.fixture(scope="module")
def model() -> Sam3:
    torch.manual_seed(3)
    model = Sam3(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.fixture
def native(model: Sam3, tmp_path: Path) -> dict[str, Tensor]:
    """The tensors of a native file, as they lie under "model"."""
    save(model, tmp_path / "native.pt", layout="native")
    return torch.load(tmp_path / "native.pt", weights_only=True)["model"]


@pytest.fixture
def ours(model: Sam3, tmp_path: Path) -> Path:
    save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def assert_same(received: Sam3, expected: Sam3, *, but: tuple[str, ...] = ()) -> None:
    mine, theirs = received.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    different = [key for key in mine if not torch.equal(mine[key], theirs[key]) and not key.startswith(but or "\n")]
    assert different == []


# The tables


def test_native_table_covers_every_name() -> None:
    listed = shapes_in("keys_native_detector")
    expected = {f"detector.{name}": shape for name, shape in foreign_shapes("native").items()}
    assert len(listed) == 1156
    rotary = {f"detector.{key}": value.shape for key, value in native_rotary_tables(ImageEncoderConfig()).items()}
    assert expected | rotary == listed


def test_transformers_table_covers_every_name() -> None:
    expected = foreign_shapes("transformers")
    neck = {name for name in expected if name.startswith("tracker_neck.")}
    assert {name: shape for name, shape in expected.items() if name not in neck} == shapes_in("keys_hf_detector")

    in_video_folder = shapes_in("keys_hf_video_full")
    left_out = {name for name in in_video_folder if weight_files._TRANSFORMERS_LEFT_OUT.match(name)}
    prefixed = {name if name in neck else f"detector_model.{name}": shape for name, shape in expected.items()}
    assert prefixed == {name: shape for name, shape in in_video_folder.items() if name not in left_out}
    assert {name.split(".")[0] for name in left_out} == {"tracker_model"}


@pytest.mark.parametrize("name", ["map_native_to_hf_detector", "map_native_to_hf_tracker"])
def test_tables_agree_with_the_verified_map(name: str) -> None:
    """Each pair of names, and the change between them, is in the map that was checked with real outputs."""
    pairs = {}
    for key in our_shapes(Sam3Config.sam3()):
        native, theirs = (key_tables.source(key, layout) for layout in ("native", "transformers"))
        assert native is not None
        pairs[f"detector.{native.name}", theirs.name if theirs else "-"] = (native, theirs)
    rows = [list(row.values()) for row in table(name)]
    if name.endswith("detector"):
        assert len({row[0] for row in rows}) == 1156
    for native_name, _, their_name, _, change in rows:
        if native_name.startswith("tracker."):
            assert weight_files._NATIVE_UNPREFIXED_LEFT_OUT.match(native_name)
            continue
        if change.startswith("dropped (recomputed)"):
            assert native_name.endswith("attn.freqs_cis")
            continue
        native, theirs = pairs.pop((native_name, their_name))
        if change.startswith("rows["):
            third = {"q": 0, "k": 1, "v": 2}[their_name.split(".")[-2].removesuffix("_proj")]
            assert native.third == third
        else:
            assert native.third is None
        assert (native.change == "drop_first") == change.startswith("drop index 0")
        assert (theirs is not None and theirs.change == "transpose") == (change == "transpose")
    if name.endswith("detector"):
        assert not pairs


def test_full_size_config_is_read_from_the_shapes_of_a_native_file() -> None:
    shapes = {name.removeprefix("detector."): shape for name, shape in shapes_in("keys_native_detector").items()}
    assert config_from_native(shapes) == (Sam3Config.sam3(), ())
    without = {name: shape for name, shape in shapes.items() if not name.endswith("freqs_cis")}
    config, assumed = config_from_native(without)
    assert config == Sam3Config.sam3()
    assert "rotary" in assumed[0]


def test_config_of_transformers() -> None:
    from transformers import Sam3Config as TheirConfig

    released = Sam3Config.sam3()
    expected = replace(released, image_encoder=replace(released.image_encoder, norm_eps=1e-6))
    assert config_from_transformers(TheirConfig().to_dict(), has_tracker_pyramid=True) == expected
    assert config_from_transformers({"model_type": "sam3"}, has_tracker_pyramid=True) == expected
    # A part that is written keeps its own defaults, which are not those of a part that is missing.
    parts: dict[str, Any] = {
        "text_config": {"hidden_act": "gelu"},
        "vision_config": {"backbone_config": {"model_type": "sam3_vit_model", "num_hidden_layers": 3}},
        "detr_decoder_config": {"num_layers": 2},
    }
    written = TheirConfig(**parts).to_dict()
    assert written["text_config"]["num_hidden_layers"] == 12
    from_parts = config_from_transformers({"model_type": "sam3", **parts}, has_tracker_pyramid=False)
    assert from_parts == config_from_transformers(written, has_tracker_pyramid=False)


# Round trips


@pytest.mark.parametrize("with_tracker_pyramid", [False, True])
def test_round_trip_through_every_layout(with_tracker_pyramid: bool, tmp_path: Path) -> None:
    config = replace(
        SMALL,
        image_encoder=replace(
            SMALL.image_encoder,
            pyramid_scales=(4.0, 2.0, 1.0, 0.5),
            has_tracker_pyramid=with_tracker_pyramid,
            drop_path=0.1,
        ),
        text_encoder=replace(SMALL.text_encoder, unused_projection_width=5),
    )
    first = Sam3(config).eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    save(first, tmp_path / "a.pt", layout="native")
    second = load_sam3(tmp_path / "a.pt")
    assert second.config == config
    assert second.load_report.filled == () and not second.training
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


def test_native_file_carries_the_rotary_tables(native: dict[str, Tensor]) -> None:
    window = native["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"]
    whole = native["detector.backbone.vision_backbone.trunk.blocks.2.attn.freqs_cis"]
    assert (window.dtype, window.shape, whole.shape) == (torch.complex64, (16, 8), (64, 8))
    # Cell (row 3, column 5) of the 8 x 8 grid, read as if it were 4 x 4: first half columns, second half rows.
    angles = torch.tensor([5 / 2, 3 / 2])[:, None] * 10000.0 ** (-torch.arange(4) * 4 / 16)
    torch.testing.assert_close(whole[3 * 8 + 5], torch.polar(torch.ones(8), angles.flatten()))


@pytest.mark.parametrize("form", ["bare", "wrapped", "data parallel", "detector only", "with trackers"])
def test_forms_of_a_native_file(form: str, model: Sam3, native: dict[str, Tensor], tmp_path: Path) -> None:
    path, extra = tmp_path / "other.pt", {"tracker.maskmem_tpos_enc": torch.ones(7, 1, 1, 64)}
    config = {"format": weight_files.FORMAT, "config": SMALL.to_dict()}
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
    assert len(rotary) == SMALL.image_encoder.num_layers
    others = set(report.left_out) - set(rotary)
    assert others == {
        "bare": {"format", "config"},
        "detector only": {"inst_interactive_predictor.model.x"},
        "with trackers": {"tracker.maskmem_tpos_enc"},
    }.get(form, set())
    if form == "with trackers":
        assert "1 of tracker.*" in str(report)


def test_image_half_of_a_newer_native_file(model: Sam3, native: dict[str, Tensor], tmp_path: Path) -> None:
    """A 3.1 file has three-level necks, two of them for its own tracker, and other groups beside the detector."""
    necks = {
        name.replace(".convs.", f".{kind}_convs."): value
        for name, value in native.items()
        if ".vision_backbone.convs." in name
        for kind in ("interactive", "propagation")
    }
    more = {"tracker.model.output_valid_embed": torch.ones(1, 256), "something_new.weight": torch.ones(3)}
    stored = {"format": weight_files.FORMAT, "config": SMALL.to_dict()}
    torch.save({"model": native | necks | more, **stored}, tmp_path / "newer.pt")
    loaded = load_sam3(tmp_path / "newer.pt")
    assert_same(loaded, model)
    assert {*necks, *more} < set(loaded.load_report.left_out)
    torch.save({"model": native | {"detector.new_head.weight": torch.ones(3)}, **stored}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match=r"1 unexpected:\n  new_head.weight\n.*another variant"):
        load_sam3(tmp_path / "newer.pt")


def test_native_file_without_a_note_about_its_sizes(tmp_path: Path) -> None:
    model = Sam3(SHAPED_LIKE_THE_RELEASE)
    save(model, tmp_path / "a.pt", layout="native")
    bare = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    torch.save(bare, tmp_path / "b.pt")
    loaded = load_sam3(tmp_path / "b.pt")
    assert loaded.config == SHAPED_LIKE_THE_RELEASE
    assert_same(loaded, model)
    assert "2 heads in the text encoder and 4 everywhere in the detector" in str(loaded.load_report)


def test_dtype_of_file_and_model(model: Sam3, tmp_path: Path) -> None:
    save(model, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert {value.dtype for value in load_file(tmp_path / "half.safetensors").values()} == {torch.bfloat16}
    loaded = load_sam3(tmp_path / "half.safetensors")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.detector.decoder.norm.weight, model.detector.decoder.norm.weight.bfloat16().float())
    assert load_sam3(tmp_path / "half.safetensors", dtype=torch.float16).dtype == torch.float16
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


def test_split_tensors_do_not_share_memory(native: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": native, "format": weight_files.FORMAT, "config": SMALL.to_dict()}, tmp_path / "a.pt")
    attention = load_sam3(tmp_path / "a.pt").detector.decoder.layers[0].self_attention
    assert attention.q.weight.untyped_storage().data_ptr() != attention.k.weight.untyped_storage().data_ptr()


# Saving


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


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    model = Sam3(SMALL)
    with pytest.raises(ValueError, match="layout is 'onnx'; expected one of"):
        save(model, tmp_path / "x", layout="onnx")  # type: ignore[arg-type]
    with torch.no_grad():
        model.detector.decoder.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"(?s)Nothing was written.*1 not finite.*decoder.norm.weight.*diverged"):
        save(model, tmp_path / "x.safetensors")
    model = Sam3(SMALL)
    model.detector.decoder.layers[0].fc1.lora_A = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"(?s)2 unexpected.*lora_A.*Merge or remove"):
        save(model, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


# Files that must be refused


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], None], **config: Any) -> None:
    """Changes the tensors (and sizes) in a file of our layout."""
    tensors = load_file(path)
    change(tensors)
    stored = {**SMALL.to_dict(), **config}
    save_file(tensors, path, metadata={"format": weight_files.FORMAT, "config": json.dumps(stored)})


def test_missing_unexpected_and_misshapen(ours: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["detector.decoder.norm.bias"]
        tensors["detector.decoder.norms.bias"] = torch.ones(32)
        tensors["detector.scoring.norm.weight"] = torch.ones(31)
        tensors["detector.scoring.norm.bias"] = torch.ones(32, dtype=torch.int32)

    rewrite(ours, change)
    with pytest.raises(CheckpointError) as caught:
        load_sam3(ours)
    assert str(caught.value).splitlines() == [
        f"{ours} (workbench layout): the tensors are not those of the SAM 3 image model "
        f"({len(our_shapes(SMALL))} expected). Nothing was loaded.",
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
    rewrite(ours, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".text_encoder." in name] and None)
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
    rewrite(ours, lambda tensors: None if tensors["detector.decoder.norm.bias"].fill_(3e38).any() else None)
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


def test_native_files_of_something_else(native: dict[str, Tensor], tmp_path: Path) -> None:
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
    stored = {"format": weight_files.FORMAT, "config": SMALL.to_dict()}
    torch.save({"model": {**native, key: "a string"}, **stored}, path)
    with pytest.raises(CheckpointError, match="transformer.decoder.norm.weight: received str, expected floats"):
        load_sam3(path)
    rotary = "detector.backbone.vision_backbone.trunk.blocks.2.attn.freqs_cis"
    torch.save({"model": {**native, rotary: native[rotary].conj().resolve_conj()}, **stored}, path)
    with pytest.raises(CheckpointError, match="rotary table .*blocks.2.* another variant"):
        load_sam3(path)


def test_wrong_config(ours: Path) -> None:
    rewrite(ours, lambda tensors: None, detector={**SMALL.to_dict()["detector"], "width": 64})
    with pytest.raises(CheckpointError, match="(?s)of wrong shape or type.*Use the config that belongs to them"):
        load_sam3(ours)
    rewrite(ours, lambda tensors: None, detector={**SMALL.to_dict()["detector"], "width": 33})
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
    with pytest.raises(CheckpointError, match="does not describe a SAM 3 image model that this code can run") as caught:
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


# Where weights come from


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
    with pytest.raises(AttributeError, match="public names are ImagePredictor"):
        _ = sam3.load_sam2
