"""Small random models: of transformers, as the oracle of the parity tests, and ours, for the tests of weight files.

transformers pools box exemplars with torchvision, which the project does not install; `roi_align` below takes its
place. It gathers four neighbours per sample, as the documented kernel does, and shares no code with ours.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3.checkpoint import save
from sam3.config import (
    DetectorConfig,
    ImageEncoderConfig,
    Sam3Config,
    TextEncoderConfig,
    TrackerConfig,
    TransformerConfig,
)
from sam3.model import Sam3

TEXT = TextEncoderConfig(
    context_length=12, width=32, num_layers=2, num_heads=2, mlp_width=48, unused_projection_width=24
)


def small_config(
    image_size: int,
    patch_size: int,
    window_size: int,
    position_grid: int,
    global_layers: tuple[int, ...],
    num_layers: int,
    width: int,
    heads: int,
    roi_size: int,
) -> Sam3Config:
    def transformer(layers: int) -> TransformerConfig:
        return TransformerConfig(layers, heads, 3 * width)

    return Sam3Config(
        ImageEncoderConfig(
            image_size=image_size,
            patch_size=patch_size,
            width=48,
            num_layers=num_layers,
            num_heads=3,
            mlp_width=80,
            window_size=window_size,
            global_layers=global_layers,
            position_grid=position_grid,
            has_tracker_pyramid=False,
        ),
        TEXT,
        DetectorConfig(
            width=width,
            num_queries=9,
            exemplar_encoder=transformer(2),
            fusion_encoder=transformer(2),
            decoder=transformer(3),
            roi_size=roi_size,
            mask_num_heads=heads,
        ),
    )


# Grids of 8 (two windows a side), 7 (no multiple of window 4 or position grid 3), 10 (as the position grid), 12.
SMALL_CONFIGS = {
    "even": small_config(112, 14, 4, 4, (1, 3), 4, 32, 4, 7),
    "ragged": small_config(98, 14, 4, 3, (2,), 3, 48, 6, 3),
    "same-grid": small_config(160, 16, 5, 10, (0, 3), 4, 64, 8, 5),
    "windows-only": small_config(96, 8, 6, 4, (), 2, 32, 2, 2),
}


def roi_align(features: Tensor, boxes: list[Tensor], size: int) -> Tensor:
    """Legacy RoI-align: not shifted by half a cell, ceil(bin side) samples per axis."""
    height, width = features.shape[-2:]
    pooled = []
    for image, image_boxes in zip(features, boxes, strict=True):
        for x0, y0, x1, y1 in image_boxes:  # float32 like the kernel: the number of samples hangs on a rounding
            w, h = (x1 - x0).clamp(min=1.0), (y1 - y0).clamp(min=1.0)
            nx, ny = math.ceil(w / size), math.ceil(h / size)
            x = x0 + (torch.arange(size * nx) + 0.5) * (w / size) / nx
            y = y0 + (torch.arange(size * ny) + 0.5) * (h / size) / ny
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            inside = (grid_y >= -1) & (grid_y <= height) & (grid_x >= -1) & (grid_x <= width)
            grid_y, grid_x = grid_y.clamp(min=0), grid_x.clamp(min=0)
            top, left = grid_y.long().clamp(max=height - 1), grid_x.long().clamp(max=width - 1)
            bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
            down = torch.where(top == height - 1, 0.0, grid_y - top)
            across = torch.where(left == width - 1, 0.0, grid_x - left)
            value = (
                image[:, top, left] * (1 - down) * (1 - across)
                + image[:, top, right] * (1 - down) * across
                + image[:, bottom, left] * down * (1 - across)
                + image[:, bottom, right] * down * across
            ) * inside
            pooled.append(value.unflatten(1, (size, ny)).unflatten(3, (size, nx)).mean(dim=(2, 4)))
    return torch.stack(pooled)


@pytest.fixture(scope="session")
def transformers_sam3() -> types.ModuleType:
    """The module of transformers that holds `Sam3Model`, able to pool boxes."""
    from transformers import Sam3Model

    module = sys.modules[Sam3Model.__module__]
    if not hasattr(module, "torchvision"):
        module.torchvision = types.SimpleNamespace(ops=types.SimpleNamespace(roi_align=roi_align))
    return module


def transformers_config(config: Sam3Config) -> Any:
    """The configuration object of transformers for the same sizes, written down by hand."""
    from transformers import Sam3Config as TheirConfig

    image, text, detector = config.image_encoder, config.text_encoder, config.detector

    def part(sizes: TransformerConfig, **more: int) -> dict[str, Any]:
        return {
            "hidden_size": detector.width,
            "num_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "intermediate_size": sizes.mlp_width,
            **more,
        }

    return TheirConfig(
        vision_config={
            "fpn_hidden_size": detector.width,
            "backbone_feature_sizes": [[image.grid_size * scale] * 2 for scale in (4, 2, 1)],
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": image.width,
                "intermediate_size": image.mlp_width,
                "num_hidden_layers": image.num_layers,
                "num_attention_heads": image.num_heads,
                "image_size": image.image_size,
                "patch_size": image.patch_size,
                "window_size": image.window_size,
                "global_attn_indexes": list(image.global_layers),
                "pretrain_image_size": image.position_grid * image.patch_size,
                "layer_norm_eps": image.norm_eps,
            },
        },
        text_config={
            "model_type": "clip_text_model",
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "projection_dim": text.unused_projection_width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": "gelu",
        },
        geometry_encoder_config=part(detector.exemplar_encoder, roi_size=detector.roi_size),
        detr_encoder_config=part(detector.fusion_encoder),
        detr_decoder_config=part(detector.decoder, num_queries=detector.num_queries),
        mask_decoder_config={
            "hidden_size": detector.width,
            "num_attention_heads": detector.mask_num_heads,
            "num_upsampling_stages": detector.mask_stages,
        },
    )


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights at which every part matters: unit gain, norms and biases away from their neutral start."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
        elif "reference_points" in name:
            parameter.normal_(0.0, 4.0)  # some anchors beyond the range where boxes stop moving
        elif "embed" in name and "embedder" not in name and "rpb" not in name and "patch" not in name:
            parameter.normal_(0.0, 0.5)
        else:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5)


@dataclass(frozen=True)
class Oracle:
    """A model of transformers in evaluation mode, the folder it was saved to, and our sizes of it."""

    model: Any
    folder: Path
    config: Sam3Config


@pytest.fixture(scope="session")
def oracle(transformers_sam3: types.ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Oracle]:
    """Makes (once each) the oracle named in `SMALL_CONFIGS`."""
    made: dict[str, Oracle] = {}

    def make(name: str) -> Oracle:
        if name not in made:
            torch.manual_seed(len(made))
            model = transformers_sam3.Sam3Model(transformers_config(SMALL_CONFIGS[name])).eval()
            randomise(model)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = Oracle(model, folder, SMALL_CONFIGS[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def small() -> Sam3Config:
    """Sizes for tests of files, which need not run the model well."""
    return Sam3Config(
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


@pytest.fixture(scope="session")
def model(small: Sam3Config) -> Sam3:
    torch.manual_seed(3)
    model = Sam3(small).eval()
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


@pytest.fixture(scope="session")
def working_model() -> Callable[..., Sam3]:
    """Makes a model of `SMALL_CONFIGS` that reads phrases and in which every part matters; new at every call."""

    def make(
        name: str = "even",
        *,
        image: dict[str, Any] | None = None,
        detector: dict[str, Any] | None = None,
        tracker: TrackerConfig | None = None,
    ) -> Sam3:
        config = SMALL_CONFIGS[name]
        config = Sam3Config(
            replace(config.image_encoder, **(image or {})),
            config.text_encoder,
            replace(config.detector, **(detector or {})),
            tracker,
        )
        torch.manual_seed(1)  # what is not randomised below, such as the codes of places
        made = Sam3(config).eval()
        torch.manual_seed(5)
        randomise(made)
        return made

    return make


@pytest.fixture(scope="session")
def clickable(working_model: Callable[..., Sam3]) -> Sam3:
    """One with a tracker, to be left as it is."""
    tracker = TrackerConfig(8, 7, TransformerConfig(2, 1, 48), TransformerConfig(2, 4, 48), 1)
    return working_model(image={"has_tracker_pyramid": True}, tracker=tracker)


@pytest.fixture(scope="session")
def ready(working_model: Callable[..., Sam3]) -> Sam3:
    """One such model in evaluation mode, to be left as it is."""
    return working_model()
