"""The fusion encoder: image tokens look at the prompt.

In: image tokens (B, hw, C) of B pictures and tokens of P prompts. Out: image tokens (P, hw, C) that know what is
searched. Paper: "multimodal encoder" box of Fig. 2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import DetectorConfig, TransformerConfig
from sam3.layers import Attention, Recomputable


class FusionLayer(nn.Module):
    """Pre-norm: self-attention over the picture, cross-attention to the prompt, feed-forward."""

    def __init__(self, width: int, config: TransformerConfig, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.num_heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.prompt_attention = Attention(width, config.num_heads, dropout)
        self.norm3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """Image tokens (P, hw, C) after this layer."""
        return self.fuse(self.attend(x, positions), prompt, prompt_mask)

    def attend(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, hw, C) after self-attention, which knows nothing of the prompt."""
        h = self.norm1(x)
        return x + self.dropout(self.self_attention(h + positions, h + positions, h))

    def fuse(self, x: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """Tokens (P, hw, C) after what follows the self-attention."""
        x = x + self.dropout(self.prompt_attention(self.norm2(x), prompt, prompt, mask=prompt_mask))
        return x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(self.norm3(x))))))


class FusionEncoder(Recomputable):
    """Stack of fusion layers, without a final norm."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            FusionLayer(config.width, config.fusion_encoder, config.dropout)
            for _ in range(config.fusion_encoder.num_layers)
        )

    def forward(
        self,
        image: Tensor,
        image_index: Tensor,
        positions: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        attended: Tensor | None = None,
    ) -> Tensor:
        """Fuses P prompts into their pictures.

        Args:
            image: (B, hw, C). image_index: (P,) the picture of each prompt. positions: (1, hw, C).
            prompt: (P, S, C). prompt_mask: (P, 1, 1, S), True where a prompt token is real.
            attended: what `attend` gave for these pictures, when it is at hand.

        Returns:
            (P, hw, C).
        """
        attended = self.attend(image, positions) if attended is None else attended
        first, *others = self.layers
        x = self.run(first.fuse, attended[image_index], prompt, prompt_mask)  # type: ignore[arg-type]
        for layer in others:
            x = self.run(layer, x, positions, prompt, prompt_mask)
        return x

    def attend(self, image: Tensor, positions: Tensor) -> Tensor:
        """What the first layer makes of pictures (B, hw, C) before it looks at a prompt: the same for all prompts."""
        return self.run(self.layers[0].attend, image, positions)  # type: ignore[arg-type]
