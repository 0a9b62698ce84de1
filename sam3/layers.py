"""The few layers every part shares: attention, MLP, norm of maps, sine and rotary position encodings.

Attention is four plain `nn.Linear`s around `scaled_dot_product_attention`, so that low-rank adapters put on any of
them take effect in training and in evaluation alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head attention, batch first.

    Args:
        width: channels of queries and output.
        num_heads: heads; must divide `inner_width`.
        dropout: on attention weights, in training.
        inner_width: channels of all heads together; `width` when left out.
        memory_width: channels of keys and values; `width` when left out.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        inner_width: int | None = None,
        memory_width: int | None = None,
    ):
        super().__init__()
        inner, memory = inner_width or width, memory_width or width
        if inner % num_heads:
            raise ValueError(f"attention width {inner} is not a multiple of num_heads {num_heads}; change the config")
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(memory, inner)
        self.v = nn.Linear(memory, inner)
        self.out = nn.Linear(inner, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        is_causal: bool = False,
        rotary: tuple[Tensor, Tensor] | None = None,
        key_rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attended values.

        Args:
            query: (B, L, C). key, value: (B, S, C).
            mask: boolean, True = may be looked at, or float added to the logits; broadcastable to (B, heads, L, S).
            rotary: cosines and sines of `rotary_table`, for queries and keys.
            key_rotary: others for the keys.

        Returns:
            (B, L, C).
        """
        q = self.q(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, c)
        k = self.k(key).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        v = self.v(value).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *(key_rotary or rotary))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
        return self.out(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear layers with ReLU between them; dropout after each ReLU.

    Args:
        widths: channels before, between and after the layers.
    """

    def __init__(self, *widths: int, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(F.relu(layer(x), inplace=True))
        return self.layers[-1](x)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every cell of a map (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Drops a residual branch for whole samples, in training only (stochastic depth)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Recomputable(nn.Module):
    """A part whose layers can be computed a second time in the backward pass, with the same dropout, so that what went
    on in them need not be kept. Gradients are the same; a step takes longer, in far less memory.
    """

    recomputes = False

    def run(self, layer: Callable[..., Tensor], *args: Any) -> Tensor:
        """layer(*args)."""
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


@lru_cache(maxsize=32)
def rotary_table(
    height: int, width: int, head_dim: int, scale: float, device: torch.device, theta: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines that rotate adjacent channel pairs by column (first half) and row (second half).

    Returns:
        Two float32 tensors (height * width, head_dim / 2), cells in row-major order.

    Raises:
        ValueError: `head_dim` is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"received {head_dim} channels per head; rotary codes need a multiple of 4: change width or num_heads"
        )
    with torch.inference_mode(False), torch.no_grad():  # a cached tensor must serve training too
        frequencies = theta ** (-torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim)
        rows, columns = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device) * scale,
            torch.arange(width, dtype=torch.float32, device=device) * scale,
            indexing="ij",
        )
        angles = torch.cat([columns.reshape(-1, 1) * frequencies, rows.reshape(-1, 1) * frequencies], dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates channel pairs (2i, 2i+1) of `x` (..., L, c) in float32; returns the dtype of `x`."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler knows no complex numbers; without it they are ten times as fast
        first, second = pairs.unbind(-1)
        turned = torch.stack([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
        return turned.flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(pairs)
    return torch.view_as_real(pairs * torch.complex(cosines, sines)).flatten(-2).to(x.dtype)


def sine_encode(values: Tensor, channels: int) -> Tensor:
    """Sine encoding of scalars: sin and cos interleaved, temperature 10 000.

    Args:
        values: (...) any shape, 0..1; one full turn of the fastest channel is 1.
        channels: length of the code, even.

    Returns:
        (..., channels).
    """
    index = torch.arange(channels, dtype=torch.float32, device=values.device)
    period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angles = values.float()[..., None] * (2 * math.pi) / period
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


@lru_cache(maxsize=32)
def sine_position_map(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Position code of every cell of a feature map: half the channels for the row, half for the column.

    Returns:
        (1, height * width, channels) float32, cells in row-major order.
    """
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.arange(1, height + 1, dtype=torch.float32, device=device) / (height + 1e-6)
        columns = torch.arange(1, width + 1, dtype=torch.float32, device=device) / (width + 1e-6)
        row_code = sine_encode(rows, channels // 2)[:, None].expand(-1, width, -1)
        column_code = sine_encode(columns, channels // 2)[None].expand(height, -1, -1)
        return torch.cat([row_code, column_code], dim=-1).reshape(1, height * width, channels)
