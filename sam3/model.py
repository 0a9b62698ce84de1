"""SAM 3 as one module: image encoder, then detector and tracker, called in the order of the paper's figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam3.boxes import xyxy_to_cxcywh
from sam3.config import Sam3Config
from sam3.detector.detector import Detector, DetectorOutput, pad_prompts
from sam3.detector.exemplar_encoder import Exemplars
from sam3.detector.text_encoder import TextFeatures
from sam3.detector.tokenizer import Tokenizer
from sam3.image_encoder import ImageEncoder, ImageFeatures
from sam3.layers import Recomputable
from sam3.prompts import Prompt
from sam3.tracker.tracker import FrameFeatures, Tracker


class Sam3(nn.Module):
    """The whole model: pictures and prompts in, `DetectorOutput` out; `tracker` follows what was found.

    Paper: Fig. 2.

    Example:
        >>> model = Sam3(Sam3Config.tiny()).eval()
        >>> output = model.detect(torch.zeros(1, 3, 224, 224), [[Prompt("red circle"), Prompt("blue star")]])
        >>> tuple(output.scores.shape)
        (2, 36)
    """

    load_report: Any = None  # set by `load_sam3`: a `sam3.checkpoint.LoadReport`
    precision: str = "fp32"  # see `sam3.speed`
    is_compiled: bool = False

    def __init__(self, config: Sam3Config):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config.text_encoder.context_length)
        self.image_encoder = ImageEncoder(config.image_encoder, config.detector.width)
        self.detector = Detector(config.detector, config.text_encoder)
        self.tracker = (
            None
            if config.tracker is None
            else Tracker(config.tracker, config.detector.width, config.image_encoder.patch_size)
        )
        self.apply(_initialise)

    @property
    def device(self) -> torch.device:
        return self.detector.decoder.query_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.detector.decoder.query_embed.weight.dtype

    def require_tracker(self) -> Tracker:
        """The tracker.

        Raises:
            ValueError: these weights came without one.
        """
        if self.tracker is None:
            raise ValueError(
                "this model has no tracker, so it takes no clicks and follows nothing; load weights that have one: the "
                "released native file, a folder of transformers' video model, or a file saved with a tracker"
            )
        return self.tracker

    def tracker_features(self, trunk: Tensor) -> FrameFeatures:
        """What the tracker keeps of pictures, from the image encoder's trunk (B, width, h, w).

        Raises:
            ValueError: these weights came without a tracker.
        """
        tracker, pyramid = self.require_tracker(), self.image_encoder.tracker_pyramid
        assert pyramid is not None  # a config with a tracker has one
        return tracker.prepare_from(pyramid, trunk)

    def encode_text(self, phrases: Sequence[str]) -> TextFeatures:
        """Features of each phrase; a phrase given twice is encoded once.

        Raises:
            ValueError: a phrase is longer than the text encoder can read.
        """
        distinct = list(dict.fromkeys(phrases))
        limit = self.config.text_encoder.context_length
        for phrase in distinct:
            if (length := self.tokenizer.num_tokens(phrase)) > limit:
                raise ValueError(
                    f"the phrase {phrase[:60]!r}... has {length} tokens; at most {limit} can be read: use a short "
                    f"noun phrase"
                )
        encoded = self.detector.text_encoder(self.tokenizer(distinct).to(self.device))
        return encoded[torch.tensor([distinct.index(p) for p in phrases], device=self.device)]

    def detect(
        self,
        pixel_values: Tensor | ImageFeatures,
        prompts: Sequence[Sequence[Prompt]],
        *,
        text: TextFeatures | None = None,
        with_masks: bool = True,
        mask_pairs: Tensor | Callable[[Tensor], Tensor] | None = None,
        one_to_many: bool = False,
        probe_boxes_cxcywh: Tensor | None = None,
        attended: Tensor | None = None,
    ) -> DetectorOutput:
        """Every instance of every prompt.

        The image encoder runs once per picture, the text encoder once per distinct phrase, everything else once over
        all (picture, prompt) pairs.

        Args:
            pixel_values: (B, 3, S, S) in -1..1, or features from `image_encoder`.
            prompts: one list per picture; coordinates in pixels of the S x S input.
            text: features of all phrases in order, when they are at hand.
            with_masks, mask_pairs, one_to_many, probe_boxes_cxcywh, attended: see `Detector.forward`.

        Raises:
            ValueError: the number of lists is not the number of pictures, or nothing is asked.
        """
        features = pixel_values if isinstance(pixel_values, ImageFeatures) else self.image_encoder(pixel_values)
        num_images = features.pyramid[-1].shape[0]
        if len(prompts) != num_images or not any(prompts):
            raise ValueError(
                f"received {len(prompts)} prompt lists with {sum(map(len, prompts))} prompts for {num_images} "
                f"pictures; "
                "expected one list per picture and at least one prompt"
            )
        flat = [prompt for per_image in prompts for prompt in per_image]
        counts = torch.tensor([len(per_image) for per_image in prompts])
        image_index = torch.arange(num_images).repeat_interleave(counts).to(self.device)
        side = features.grid[0] * self.config.image_encoder.patch_size
        return self.detector(
            features,
            image_index,
            self.encode_text([prompt.text for prompt in flat]) if text is None else text,
            self.exemplars(flat, side),
            with_masks=with_masks,
            mask_pairs=mask_pairs,
            one_to_many=one_to_many,
            probe_boxes_cxcywh=probe_boxes_cxcywh,
            attended=attended,
        )

    def recompute(self, is_on: bool) -> None:
        """From now on the backward pass computes layers again, or no longer, in place of keeping their insides.

        Gradients are the same; a step takes longer, in far less memory: 1.3 times (tokens) at the released size.
        """
        for module in self.modules():
            if isinstance(module, Recomputable):
                module.recomputes = is_on

    def exemplars(self, prompts: Sequence[Prompt], side: int) -> Exemplars:
        """Padded, normalised exemplars of prompts whose coordinates are pixels of a `side` x `side` input."""

        def tensors(arrays: list[np.ndarray]) -> tuple[Tensor, Tensor]:
            return pad_prompts([torch.as_tensor(a, device=self.device) for a in arrays])

        boxes, box_is_valid = tensors([np.asarray(p.exemplar_boxes_xyxy_px) / np.float32(side) for p in prompts])
        points, point_is_valid = tensors([np.asarray(p.exemplar_points_xy_px) / np.float32(side) for p in prompts])
        return Exemplars(
            boxes_cxcywh=xyxy_to_cxcywh(boxes),
            box_labels=tensors([np.asarray(p.exemplar_labels) for p in prompts])[0],
            box_is_valid=box_is_valid,
            points_xy=points,
            point_labels=tensors([np.asarray(p.exemplar_point_labels) for p in prompts])[0],
            point_is_valid=point_is_valid,
        )


def _initialise(module: nn.Module) -> None:
    """Truncated normal weights and zero biases, as the paper's encoders start; parts override it for training."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            nn.init.zeros_(bias)
