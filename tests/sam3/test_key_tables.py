"""The tables of foreign names and sizes against lists of every name.

The lists in golden/keys give names and shapes of the released layouts, taken from the instantiated original model and
from transformers 5.23, and the map between the two that was checked with equal outputs. Shapes only, at full size.
"""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sam3 import key_tables, weight_files
from sam3.config import ImageEncoderConfig, Sam3Config
from sam3.foreign_configs import (
    SCALES,
    config_from_native,
    config_from_transformers,
    config_to_transformers,
    native_rotary_tables,
)
from sam3.model import Sam3
from sam3.video_config import VideoConfig

KEYS = Path(__file__).parents[1] / "golden" / "keys"


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
    """Names, in a file with all parts, and shapes that our full-size model asks for."""
    prefix = {"native": "detector.", "transformers": "detector_model."}[layout]
    shapes = {}
    for key, shape in our_shapes(Sam3Config.sam3()).items():
        if (place := key_tables.source(key, layout)) is not None:
            name = place.name if place.name.startswith("tracker") else prefix + place.name
            shapes[name] = place.foreign_shape(shape)
    return shapes


def test_native_table_covers_every_name() -> None:
    listed = shapes_in("keys_native_detector")
    tracker = shapes_in("keys_native_tracker")
    assert (len(listed), len(tracker)) == (1156, 309)
    rotary = {f"detector.{key}": value.shape for key, value in native_rotary_tables(ImageEncoderConfig()).items()}
    assert foreign_shapes("native") | rotary == listed | tracker


def test_transformers_table_covers_every_name() -> None:
    expected = foreign_shapes("transformers")
    detector = {name.removeprefix("detector_model."): shape for name, shape in expected.items() if "detector_" in name}
    assert detector == shapes_in("keys_hf_detector")
    listed = shapes_in("keys_hf_video_full")
    left_out = {name for name in listed if weight_files._TRANSFORMERS_LEFT_OUT.match(name)}
    assert left_out == {key_tables.REPEATED_KEY}
    assert expected == {name: shape for name, shape in listed.items() if name not in left_out}


@pytest.mark.parametrize("name", ["map_native_to_hf_detector", "map_native_to_hf_tracker"])
def test_tables_agree_with_the_verified_map(name: str) -> None:
    """Each pair of names, and the change between them, is in the map that was checked with real outputs."""
    pairs = {}
    for key in our_shapes(Sam3Config.sam3()):
        native, theirs = (key_tables.source(key, layout) for layout in ("native", "transformers"))
        assert native is not None
        native_name = native.name if native.name.startswith("tracker.") else f"detector.{native.name}"
        pairs[native_name, theirs.name if theirs else "-"] = (native, theirs)
    rows = [list(row.values()) for row in table(name)]
    # The tracker's feature pyramid is listed in both; the native detector counts four thirds of fused tensors apart.
    in_file = {row[0] for row in rows}
    assert len(in_file) == {"map_native_to_hf_detector": 1156, "map_native_to_hf_tracker": 331}[name]
    unseen = {pair for pair in pairs if pair[0] in in_file}
    for native_name, _, their_name, _, change in rows:
        if change.startswith("dropped (recomputed)"):
            assert native_name.endswith("attn.freqs_cis")
            continue
        native, theirs = pairs[native_name, their_name]
        unseen.discard((native_name, their_name))
        third = {"q": 0, "k": 1, "v": 2}[their_name.split(".")[-2][0]] if change.startswith("rows[") else None
        assert native.part == third
        assert (native.change == "drop_first") == change.startswith("drop index 0")
        assert (theirs is not None and theirs.change == "transpose") == (change == "transpose")
        row = re.match(r"row (\d) of stacked \[4,256\]", change)
        if row:
            assert theirs is not None and (theirs.part, theirs.num_parts) == (int(row[1]), 4)
        else:
            assert theirs is None or theirs.part is None
        assert change.startswith("also copied to " + key_tables.REPEATED_KEY) == native_name.endswith("gaussian_matrix")
    assert unseen == set()


def test_full_size_config_is_read_from_the_shapes_of_a_native_file() -> None:
    shapes = {name.removeprefix("detector."): shape for name, shape in shapes_in("keys_native_detector").items()}
    assert config_from_native(shapes) == (Sam3Config(), ())
    shapes |= shapes_in("keys_native_tracker")
    assert config_from_native(shapes) == (Sam3Config.sam3(), ())
    without = {name: shape for name, shape in shapes.items() if not name.endswith("freqs_cis")}
    config, assumed = config_from_native(without)
    assert config == Sam3Config.sam3()
    assert "rotary" in assumed[0]


def test_config_of_transformers() -> None:
    from transformers import Sam3Config as TheirConfig

    released = Sam3Config()
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


def test_config_of_transformers_video_model() -> None:
    from transformers import Sam3VideoConfig

    expected = Sam3Config.sam3().tracker
    for data in (Sam3VideoConfig().to_dict(), {"model_type": "sam3_video"}):
        received = config_from_transformers(data, has_tracker_pyramid=True, has_tracker=True)
        assert received.tracker == expected and received.video == VideoConfig()
        assert config_from_transformers(data, has_tracker_pyramid=True).tracker is None
    tiny = Sam3Config.tiny()
    written = config_to_transformers(tiny, torch.float32)
    their_view = Sam3VideoConfig(**written).to_dict()
    for data in (written, their_view):
        received = config_from_transformers(data, has_tracker_pyramid=True, has_tracker=True)
        assert received == replace(
            tiny, image_encoder=replace(tiny.image_encoder, pyramid_scales=SCALES, drop_path=0.1)
        )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"memory_attention_downsample_rate": 2}, "tracker_config memory_attention_downsample_rate is 2"),
        ({"sigmoid_scale_for_mem_enc": 1.0}, "sigmoid_scale_for_mem_enc is 1.0; this model can only represent 20.0"),
        ({"memory_encoder_hidden_size": 128}, "memory_encoder_hidden_size is 128"),
        ({"mask_decoder_config": {"num_multimask_outputs": 1}}, "mask_decoder_config num_multimask_outputs is 1"),
        ({"rope_parameters": {"rope_theta": 100.0}}, "rope_parameters rope_theta is 100.0"),
        ({"memory_attention_rope_feat_sizes": [64, 64]}, r"rope_feat_sizes is \[64, 64\].*represent \[72, 72\]"),
    ],
)
def test_settings_of_a_tracker_that_we_cannot_represent(change: dict[str, Any], complaint: str) -> None:
    data = {"model_type": "sam3_video", "tracker_config": change}
    with pytest.raises(ValueError, match=complaint):
        config_from_transformers(data, has_tracker_pyramid=True, has_tracker=True)
