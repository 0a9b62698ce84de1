"""The mask head: queries become instance masks, and the picture a semantic map.

In: the two finest pyramid maps, fused image tokens and final queries. Out: what the masks are made of; a mask is the
product of a query's mask vector and the pixel map, formed only for queries somebody wants. Paper: "mask head" of
Fig. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import DetectorConfig
from sam3.layers import MLP, Attention, Recomputable


@dataclass(frozen=True)
class MaskFeatures:
    """Ingredients of the masks: `pixels` (P, C, H, W) and `semantic_logits` (P, 1, H, W)."""

    pixels: Tensor
    semantic_logits: Tensor


class MaskHead(Recomputable):
    """Pixel decoder with one mask vector per query (as in MaskFormer) and a semantic head."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        width = config.width
        self.prompt_norm = nn.LayerNorm(width)
        self.prompt_attention = Attention(width, config.mask_num_heads)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.mask_stages))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(config.mask_stages))
        self.instance_conv = nn.Conv2d(width, width, 1)
        self.semantic_conv = nn.Conv2d(width, 1, 1)
        self.query_mlp = MLP(width, width, width, width)

    def forward(
        self,
        pyramid: tuple[Tensor, ...],
        image_index: Tensor,
        image: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
    ) -> MaskFeatures:
        """Pixel map and semantic map of P prompts.

        Args:
            pyramid: maps of B pictures, finest first; the coarsest is replaced by `image`.
            image_index: (P,) the picture of each prompt.
            image: (P, hw, C) fused tokens. prompt: (P, S, C). prompt_mask: (P, 1, 1, S).
        """
        image = image + self.prompt_attention(self.prompt_norm(image), prompt, prompt, mask=prompt_mask)
        x = image.transpose(1, 2).unflatten(2, pyramid[-1].shape[-2:])
        # Released weights carry a third stage that no level is left for.
        for level, conv, norm in zip(reversed(pyramid[:-1]), self.convs, self.norms, strict=False):
            level = level.expand(len(x), -1, -1, -1) if level.shape[0] == 1 else level[image_index]
            x = self.run(_refine, x, level, conv, norm)
        return MaskFeatures(self.instance_conv(x), self.semantic_conv(x))

    def mask_vectors(self, queries: Tensor) -> Tensor:
        """Mask vector (..., C) of each query (..., C)."""
        return self.query_mlp(queries)


def _refine(x: Tensor, level: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """The map x, enlarged to that of a finer level, with what is seen there."""
    return F.relu(norm(conv(level + F.interpolate(x, size=level.shape[-2:], mode="nearest"))))
