"""The prompt encoder: clicks, boxes and rough masks of single objects, to tokens and a map.

In: `Hints` of K objects. Out: one token per point, and a map that is added to the picture's. Paper: "prompt encoder" of
the tracker, which is that of SAM 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3.layers import LayerNorm2d

PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of points
MASK_STRIDE = 4  # mask logits have this many cells per cell of the coarsest map, along each side


@dataclass(frozen=True)
class Hints:
    """What is known of K objects in one frame, N points each.

    Attributes:
        points_xy: (K, N, 2), 0..1 over the picture. A box is two points, put before the clicks.
        labels: (K, N) 1 positive, 0 negative, 2 and 3 the first and last corner of a box, -1 padding. Padding is seen
            by the decoder: objects with equally many points can be batched without any effect on each other.
        mask_logits: (K, 1, H, W) a rough mask, best at 4 times the grid; None when there is none.
    """

    points_xy: Tensor
    labels: Tensor
    mask_logits: Tensor | None = None

    def __post_init__(self) -> None:
        points, labels = tuple(self.points_xy.shape), tuple(self.labels.shape)
        rough = None if self.mask_logits is None else tuple(self.mask_logits.shape)
        if len(labels) != 2 or points != (*labels, 2) or (rough is not None and rough[:2] != (labels[0], 1)):
            raise ValueError(
                f"received points {points}, labels {labels} and mask logits {rough}; expected (K, N, 2), (K, N) and, "
                "where there are masks, (K, 1, H, W)"
            )

    @classmethod
    def none(cls, count: int, device: torch.device, mask_logits: Tensor | None = None) -> Hints:
        """No point for any of the objects, said with one padding point each, as in tracking."""
        labels = torch.full((count, 1), PADDING, device=device)
        return cls(torch.zeros(count, 1, 2, device=device), labels, mask_logits)

    def __len__(self) -> int:
        return len(self.labels)


class PromptEncoder(nn.Module):
    """Sums what a point means and where it lies; folds a mask down to the grid.

    Args:
        width: channels of tokens and map.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, width // 2))
        self.label_embeds = nn.ModuleList(nn.Embedding(1, width) for _ in (NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT))
        self.padding_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.mask_layers = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, width, 1),
        )

    def forward(self, hints: Hints, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
        """Tokens and map of K objects.

        Args:
            hints: of the objects.
            grid: rows and columns of the coarsest map.
            side: pixels along the model's input.

        Returns:
            (K, N + 1, C) tokens, the last one padding, or (K, 0, C) without any point; and the map (K, C, h, w), or
            (1, C, 1, 1) without a mask.
        """
        dtype = self.no_mask_embed.weight.dtype
        if hints.mask_logits is None:
            return self._tokens(hints, side), self.no_mask_embed.weight[..., None, None]
        size = (MASK_STRIDE * grid[0], MASK_STRIDE * grid[1])
        mask = hints.mask_logits.float()
        if mask.shape[-2:] != size:
            mask = F.interpolate(mask, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self._tokens(hints, side), self.mask_layers(mask.to(dtype))

    def _tokens(self, hints: Hints, side: int) -> Tensor:
        labelled = [embed.get_parameter("weight") for embed in self.label_embeds]
        embeds = torch.cat([self.padding_embed.weight, *labelled])
        if not hints.labels.shape[1]:
            return embeds.new_zeros(len(hints), 0, embeds.shape[1])
        labels = F.pad(hints.labels, (0, 1), value=PADDING)
        points = F.pad(hints.points_xy.float() + 0.5 / side, (0, 0, 0, 1))  # centres of pixels
        place = self.place(points).to(embeds.dtype)
        return torch.where(labels[..., None] == PADDING, 0.0, place) + embeds[labels + 1]

    def place(self, points_xy: Tensor) -> Tensor:
        """Random Fourier code (..., C) of points (..., 2) in 0..1, in float32."""
        angles = 2 * math.pi * ((2 * points_xy.float() - 1) @ self.frequencies.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid_code(self, grid: tuple[int, int]) -> Tensor:
        """The same code at the centre of every cell: (1, hw, C)."""
        device = self.frequencies.device
        rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return self.place(torch.stack([x, y], dim=-1)).flatten(0, 1)[None].to(self.no_mask_embed.weight.dtype)
