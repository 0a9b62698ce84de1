"""Sizes of every part of SAM 3, as frozen dataclasses, with the two presets `sam3()` and `tiny()`.

Any other size is another set of numbers: nothing in the model asks which preset it was built from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sam3.video_config import VideoConfig


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Vision transformer and feature pyramid. Paper: "Perception Encoder" box of Fig. 2 and its neck."""

    image_size: int = 1008
    patch_size: int = 14
    width: int = 1024
    num_layers: int = 32
    num_heads: int = 16
    mlp_width: int = 4736
    window_size: int = 24
    global_layers: tuple[int, ...] = (7, 15, 23, 31)
    position_grid: int = 24
    drop_path: float = 0.1
    norm_eps: float = 1e-5
    pyramid_scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    has_tracker_pyramid: bool = True

    @property
    def grid_size(self) -> int:
        """Patches per side of a full-size input."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class TextEncoderConfig:
    """Causal text transformer. Paper: "text encoder" box of Fig. 2."""

    vocab_size: int = 49408
    context_length: int = 32
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 4096
    unused_projection_width: int = 512


@dataclass(frozen=True)
class TransformerConfig:
    """Depth, heads and feed-forward width of one transformer."""

    num_layers: int
    num_heads: int = 8
    mlp_width: int = 2048


@dataclass(frozen=True)
class DetectorConfig:
    """Everything right of the two encoders in the paper's Fig. 2."""

    width: int = 256
    num_queries: int = 200
    exemplar_encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(3))
    fusion_encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(6))
    decoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(6))
    roi_size: int = 7
    mask_num_heads: int = 8
    mask_stages: int = 3
    dropout: float = 0.1


@dataclass(frozen=True)
class TrackerConfig:
    """The tracker: interactive segmentation and memory of earlier frames. Its width is the detector's.

    Attributes:
        memory_width: channels of a stored memory map; divides the width, since object pointers are cut into such parts.
        num_memory_frames: a conditioning frame and the most recent others.
        memory_attention, mask_decoder: their layers. num_fuser_layers: of the memory encoder.
        dropout: in training.
    """

    memory_width: int = 64
    num_memory_frames: int = 7
    memory_attention: TransformerConfig = field(default_factory=lambda: TransformerConfig(4, 1, 2048))
    mask_decoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(2, 8, 2048))
    num_fuser_layers: int = 2
    dropout: float = 0.1


@dataclass(frozen=True)
class Sam3Config:
    """The whole model; without `tracker` it is an image model that takes no clicks.

    `video` holds the rules by which its masklets live: no property of a network, but thresholds that fit its scores.

    Example:
        >>> Sam3Config.tiny().image_encoder.grid_size
        16
        >>> Sam3Config.from_dict(Sam3Config.sam3().to_dict()) == Sam3Config.sam3()
        True
    """

    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    tracker: TrackerConfig | None = None
    video: VideoConfig = field(default_factory=VideoConfig)

    def __post_init__(self) -> None:
        if self.tracker is not None and not self.image_encoder.has_tracker_pyramid:
            raise ValueError(
                "a tracker needs its own feature pyramid; set has_tracker_pyramid=True in the image encoder"
            )

    @staticmethod
    def sam3() -> Sam3Config:
        """The released size: 860 M parameters, 12 M of them in the tracker; 1008 x 1008 input, 200 queries."""
        return Sam3Config(tracker=TrackerConfig())

    @staticmethod
    def tiny() -> Sam3Config:
        """The embedded default: the same architecture in a few million parameters, 224 x 224 input, 36 queries."""
        return Sam3Config(
            image_encoder=ImageEncoderConfig(
                image_size=224,
                width=128,
                num_layers=6,
                num_heads=4,
                mlp_width=512,
                window_size=8,
                global_layers=(2, 5),
                position_grid=16,
                drop_path=0.0,
                pyramid_scales=(4.0, 2.0, 1.0),
            ),
            text_encoder=TextEncoderConfig(
                width=64, num_layers=2, num_heads=2, mlp_width=256, unused_projection_width=0
            ),
            detector=DetectorConfig(
                width=96,
                num_queries=36,
                exemplar_encoder=TransformerConfig(1, 4, 384),
                fusion_encoder=TransformerConfig(2, 4, 384),
                decoder=TransformerConfig(3, 4, 384),
                roi_size=3,
                mask_num_heads=4,
                mask_stages=2,
                dropout=0.0,
            ),
            tracker=TrackerConfig(
                memory_width=48,
                memory_attention=TransformerConfig(2, 1, 384),
                mask_decoder=TransformerConfig(2, 4, 384),
                dropout=0.0,
            ),
            # Its detections are better than what it remembers, so they are given to the tracker as soon as they agree.
            video=VideoConfig(recondition_every=1, recondition_score=0.5, recondition_iou=0.5),
        )

    def without_tracker(self) -> Sam3Config:
        """The same image model alone: no tracker and no feature pyramid for one."""
        return replace(self, image_encoder=replace(self.image_encoder, has_tracker_pyramid=False), tracker=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict (JSON-ready)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sam3Config:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a key is unknown or a part is missing; the message names it.
        """
        try:
            image = dict(data["image_encoder"])
            image["global_layers"] = tuple(image["global_layers"])
            image["pyramid_scales"] = tuple(image["pyramid_scales"])
            detector = dict(data["detector"])
            for part in ("exemplar_encoder", "fusion_encoder", "decoder"):
                detector[part] = TransformerConfig(**detector[part])
            tracker = None
            if data.get("tracker") is not None:  # files from before there was one have no such key
                parts = {
                    name: TransformerConfig(**data["tracker"][name]) for name in ("memory_attention", "mask_decoder")
                }
                tracker = TrackerConfig(**{**data["tracker"], **parts})
            return cls(
                ImageEncoderConfig(**image),
                TextEncoderConfig(**data["text_encoder"]),
                DetectorConfig(**detector),
                tracker,
                VideoConfig(**data.get("video", {})),  # likewise
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"not a Sam3Config: {error}; expected the nested dict that Sam3Config.to_dict() writes"
            ) from error
