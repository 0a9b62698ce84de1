"""The text encoder: a causal transformer over the byte-pair tokens of a phrase.

In: token ids (T, N). Out: one vector per token at the detector's width, and which tokens are real. Paper: "text
encoder" box of Fig. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import TextEncoderConfig
from sam3.layers import Attention


@dataclass(frozen=True)
class TextFeatures:
    """Encoded phrases: `tokens` (T, N, C) and `is_valid` (T, N), False on padding."""

    tokens: Tensor
    is_valid: Tensor

    def __getitem__(self, index: Tensor) -> TextFeatures:
        return TextFeatures(self.tokens[index], self.is_valid[index])


class TextBlock(nn.Module):
    """Pre-norm transformer block with causal self-attention."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, is_causal=True)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """Phrase tokens to vectors.

    Args:
        config: sizes.
        out_width: channels of the result, the detector's width.
    """

    def __init__(self, config: TextEncoderConfig, out_width: int):
        super().__init__()
        self.token_embed = nn.Embedding(config.vocab_size, config.width)
        self.position_embed = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, out_width)
        # In the released file, used by nothing; kept so that a file goes in and out unchanged.
        self.unused_projection = nn.Parameter(torch.zeros(config.width, config.unused_projection_width))

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Encodes token ids (T, N), zero-padded, into `TextFeatures` with tokens (T, N, C)."""
        x = self.token_embed(token_ids) + self.position_embed[: token_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return TextFeatures(self.project(self.norm(x)), token_ids != 0)
