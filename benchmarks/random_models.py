"""Models with random weights that both sides of a comparison can load, and how to make them find something."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

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

SCORE = 0.6  # of what is to be found: enough to start a masklet while nothing is followed, too little afterwards

# As in the released size, an object costs between a sixth and an eighth of what a frame costs without any.
REDUCED = Sam3Config(
    ImageEncoderConfig(
        image_size=224,
        width=384,
        num_layers=12,
        num_heads=6,
        mlp_width=1536,
        window_size=8,
        global_layers=(2, 5, 8, 11),
        position_grid=16,
    ),
    TextEncoderConfig(width=256, num_layers=6, num_heads=4, mlp_width=1024),
    DetectorConfig(
        width=128,
        exemplar_encoder=TransformerConfig(3, 4, 512),
        fusion_encoder=TransformerConfig(6, 4, 512),
        decoder=TransformerConfig(6, 4, 512),
        mask_num_heads=4,
    ),
    TrackerConfig(memory_attention=TransformerConfig(4, 1, 1024), mask_decoder=TransformerConfig(2, 4, 1024)),
)

SMALL = Sam3Config(
    replace(REDUCED.image_encoder, image_size=112, width=96, num_layers=2, mlp_width=96, global_layers=(1,)),
    replace(REDUCED.text_encoder, width=64, num_layers=1, mlp_width=64),
    replace(REDUCED.detector, fusion_encoder=TransformerConfig(1, 4, 64), decoder=TransformerConfig(2, 4, 64)),
    TrackerConfig(memory_attention=TransformerConfig(1, 1, 64), mask_decoder=TransformerConfig(2, 4, 64)),
)
SIZES = {"small": SMALL, "tiny": Sam3Config.tiny(), "reduced": REDUCED, "sam3": Sam3Config.sam3()}


def forced_logits(logits: torch.Tensor, num_objects: int) -> torch.Tensor:
    """Logits (P, Q) of which the first ones pass."""
    forced = torch.full_like(logits, -30.0)
    forced[:, :num_objects] = math.log(SCORE / (1 - SCORE))
    return forced


def write_weights(config: Sam3Config, folder: str) -> None:
    """A folder of transformers with random weights; what a tracker follows counts as visible."""
    torch.manual_seed(0)
    model = Sam3(config).eval()
    if model.tracker is not None:
        torch.nn.init.constant_(model.tracker.mask_decoder.object_mlp.layers[-1].bias, 5.0)
    save(model, folder, layout="transformers")
