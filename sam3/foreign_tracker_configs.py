"""Sizes of the tracker as other people write them down: a part of transformers' `config.json`, and native shapes.

Like `foreign_configs`, which calls it: what our tracker cannot represent is refused before any weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sam3.config import ImageEncoderConfig, TrackerConfig, TransformerConfig

Shape = tuple[int, ...]
_RELEASED_WIDTH = 256
# Written for transformers, but no property of the network: how weights start, and the picture's side of things.
_NOT_COMPARED = ("model_type", "vision_config", "memory_fuser_layer_scale_init_value")


def tracker_to_transformers(tracker: TrackerConfig, image: ImageEncoderConfig, width: int) -> dict[str, Any]:
    """Content of `tracker_config`, every size written out; without its `vision_config`."""
    attention, decoder = tracker.memory_attention, tracker.mask_decoder
    return {
        "model_type": "sam3_tracker_video",
        "image_size": image.image_size,
        "prompt_encoder_config": {
            "model_type": "sam3_tracker_video_prompt_encoder",
            "hidden_size": width,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "mask_input_channels": 16,
            "num_point_embeddings": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "scale": 1,
        },
        "mask_decoder_config": {
            "model_type": "sam3_tracker_video_mask_decoder",
            "hidden_size": width,
            "hidden_act": "gelu",
            "mlp_dim": decoder.mlp_width,
            "num_hidden_layers": decoder.num_layers,
            "num_attention_heads": decoder.num_heads,
            "attention_downsample_rate": 2,
            "num_multimask_outputs": 3,
            "iou_head_depth": 3,
            "iou_head_hidden_dim": width,
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
        "num_maskmem": tracker.num_memory_frames,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "enable_occlusion_spatial_embedding": True,
        "multimask_output_in_sam": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "multimask_output_for_tracking": True,
        "max_object_pointers_in_encoder": 16,
        "max_cond_frame_num": 4,
        "enable_temporal_pos_encoding_for_object_pointers": True,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": attention.num_layers,
        "memory_attention_num_attention_heads": attention.num_heads,
        "memory_attention_downsample_rate": 1,
        "memory_attention_feed_forward_hidden_size": attention.mlp_width,
        "memory_attention_feed_forward_hidden_act": "relu",
        "memory_attention_dropout": tracker.dropout,
        "memory_attention_rope_feat_sizes": [image.grid_size, image.grid_size],
        "memory_attention_rope_dropout": tracker.dropout,
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": tracker.memory_width,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
        "mask_downsampler_embed_dim": width,
        "mask_downsampler_kernel_size": 3,
        "mask_downsampler_stride": 2,
        "mask_downsampler_padding": 1,
        "mask_downsampler_total_stride": 16,
        "mask_downsampler_hidden_act": "gelu",
        "memory_fuser_num_layers": tracker.num_fuser_layers,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 4 * width,
        "memory_fuser_kernel_size": 7,
        "memory_fuser_padding": 3,
        "memory_fuser_layer_scale_init_value": 1e-6,
        "memory_fuser_hidden_act": "gelu",
    }


def tracker_from_transformers(data: Mapping[str, Any], image: ImageEncoderConfig, width: int) -> TrackerConfig:
    """Our sizes for the `tracker_config` of transformers' video model; what it leaves out is as released.

    Raises:
        ValueError: a setting that our tracker has no place for; the message names it.
    """
    released = tracker_to_transformers(TrackerConfig(), ImageEncoderConfig(), _RELEASED_WIDTH)
    theirs = released | {name: value for name, value in data.items() if value is not None}
    for part in ("prompt_encoder_config", "mask_decoder_config"):
        theirs[part] = released[part] | (data.get(part) or {})
    decoder = theirs["mask_decoder_config"]
    tracker = TrackerConfig(
        memory_width=theirs["memory_encoder_output_channels"],
        num_memory_frames=theirs["num_maskmem"],
        memory_attention=TransformerConfig(
            theirs["memory_attention_num_layers"],
            theirs["memory_attention_num_attention_heads"],
            theirs["memory_attention_feed_forward_hidden_size"],
        ),
        mask_decoder=TransformerConfig(
            decoder["num_hidden_layers"], decoder["num_attention_heads"], decoder["mlp_dim"]
        ),
        num_fuser_layers=theirs["memory_fuser_num_layers"],
        dropout=theirs["memory_attention_dropout"],
    )
    _compare(theirs, tracker_to_transformers(tracker, image, width), "tracker_config")
    return tracker


def _compare(theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> None:
    """Raises where their settings are not the ones we would write for the same sizes."""
    for name, expected in ours.items():
        received = theirs[name]
        if isinstance(expected, dict) and isinstance(received, Mapping):
            _compare({**expected, **received}, expected, f"{where} {name}")
        elif received != expected and name not in _NOT_COMPARED:
            raise ValueError(f"config.json: {where} {name} is {received!r}; this model can only represent {expected!r}")


def tracker_from_native(shapes: Mapping[str, Shape], num_heads: int) -> TrackerConfig | None:
    """Our sizes for the shapes in a native file; None when it has no tracker of this kind.

    Args:
        shapes: by native name.
        num_heads: of the mask decoder, which no shape tells.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    ages = shapes.get("tracker.maskmem_tpos_enc")
    if ages is None:
        return None
    attention, decoder = "tracker.transformer.encoder.layers", "tracker.sam_mask_decoder.transformer.layers"
    return TrackerConfig(
        memory_width=ages[-1],
        num_memory_frames=ages[0],
        memory_attention=TransformerConfig(_depth(shapes, attention), 1, shapes[f"{attention}.0.linear1.weight"][0]),
        mask_decoder=TransformerConfig(_depth(shapes, decoder), num_heads, shapes[f"{decoder}.0.mlp.lin1.weight"][0]),
        num_fuser_layers=_depth(shapes, "tracker.maskmem_backbone.fuser.layers"),
    )


def _depth(shapes: Mapping[str, Shape], layers: str) -> int:
    number = re.compile(re.escape(layers) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for key in shapes if (match := number.match(key))), default=-1)
