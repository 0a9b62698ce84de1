"""The mask decoder: a two-way transformer between an object's tokens and the picture, then masks and scores.

In: the coarsest map as the tracker sees it, two finer maps, and the encoded prompt. Out: `MaskCandidates`, four masks
of each object: one for unambiguous prompts and three for ambiguous ones. Paper: "mask decoder" of the tracker, which is
that of SAM 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import TransformerConfig
from sam3.layers import MLP, Attention, LayerNorm2d

NUM_MASKS = 4  # the first for unambiguous prompts, the others for whole, part and subpart
STABILITY_MARGIN, STABLE = 0.05, 0.98


@dataclass(frozen=True)
class MaskCandidates:
    """N masks of each of K objects.

    Attributes:
        mask_logits: (K, N, 4h, 4w) float32.
        iou_scores: (K, N) in 0..1, how well each mask is expected to fit.
        tokens: (K, N, C) what each mask was made from.
        object_score_logits: (K,) is the object visible at all.
    """

    mask_logits: Tensor
    iou_scores: Tensor
    tokens: Tensor
    object_score_logits: Tensor

    def __getitem__(self, objects: Tensor | slice) -> MaskCandidates:
        """The masks of some of the objects."""
        return MaskCandidates(
            self.mask_logits[objects], self.iou_scores[objects], self.tokens[objects], self.object_score_logits[objects]
        )

    @staticmethod
    def joined(parts: Sequence[MaskCandidates]) -> MaskCandidates:
        """The masks of the objects of several batches in order."""
        return MaskCandidates(
            torch.cat([part.mask_logits for part in parts]),
            torch.cat([part.iou_scores for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.object_score_logits for part in parts]),
        )

    def ambiguous(self) -> MaskCandidates:
        """The three masks for a prompt that can mean several things, such as one click."""
        return MaskCandidates(
            self.mask_logits[:, 1:], self.iou_scores[:, 1:], self.tokens[:, 1:], self.object_score_logits
        )

    def single(self, *, with_fallback: bool) -> MaskCandidates:
        """The mask for an unambiguous prompt.

        Args:
            with_fallback: where that mask hangs on small changes of its logits, take the best of the other three. The
                token stays that of the first mask.
        """
        masks, scores = self.mask_logits[:, :1], self.iou_scores[:, :1]
        if with_fallback:
            others = self.ambiguous().best()
            is_stable = self.stability()[:, :1] >= STABLE
            masks = torch.where(is_stable[..., None, None], masks, others.mask_logits)
            scores = torch.where(is_stable, scores, others.iou_scores)
        return MaskCandidates(masks, scores, self.tokens[:, :1], self.object_score_logits)

    def best(self) -> MaskCandidates:
        """The mask with the highest score."""
        row, best = torch.arange(len(self.iou_scores), device=self.iou_scores.device), self.iou_scores.argmax(1)
        return MaskCandidates(
            self.mask_logits[row, best][:, None],
            self.iou_scores[row, best][:, None],
            self.tokens[row, best][:, None],
            self.object_score_logits,
        )

    def stability(self) -> Tensor:
        """(K, N) area at a slightly higher threshold over the area at a slightly lower one; 1 for empty masks."""
        low = (self.mask_logits > -STABILITY_MARGIN).sum((-2, -1)).float()
        high = (self.mask_logits > STABILITY_MARGIN).sum((-2, -1)).float()
        return torch.where(low > 0, high / low.clamp(min=1.0), 1.0)


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the picture, then the picture looks at the tokens. Norms come last."""

    def __init__(self, width: int, config: TransformerConfig, is_first: bool):
        super().__init__()
        self.is_first = is_first
        self.self_attention = Attention(width, config.num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.image_attention = Attention(width, config.num_heads, inner_width=width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, config.mlp_width, width)
        self.norm3 = nn.LayerNorm(width)
        self.token_attention = Attention(width, config.num_heads, inner_width=width // 2)
        self.norm4 = nn.LayerNorm(width)

    def forward(self, x: Tensor, token_places: Tensor, image: Tensor, image_places: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_first:  # the tokens are their own places: nothing to add, nothing to keep
            x = self.self_attention(x, x, x)
        else:
            placed = x + token_places
            x = x + self.self_attention(placed, placed, x)
        x = self.norm1(x)
        placed_image = image + image_places
        x = self.norm2(x + self.image_attention(x + token_places, placed_image, image))
        x = self.norm3(x + self.mlp(x))
        return x, self.norm4(image + self.token_attention(placed_image, x + token_places, x))


class MaskDecoder(nn.Module):
    """Predicts masks, their quality, and whether the object is there.

    Args:
        width: channels of tokens and of the coarsest map.
        config: sizes of the two-way transformer.
    """

    def __init__(self, width: int, config: TransformerConfig):
        super().__init__()
        self.object_token = nn.Embedding(1, width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(NUM_MASKS, width)
        self.blocks = nn.ModuleList(TwoWayBlock(width, config, layer == 0) for layer in range(config.num_layers))
        self.last_attention = Attention(width, config.num_heads, inner_width=width // 2)
        self.last_norm = nn.LayerNorm(width)
        self.fine_conv = nn.Conv2d(width, width // 8, 1)
        self.middle_conv = nn.Conv2d(width, width // 4, 1)
        self.to_middle = nn.ConvTranspose2d(width, width // 4, 2, 2)
        self.middle_norm = LayerNorm2d(width // 4)
        self.to_fine = nn.ConvTranspose2d(width // 4, width // 8, 2, 2)
        self.mask_mlps = nn.ModuleList(MLP(width, width, width, width // 8) for _ in range(NUM_MASKS))
        self.iou_mlp = MLP(width, width, width, NUM_MASKS)
        self.object_mlp = MLP(width, width, width, 1)

    def forward(
        self, image: Tensor, image_places: Tensor, tokens: Tensor, middle: Tensor, fine: Tensor
    ) -> MaskCandidates:
        """All four masks of K objects.

        Args:
            image: (K, C, h, w), prompt map included.
            image_places: (1, hw, C) position codes of its cells.
            tokens: (K, N, C) of the prompt.
            middle: (K or 1, C / 4, 2h, 2w) and fine: (K or 1, C / 8, 4h, 4w) from `middle_conv` and `fine_conv`.
        """
        count, grid = len(image), image.shape[-2:]
        own = torch.cat([self.object_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        places = torch.cat([own.expand(count, -1, -1), tokens], dim=1)
        x, image = places, image.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x, image = block(x, places, image, image_places)
        x = self.last_norm(x + self.last_attention(x + places, image + image_places, image))

        pixels = image.transpose(1, 2).unflatten(2, grid)
        pixels = F.gelu(self.middle_norm(self.to_middle(pixels) + middle))
        pixels = F.gelu(self.to_fine(pixels) + fine)  # (K, C / 8, 4h, 4w)
        mask_tokens = x[:, 2 : 2 + NUM_MASKS]
        vectors = torch.stack([mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.mask_mlps)], dim=1)
        return MaskCandidates(
            mask_logits=torch.einsum("knc,kchw->knhw", vectors, pixels).float(),
            iou_scores=self.iou_mlp(x[:, 1]).float().sigmoid(),
            tokens=mask_tokens,
            object_score_logits=self.object_mlp(x[:, 0]).float().squeeze(1),
        )
