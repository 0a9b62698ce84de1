"""How a small SAM 3 starts before it is trained from nothing: priors that cost no parameter and change no key.

A transformer knows nothing of pictures at first; on a small budget the start decides how far it gets. Used by
`workbench pretrain` only; loaded weights replace all of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from sam3.config import Sam3Config
from sam3.image_encoder import Block
from sam3.layers import MLP, Attention
from sam3.model import Sam3

_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (-1, -1), (1, -1), (-1, 1))


def new_model(config: Sam3Config, patches: np.ndarray, seed: int) -> Sam3:
    """A freshly initialised model.

    Args:
        config: sizes.
        patches: (N, patch, patch, 3) uint8 picture patches, N at least the number of values in a patch.
        seed: of all random numbers.
    """
    torch.manual_seed(seed)
    model = Sam3(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "text_encoder" not in name:
            nn.init.xavier_uniform_(module.weight)
    text, decoder = model.detector.text_encoder, model.detector.decoder
    nn.init.normal_(text.token_embed.weight, std=0.05)
    nn.init.normal_(text.position_embed, std=0.01)
    nn.init.normal_(decoder.query_embed.weight)
    last = decoder.box_head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    decoder.anchors.weight.data.copy_(_anchor_grid(config.detector.num_queries))
    for mlp in (decoder.bias_x, decoder.bias_y):
        _prefer_inside(mlp)
    nn.init.normal_(model.image_encoder.position_embed, std=0.02)
    model.image_encoder.patch_embed.weight.data.copy_(whitening_filters(patches, config.image_encoder.width))
    for index, block in enumerate(model.image_encoder.blocks):
        assert isinstance(block, Block)
        spacing = 1.0
        if block.window_size is None:
            spacing = config.image_encoder.window_size / config.image_encoder.grid_size
        look_at_neighbours(block.attention, _NEIGHBOURS[index % 2], spacing)
    return model


def whitening_filters(patches: np.ndarray, count: int) -> Tensor:
    """The leading `count` whitened principal components of picture patches, as filters (count, 3, patch, patch)."""
    values = patches.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(0)
    variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
    order = np.argsort(variances)[::-1][:count]
    filters = directions[:, order].T / np.sqrt(variances[order] + 1e-2)[:, None]
    if len(filters) < count:
        raise ValueError(f"a patch has {flat.shape[1]} values, too few for {count} filters; use a smaller width")
    return torch.from_numpy(filters.reshape(count, *values.shape[1:]).astype(np.float32))


def _anchor_grid(count: int) -> Tensor:
    """Logits (count, 4) of boxes a fifth of the picture wide, on a regular grid."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    centres = torch.tensor([((i % columns + 0.5) / columns, (i // columns + 0.5) / rows) for i in range(count)])
    return torch.cat([centres, torch.full((count, 2), 0.2)], dim=1).logit()


@torch.no_grad()
def _prefer_inside(mlp: MLP) -> None:
    """Makes a query look inside its box: two hidden units measure the distance outside, each head dislikes it in its
    own measure."""
    first, last = mlp.layers[0], mlp.layers[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    first.weight[0], first.weight[1] = torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 1.0])
    first.bias[:2] = 0
    heads = last.weight.shape[0]
    dislike = torch.linspace(-14.0, -5.0, max(heads - 1, 1))
    last.weight[: heads - 1, :2] = dislike[: heads - 1, None]
    last.weight[heads - 1, :2] = 0  # one head stays free to look anywhere


@torch.no_grad()
def look_at_neighbours(attention: Attention, offsets: tuple[tuple[int, int], ...], spacing: float) -> None:
    """Starts attention heads like the taps of a convolution: head i favours the cell at `offsets[i]` (x, y).

    The biases of query and key are rotated with their positions, so equal biases favour the own cell, and a query bias
    turned by an offset favours the cell at that offset.
    """
    head_dim = attention.q.out_features // attention.num_heads
    quarter = head_dim // 4
    frequency = 10000.0 ** (-torch.arange(quarter) * 4 / head_dim)
    strength = torch.zeros(quarter)
    strength[:2] = torch.tensor([1.0, 1.4])[: min(2, quarter)] * 1.2 * head_dim**0.25
    for head, offset in enumerate(offsets[: attention.num_heads]):
        q, k = (
            attention.q.bias.view(attention.num_heads, -1, 2)[head],
            attention.k.bias.view(attention.num_heads, -1, 2)[head],
        )
        for axis in (0, 1):
            pairs = slice(axis * quarter, (axis + 1) * quarter)
            angle = frequency * offset[axis] * spacing
            q[pairs] = torch.stack([strength * angle.cos(), strength * angle.sin()], dim=-1)
            k[pairs, 0] = strength
