"""Memory as networks: the encoder that turns a frame and its masks into memory, and attention to what is remembered.

In: the coarsest map of a frame. Out: a memory map per object (encoder), or the map as seen with memory (attention).
Which frames are remembered is decided in `memory_bank`. Paper: "memory encoder" and "memory attention" of the tracker.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.config import TrackerConfig, TransformerConfig
from sam3.layers import Attention, LayerNorm2d, rotary_table, sine_position_map

MEMORY_MASK_STRIDE = 16  # masks enter the memory encoder at this many pixels per cell
_MASK_CHANNELS = (1, 4, 16, 64, 256)


class FuserBlock(nn.Module):
    """ConvNeXt block: a wide filter per channel, then an MLP in every cell, weakly added at first."""

    def __init__(self, width: int):
        super().__init__()
        self.filter = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.strength = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(self.filter(x)).permute(0, 2, 3, 1)
        return x + (self.strength * self.fc2(F.gelu(self.fc1(cells)))).permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """Fuses a frame and the masks found in it into memory maps."""

    def __init__(self, width: int, config: TrackerConfig):
        super().__init__()
        steps = list(zip(_MASK_CHANNELS[:-1], _MASK_CHANNELS[1:], strict=True))
        self.mask_convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.mask_norms = nn.ModuleList(LayerNorm2d(b) for _, b in steps)
        self.mask_project = nn.Conv2d(_MASK_CHANNELS[-1], width, 1)
        self.image_project = nn.Conv2d(width, width, 1)
        self.fuser = nn.ModuleList(FuserBlock(width) for _ in range(config.num_fuser_layers))
        self.out = nn.Conv2d(width, config.memory_width, 1)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """(K, M, h, w) memory of maps (K or 1, C, h, w) and masks (K, 1, 16h, 16w), -10 outside and 10 inside."""
        for conv, norm in zip(self.mask_convs, self.mask_norms, strict=True):
            masks = F.gelu(norm(conv(masks)))
        x = self.image_project(image) + self.mask_project(masks)
        for block in self.fuser:
            x = block(x)
        return self.out(x)


class MemoryAttentionLayer(nn.Module):
    """Pre-norm: the frame looks at itself, then at the memory, both with rotary codes; feed-forward."""

    def __init__(self, width: int, memory_width: int, config: TransformerConfig, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.num_heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.memory_attention = Attention(width, config.num_heads, dropout, memory_width=memory_width)
        self.norm3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: tuple[Tensor, Tensor],
        key_rotary: tuple[Tensor, Tensor],
    ) -> Tensor:
        h = self.norm1(x)
        x = x + self.dropout(self.self_attention(h, h, h, rotary=rotary))
        x = x.expand(len(values), -1, -1)  # before the first memory, the frame is the same for all objects
        attended = self.memory_attention(self.norm2(x), keys, values, rotary=rotary, key_rotary=key_rotary)
        x = x + self.dropout(attended)
        return x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(self.norm3(x)), inplace=True))))


class MemoryAttention(nn.Module):
    """Makes the map of a new frame remember the objects."""

    def __init__(self, width: int, config: TrackerConfig):
        super().__init__()
        attention = config.memory_attention
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(width, config.memory_width, attention, config.dropout)
            for _ in range(attention.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head_dim = width // attention.num_heads

    def forward(self, image: Tensor, memory: Tensor, places: Tensor, num_unplaced: int) -> Tensor:
        """The map as seen with memory.

        Args:
            image: (K or 1, C, h, w).
            memory: (K, S, M) tokens: whole maps of h x w cells, then pieces of object pointers.
            places: (K or 1, S, M) position codes of the tokens, added to keys only.
            num_unplaced: how many of the last tokens are pieces of pointers.

        Returns:
            (K, C, h, w).
        """
        grid = (image.shape[-2], image.shape[-1])
        positions = sine_position_map(*grid, image.shape[1], image.device).to(image.dtype)
        rotary = rotary_table(*grid, self.head_dim, 1.0, image.device)
        num_maps = (memory.shape[1] - num_unplaced) // len(positions[0])
        cosines, sines = (table.repeat(num_maps, 1) for table in rotary)
        key_rotary = F.pad(cosines, (0, 0, 0, num_unplaced), value=1.0), F.pad(sines, (0, 0, 0, num_unplaced))
        x, keys = image.flatten(2).transpose(1, 2) + 0.1 * positions, memory + places
        for layer in self.layers:
            x = layer(x, keys, memory, rotary, key_rotary)
        return self.norm(x).transpose(1, 2).unflatten(2, grid)
