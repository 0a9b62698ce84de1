"""How memory attention starts, and starts again once the rest of a tracker is trained: cells look for cells that look
the same.

Which directions of the tracker's map tell objects apart is computed from rendered clips (a linear discriminant
analysis: far between objects, near within one). Memory then begins with these and with what the mask said, and memory
attention brings the mask to wherever the same looks are seen. Costs no parameter. In a trained tracker what compares is
replaced; what else memory has learnt is kept, some of it turned down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import linalg
from torch import Tensor, nn

from sam3.tracker.memory import MemoryAttentionLayer
from sam3.tracker.tracker import Tracker
from workbench.pretrain.clip_pool import EncodedClip
from workbench.pretrain.initialise import look_at_neighbours

PLACE_STRENGTH = 0.5  # how much the own place counts, beside looks
_QUIET = 0.1  # what is not part of the match starts with so much of its usual strength
_OWNED = 0.6  # share of a cell that an object must cover


@torch.no_grad()
def telling_directions(level: nn.Module, clips: Sequence[EncodedClip], count: int) -> tuple[Tensor, Tensor]:
    """Directions (count, C) of a map's normed cells in which objects differ most from each other, and the mean (C,).

    Projected on them, cells of one object differ by about 1, the first directions telling most.
    """
    groups: list[np.ndarray] = []
    for maps, clip in zip(_maps(level, clips), clips, strict=True):
        cells = F.layer_norm(maps.permute(0, 2, 3, 1), (maps.shape[1],)).numpy()
        instances, grid = torch.from_numpy(clip.instance_maps), (maps.shape[-2], maps.shape[-1])
        for number in np.unique(clip.instance_maps).tolist():
            share = F.adaptive_avg_pool2d((instances == number)[:, None].float(), grid).squeeze(1)
            owned = cells[share.numpy() >= _OWNED]
            if len(owned) >= 2:
                groups.append(owned)
    means = np.stack([group.mean(0) for group in groups])
    within = np.mean([np.cov(group.T, bias=True) for group in groups], axis=0)
    between = np.cov(means.T)
    values, vectors = linalg.eigh(between, within + 1e-3 * np.trace(within) / len(within) * np.eye(len(within)))
    directions = vectors[:, np.argsort(values)[::-1][:count]].T
    return torch.from_numpy(directions).float(), torch.from_numpy(means.mean(0)).float()


@torch.no_grad()
def start_matching(tracker: Tracker, level: nn.Module, clips: Sequence[EncodedClip]) -> None:
    """Half of a memory map becomes looks, the other half what the mask said; attention compares the first, and brings
    the second."""
    encoder, width = tracker.memory_encoder, tracker.config.memory_width
    half = width // 2
    directions, mean = telling_directions(level, clips, half)
    spread = torch.cat(list(_maps(level, clips))).std(1).mean()
    directions, mean, spread = (value.to(tracker.no_memory_embed.device) for value in (directions, mean, spread))
    image, mask, out = encoder.image_project, encoder.mask_project, encoder.out
    for convolution in (image, mask, out):
        assert convolution.bias is not None  # they are built with one
        convolution.bias.zero_()
    assert image.bias is not None
    image.weight.zero_()
    image.weight[:half, :, 0, 0] = directions / spread
    image.bias[:half] = -directions @ mean
    mask.weight[:half] = 0
    out.weight[:half] = 0
    out.weight[:half, :half, 0, 0].fill_diagonal_(1.0)
    out.weight[half:, :half] = 0
    steady = _steady_channels(tracker.memory_attention.head_dim)[:half]
    for layer in tracker.memory_attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        attention = layer.memory_attention
        attention.q.bias.zero_()
        attention.k.bias.zero_()
        look_at_neighbours(attention, ((0, 0),), 1.0)
        attention.q.bias.mul_(PLACE_STRENGTH)
        for weight in (attention.q.weight, attention.k.weight, attention.v.weight[:, :half]):
            weight.mul_(_QUIET)
        for weight in (layer.self_attention.out.weight, layer.fc2.weight):
            weight.mul_(_QUIET)
        attention.q.weight[steady] = directions
        attention.q.bias[steady] = -directions @ mean
        attention.k.weight[steady] = 0
        attention.k.weight[steady, torch.arange(half)] = 1.0


def _maps(level: nn.Module, clips: Sequence[EncodedClip]) -> Iterator[Tensor]:
    """The level's maps (F, C, h, w) of each clip, on the CPU."""
    device = next((parameter.device for parameter in level.parameters()), torch.device("cpu"))
    for clip in clips:
        yield level(torch.from_numpy(clip.features).float().to(device)).cpu()


def _steady_channels(head_dim: int) -> Tensor:
    """The channels that rotary codes turn least, steadiest first."""
    pairs = [pair + axis * (head_dim // 4) for pair in reversed(range(head_dim // 4)) for axis in (0, 1)]
    return torch.tensor([2 * pair + part for pair in pairs for part in (0, 1)])
