"""Sizes of the model as other people write them down: transformers' `config.json`, and the shapes in a native file.

What our model cannot represent is refused here, before any weight is read. `foreign_tracker_configs` does the tracker.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sam3.config import DetectorConfig, ImageEncoderConfig, Sam3Config, TextEncoderConfig, TransformerConfig
from sam3.foreign_tracker_configs import tracker_from_native, tracker_from_transformers, tracker_to_transformers
from sam3.key_tables import Shape
from sam3.layers import rotary_table
from sam3.video_config import VideoConfig

SCALES = (4.0, 2.0, 1.0, 0.5)
_TRUNK = "backbone.vision_backbone.trunk."
_TEXT = "backbone.language_backbone.encoder."

# What transformers assumes for a key that a written part of config.json leaves out.
_ROPE: dict[str, Any] = {"rope_type": "axial", "rope_theta": 10000.0}
_VIT_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4736,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1008,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "window_size": 24,
    "global_attn_indexes": [7, 15, 23, 31],
    "layer_scale_init_value": None,
    "pretrain_image_size": 336,
    "rope_parameters": _ROPE,
}
_TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
# A text part that is missing altogether means the released sizes instead.
_RELEASED_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 32,
    "hidden_act": "gelu",
}
_PART_DEFAULTS: dict[str, dict[str, Any]] = {
    "geometry_encoder_config": {"num_layers": 3, "roi_size": 7},
    "detr_encoder_config": {"num_layers": 6},
    "detr_decoder_config": {"num_layers": 6, "num_queries": 200, "dropout": 0.1},
    "mask_decoder_config": {"num_upsampling_stages": 3},
}
# Rules for masklets that both know, by our name.
_VIDEO_RULES = {
    "min_detection_score": "score_threshold_detection",
    "nms_iou": "det_nms_thresh",
    "match_iou": "assoc_iou_thresh",
    "agree_iou": "trk_assoc_iou_thresh",
    "min_new_score": "new_det_thresh",
    "max_masklets": "max_num_objects",
    "hotstart_frames": "hotstart_delay",
    "max_unseen": "hotstart_unmatch_thresh",
    "max_duplicate": "hotstart_dup_thresh",
    "keep_alive": "max_trk_keep_alive",
    "occlusion_iou": "suppress_overlapping_based_on_recent_occlusion_threshold",
    "recondition_every": "recondition_every_nth_frame",
    "recondition_score": "high_conf_thresh",
    "recondition_iou": "high_iou_thresh",
}
_SHARED_DEFAULTS = {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "relu"}


def config_from_transformers(
    data: Mapping[str, Any], *, has_tracker_pyramid: bool, has_tracker: bool = False
) -> Sam3Config:
    """Our sizes for a transformers `config.json`, of `Sam3Model` or of the video model around it.

    Args:
        data: the parsed file.
        has_tracker_pyramid: whether the weights hold the tracker's feature pyramid, which the file does not say.
        has_tracker: whether they hold the tracker itself.

    Raises:
        ValueError: another model, or a setting that our model has no place for; the message names it.
    """
    model_type, tracker, rules = data.get("model_type"), data.get("tracker_config") or {}, data
    if model_type == "sam3_video":
        data = data.get("detector_config") or {}
    elif model_type != "sam3":
        raise ValueError(f"config.json says model_type {model_type!r}; expected 'sam3' or 'sam3_video'")
    vision = data.get("vision_config") or {}
    vit = {**_VIT_DEFAULTS, **(vision.get("backbone_config") or {})}
    text = {**_TEXT_DEFAULTS, **(data.get("text_config") or _RELEASED_TEXT)}
    parts = {
        name: {**_SHARED_DEFAULTS, **defaults, **(data.get(name) or {})} for name, defaults in _PART_DEFAULTS.items()
    }
    rope = vit["rope_parameters"] or {}
    required: list[tuple[str, Any, Any]] = [
        ("vision backbone num_channels", vit["num_channels"], 3),
        ("vision backbone hidden_act", vit["hidden_act"], "gelu"),
        ("vision backbone layer_scale_init_value", vit["layer_scale_init_value"], None),
        ("vision backbone rope_theta", vit.get("rope_theta") or rope.get("rope_theta", 10000.0), 10000.0),
        ("vision backbone rope_type", rope.get("rope_type", "axial"), "axial"),
        ("vision_config scale_factors", tuple(vision.get("scale_factors") or SCALES), SCALES),
        ("text_config hidden_act", text["hidden_act"], "gelu"),
        ("text_config layer_norm_eps", text["layer_norm_eps"], 1e-5),
    ]
    width = vision.get("fpn_hidden_size", 256)
    required += [(f"{name} hidden_size", part["hidden_size"], width) for name, part in parts.items()]
    required += [(f"{n} hidden_act", p["hidden_act"], "relu") for n, p in parts.items() if n != "mask_decoder_config"]
    for name, received, expected in required:
        if received != expected:
            raise ValueError(f"config.json: {name} is {received!r}; this model can only represent {expected!r}")
    patch = _side(vit["patch_size"])
    decoder = parts["detr_decoder_config"]
    image = ImageEncoderConfig(
        image_size=_side(vit["image_size"]),
        patch_size=patch,
        width=vit["hidden_size"],
        num_layers=vit["num_hidden_layers"],
        num_heads=vit["num_attention_heads"],
        mlp_width=vit["intermediate_size"],
        window_size=vit["window_size"],
        global_layers=tuple(vit["global_attn_indexes"] or ()),
        position_grid=_side(vit["pretrain_image_size"]) // patch,
        norm_eps=vit["layer_norm_eps"],
        pyramid_scales=SCALES,
        has_tracker_pyramid=has_tracker_pyramid,
    )
    return Sam3Config(
        image,
        TextEncoderConfig(
            vocab_size=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            width=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            mlp_width=text["intermediate_size"],
            unused_projection_width=text["projection_dim"],
        ),
        DetectorConfig(
            width=width,
            num_queries=decoder["num_queries"],
            exemplar_encoder=_transformer(parts["geometry_encoder_config"]),
            fusion_encoder=_transformer(parts["detr_encoder_config"]),
            decoder=_transformer(decoder),
            roi_size=parts["geometry_encoder_config"]["roi_size"],
            mask_num_heads=parts["mask_decoder_config"]["num_attention_heads"],
            mask_stages=parts["mask_decoder_config"]["num_upsampling_stages"],
            dropout=decoder["dropout"],
        ),
        tracker_from_transformers(tracker, image, width) if has_tracker else None,
        VideoConfig(**{ours: rules[theirs] for ours, theirs in _VIDEO_RULES.items() if theirs in rules}),
    )


def config_to_transformers(config: Sam3Config, dtype: torch.dtype) -> dict[str, Any]:
    """Content of a `config.json` for `from_pretrained` of transformers' `Sam3VideoModel`, or of `Sam3Model` for a model
    without a tracker; every size is written out."""
    kind = {"dtype": str(dtype).removeprefix("torch.")}
    detector = _detector_to_transformers(config)
    if config.tracker is None:
        return {"architectures": ["Sam3Model"], **detector, **kind}
    tracker = tracker_to_transformers(config.tracker, config.image_encoder, config.detector.width)
    return {
        "architectures": ["Sam3VideoModel"],
        "model_type": "sam3_video",
        **kind,
        "detector_config": detector,
        "tracker_config": {**tracker, "vision_config": detector["vision_config"]},
        "low_res_mask_size": 4 * config.image_encoder.grid_size,
        **{theirs: getattr(config.video, ours) for ours, theirs in _VIDEO_RULES.items()},
        "init_trk_keep_alive": config.video.keep_alive,
    }


def _detector_to_transformers(config: Sam3Config) -> dict[str, Any]:
    image, text, detector = config.image_encoder, config.text_encoder, config.detector

    def part(model_type: str, sizes: TransformerConfig, **more: Any) -> dict[str, Any]:
        return {
            "model_type": model_type,
            "hidden_size": detector.width,
            "num_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "intermediate_size": sizes.mlp_width,
            "dropout": detector.dropout,
            "hidden_act": "relu",
            **more,
        }

    return {
        "model_type": "sam3",
        "vision_config": {
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": detector.width,
            "scale_factors": list(SCALES),
            "backbone_feature_sizes": [[image.grid_size * scale] * 2 for scale in (4, 2, 1)],
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": image.width,
                "intermediate_size": image.mlp_width,
                "num_hidden_layers": image.num_layers,
                "num_attention_heads": image.num_heads,
                "num_channels": 3,
                "image_size": image.image_size,
                "patch_size": image.patch_size,
                "hidden_act": "gelu",
                "layer_norm_eps": image.norm_eps,
                "window_size": image.window_size,
                "global_attn_indexes": list(image.global_layers),
                "layer_scale_init_value": None,
                "pretrain_image_size": image.position_grid * image.patch_size,
                "rope_parameters": dict(_ROPE),
            },
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "projection_dim": text.unused_projection_width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        },
        "geometry_encoder_config": part("sam3_geometry_encoder", detector.exemplar_encoder, roi_size=detector.roi_size),
        "detr_encoder_config": part("sam3_detr_encoder", detector.fusion_encoder),
        "detr_decoder_config": part("sam3_detr_decoder", detector.decoder, num_queries=detector.num_queries),
        "mask_decoder_config": {
            "model_type": "sam3_mask_decoder",
            "hidden_size": detector.width,
            "num_upsampling_stages": detector.mask_stages,
            "num_attention_heads": detector.mask_num_heads,
        },
    }


def config_from_native(shapes: Mapping[str, Shape]) -> tuple[Sam3Config, tuple[str, ...]]:
    """Our sizes for the shapes in a native file.

    Args:
        shapes: shape of each tensor, keyed by its native name without `detector.`, but with `tracker.`.

    Returns:
        The config, and what no shape tells and was therefore assumed.

    Raises:
        KeyError: a tensor that tells a size is missing.
        ValueError: the sizes contradict each other.
    """
    released = Sam3Config.sam3()
    assumed = []
    width, _, patch, _ = shapes[f"{_TRUNK}patch_embed.proj.weight"]
    layers = _count(shapes, f"{_TRUNK}blocks.*.norm1.weight")
    tables = [shapes.get(rotary_key(layer)) for layer in range(layers)]
    if layers and all(tables):
        spans = [math.isqrt(table[0]) for table in tables if table]
        window, grid = min(spans), max(spans)
        image = replace(
            released.image_encoder,
            image_size=grid * patch,
            num_heads=width // (2 * tables[0][1]),  # type: ignore[index]
            window_size=window,
            global_layers=tuple(layer for layer, span in enumerate(spans) if span != window),
        )
    else:
        image = released.image_encoder
        assumed.append("the released image size, heads, windows and global layers (the file has no rotary tables)")
    scales = SCALES[: _count(shapes, "backbone.vision_backbone.convs.*.conv_1x1.weight")]
    image = replace(
        image,
        patch_size=patch,
        width=width,
        num_layers=layers,
        mlp_width=shapes[f"{_TRUNK}blocks.0.mlp.fc1.weight"][0],
        position_grid=math.isqrt(shapes[f"{_TRUNK}pos_embed"][1] - 1),
        pyramid_scales=scales,
        has_tracker_pyramid="backbone.vision_backbone.sam2_convs.0.conv_1x1.weight" in shapes,
    )
    vocabulary, text_width = shapes[f"{_TEXT}token_embedding.weight"]
    channels_per_head = released.text_encoder.width // released.text_encoder.num_heads
    text = TextEncoderConfig(
        vocab_size=vocabulary,
        context_length=shapes[f"{_TEXT}positional_embedding"][0],
        width=text_width,
        num_layers=_count(shapes, f"{_TEXT}transformer.resblocks.*.ln_1.weight"),
        num_heads=max(1, text_width // channels_per_head),
        mlp_width=shapes[f"{_TEXT}transformer.resblocks.0.mlp.c_fc.weight"][0],
        unused_projection_width=shapes[f"{_TEXT}text_projection"][1],
    )
    num_queries, detector_width = shapes["transformer.decoder.query_embed.weight"]
    heads = shapes["transformer.decoder.boxRPB_embed_x.layers.1.weight"][0]

    def transformer(prefix: str) -> TransformerConfig:
        return TransformerConfig(
            _count(shapes, f"{prefix}.*.norm1.weight"), heads, shapes[f"{prefix}.0.linear1.weight"][0]
        )

    detector = DetectorConfig(
        width=detector_width,
        num_queries=num_queries,
        exemplar_encoder=transformer("geometry_encoder.encode"),
        fusion_encoder=transformer("transformer.encoder.layers"),
        decoder=transformer("transformer.decoder.layers"),
        roi_size=shapes["geometry_encoder.boxes_pool_project.weight"][2],
        mask_num_heads=heads,
        mask_stages=_count(shapes, "segmentation_head.pixel_decoder.conv_layers.*.weight"),
    )
    if (text.width, detector.width) != (released.text_encoder.width, released.detector.width):
        assumed.append(f"{text.num_heads} heads in the text encoder and {heads} everywhere in the detector")
    tracker = tracker_from_native(shapes, heads) if image.has_tracker_pyramid else None
    return Sam3Config(image, text, detector, tracker), tuple(assumed)


def rotary_key(layer: int) -> str:
    """Native name of the rotary table of one block; our model computes it."""
    return f"{_TRUNK}blocks.{layer}.attn.freqs_cis"


def native_rotary_tables(config: ImageEncoderConfig) -> dict[str, Tensor]:
    """The tables a native file carries: complex64 (cells, channels of a head / 2) per block."""
    tables = {}
    for layer in range(config.num_layers):
        span = config.grid_size if layer in config.global_layers else config.window_size
        cosines, sines = rotary_table(
            span, span, config.width // config.num_heads, config.window_size / span, torch.device("cpu")
        )
        tables[rotary_key(layer)] = torch.complex(cosines, sines)
    return tables


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many numbers 0, 1, 2, ... in place of "*" are keys."""
    numbers = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    found = {int(match[1]) for key in shapes if (match := numbers.fullmatch(key))}
    return next(index for index in range(len(found) + 1) if index not in found)


def _side(size: int | list[int] | tuple[int, ...]) -> int:
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise ValueError(f"config.json: size {list(size)} is not square; this model reads square pictures only")
    return size[0]


def _transformer(part: Mapping[str, Any]) -> TransformerConfig:
    # transformers reads both names of the depth
    layers = part.get("num_hidden_layers", part["num_layers"])
    return TransformerConfig(layers, part["num_attention_heads"], part["intermediate_size"])
