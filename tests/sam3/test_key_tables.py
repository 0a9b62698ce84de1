"""The tables of foreign names and sizes against lists of every name.

The lists in golden/keys give names and shapes of the released layouts, taken from the instantiated original model and
from transformers 5.23, and the map between the two that was checked with equal outputs. Shapes only, at full size.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sam3 import key_tables, weight_files
from sam3.config import ImageEncoderConfig, Sam3Config
from sam3.foreign_configs import config_from_native, config_from_transformers, native_rotary_tables
from sam3.model import Sam3

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
    """Names and shapes our full-size model asks a file of `layout` for."""
    places = {key: key_tables.source(key, layout) for key in our_shapes(Sam3Config.sam3())}
    shapes = our_shapes(Sam3Config.sam3())
    return {place.name: place.foreign_shape(shapes[key]) for key, place in places.items() if place is not None}


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
