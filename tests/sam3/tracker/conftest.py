"""The tracker of the golden files: full size, weights and features made from the names of the tensors.

The files in golden/tracker were recorded from the original tracker with these weights and features; arrays are thinned
out by the strides that the tests use.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3 import key_tables
from sam3.config import Sam3Config
from sam3.tracker.tracker import FrameFeatures, Tracker

_VECTORS = ("maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial")
_EMBEDDINGS = ("point_embeddings", "not_a_point_embed", "no_mask_embed", "iou_token", "mask_tokens", "obj_score_token")


def noise(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(zlib.crc32(name.encode())))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight with the native name `name`: of unit gain, and so that scores of both signs and all winners occur."""
    r, n = noise(name, shape), name.removeprefix("tracker.")
    if n.endswith("gaussian_matrix"):
        value = r
    elif n in _VECTORS or (n.endswith(".weight") and any(part in _EMBEDDINGS for part in n.split("."))):
        value = 0.5 * r
    elif n.endswith(".gamma"):
        value = 0.2 + 0.05 * r
    elif n.endswith(".bias"):
        value = 0.05 * r
    elif len(shape) == 1:
        value = 1 + 0.1 * r
    else:
        value = r * math.sqrt(shape[0] / r.numel())
    is_encoder = n.startswith("transformer.encoder.layers.")
    factors = [
        (2.0, n.endswith(".q_proj.weight")),
        (0.5, is_encoder and n.endswith(".cross_attn_image.q_proj.weight")),
        (0.7, is_encoder and n.endswith(".cross_attn_image.out_proj.weight")),
        (0.4, is_encoder and n.endswith((".self_attn.out_proj.weight", ".linear2.weight"))),
        (4.0, n == "maskmem_backbone.mask_downsampler.encoder.12.weight"),
        (3.0, n == "obj_ptr_proj.layers.2.weight"),
        (3.0, "output_hypernetworks_mlps" in n and ".layers.2." in n),
        (4.0, n == "sam_mask_decoder.iou_prediction_head.layers.2.weight"),
        (-30.0, n == "sam_mask_decoder.pred_obj_score_head.layers.2.weight"),
    ]
    for factor, applies in factors:
        value = value * factor if applies else value
    if n == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        value = value + 5.9
    if n == "sam_mask_decoder.iou_prediction_head.layers.2.bias":
        value = value + torch.tensor([0, 0.9, -1.9, -0.9])
    return value


@pytest.fixture(scope="session")
def golden_noise() -> Callable[[str, tuple[int, ...]], Tensor]:
    """Makes random numbers from a name."""
    return noise


@pytest.fixture(scope="session")
def golden_weights(golden: Path) -> dict[str, Tensor]:
    """By native name."""
    with gzip.open(golden / "keys" / "keys_native_tracker.tsv.gz", "rt") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row["name"]: weight(row["name"], tuple(int(side) for side in row["shape"].split(","))) for row in rows}


@pytest.fixture(scope="session")
def golden_tracker(golden_weights: dict[str, Tensor]) -> Tracker:
    config = Sam3Config.sam3().tracker
    assert config is not None
    tracker = Tracker(config, 256, 14).eval()
    places = {key: key_tables.source(f"tracker.{key}", "native") for key in tracker.state_dict()}
    tracker.load_state_dict({key: golden_weights[place.name] for key, place in places.items() if place is not None})
    return tracker


@pytest.fixture(scope="session")
def golden_pyramid() -> Callable[[int], list[Tensor]]:
    """Makes the three maps of a frame; frames 4 and 8 show something else, in which no object is visible."""

    def make(frame: int) -> list[Tensor]:
        phase, levels = 2 * math.pi * frame / 24, []
        for size in (288, 144, 72):
            shape = (1, 256, 9, 9)
            x = 0.9 * noise(f"golden/base/{size}", shape)
            x = x + 0.6 * math.cos(phase) * noise(f"golden/drift_cos/{size}", shape)
            x = x + 0.6 * math.sin(phase) * noise(f"golden/drift_sin/{size}", shape)
            if frame in (4, 8):
                x = x + 2.0 * noise(f"golden/cut/{size}", (1, 256, 1, 1))
            level = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
            levels.append(level + 0.3 * noise(f"golden/noise/72/{frame}", (1, 256, 72, 72)) if size == 72 else level)
        return levels

    return make


@pytest.fixture(scope="session")
def golden_frame(
    golden_tracker: Tracker, golden_pyramid: Callable[[int], list[Tensor]]
) -> Callable[[int], FrameFeatures]:
    def make(frame: int) -> FrameFeatures:
        with torch.no_grad():
            return golden_tracker.prepare(golden_pyramid(frame))

    return make


@dataclass(frozen=True)
class Record:
    """Arrays and facts of one golden file."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def check(self, key: str, received: Tensor, tolerance: float) -> None:
        expected = torch.from_numpy(self.arrays[key]).float()
        torch.testing.assert_close(
            received.detach().float().reshape(expected.shape),
            expected,
            rtol=0,
            atol=tolerance,
            msg=lambda m: f"{key}: {m}",
        )


@pytest.fixture(scope="session")
def record(golden: Path) -> Callable[[str], Record]:
    def read(name: str) -> Record:
        folder = golden / "tracker"
        with np.load(folder / f"{name}.npz") as file:
            arrays = dict(file)
        facts = folder / f"{name}.json"
        return Record(arrays, json.loads(facts.read_text()) if facts.is_file() else {})

    return read


@pytest.fixture(scope="session")
def ellipse() -> Callable[..., Tensor]:
    """Mask logits of an ellipse on a grid of size x size, between -10 and 10."""

    def draw(size: int, cx: float, cy: float, a: float, b: float, angle: float) -> Tensor:
        y, x = torch.meshgrid(torch.arange(size) - cy, torch.arange(size) - cx, indexing="ij")
        u = (math.cos(angle) * x + math.sin(angle) * y) / a
        v = (-math.sin(angle) * x + math.cos(angle) * y) / b
        return (8 * (1 - u**2 - v**2)).clamp(-10, 10)

    return draw
