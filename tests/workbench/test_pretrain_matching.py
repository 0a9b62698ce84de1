"""How a tracker begins to remember: by looks, wherever they are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sam3.config import TrackerConfig, TransformerConfig
from sam3.layers import rotary_table, rotate
from sam3.tracker.memory import MEMORY_MASK_STRIDE
from sam3.tracker.tracker import FrameFeatures, Tracker
from workbench.pretrain.clip_pool import EncodedClip
from workbench.pretrain.matching import start_matching, telling_directions

WIDTH, GRID, PATCH = 24, 8, 14


@pytest.fixture(scope="module")
def clips() -> list[EncodedClip]:
    """Six clips of an object that jumps: two channels tell who it is, the others are loud and tell nothing."""
    rng, found = np.random.default_rng(0), []
    for _ in range(6):
        features = rng.normal(0, 2, (4, WIDTH, GRID, GRID))
        features[:, :2] = rng.normal(0, 0.1, (4, 2, GRID, GRID))
        look = rng.choice([-3, 3], 2) * rng.uniform(0.8, 1.2, 2)
        maps = np.zeros((4, GRID * PATCH, GRID * PATCH), np.uint8)
        for frame in range(4):
            row, column = rng.integers(0, GRID - 1, 2)
            features[frame, :2, row : row + 2, column : column + 2] += look[:, None, None]
            maps[frame, row * PATCH : (row + 2) * PATCH, column * PATCH : (column + 2) * PATCH] = 1
        found.append(EncodedClip(features.astype(np.float16), maps))
    return found


def test_directions_tell_objects_apart(clips: list[EncodedClip]) -> None:
    directions, mean = telling_directions(nn.Identity(), clips, 2)
    assert directions.shape == (2, WIDTH) and mean.shape == (WIDTH,)
    share = directions[:, :2].norm(dim=1) / directions.norm(dim=1)
    assert (share > 0.9).all()


@torch.no_grad()
def test_an_untrained_tracker_looks_where_the_looks_were(clips: list[EncodedClip]) -> None:
    torch.manual_seed(0)
    part = TransformerConfig(1, 1, 24)
    tracker = Tracker(TrackerConfig(memory_width=12, memory_attention=part, mask_decoder=part), WIDTH, PATCH).eval()
    start_matching(tracker, nn.Identity(), clips)
    layer, rotary = tracker.memory_attention.layers[0], rotary_table(GRID, GRID, WIDTH, 1.0, torch.device("cpu"))
    attention = layer.memory_attention
    shares = []
    for clip in clips:
        coarse, masks = torch.from_numpy(clip.features).float(), torch.from_numpy(clip.instance_maps == 1)
        frames = FrameFeatures(coarse, coarse, coarse)
        large = masks[:1, ::1].float().mul(2).sub(1).mul(10)
        assert large.shape[-1] <= MEMORY_MASK_STRIDE * GRID
        memory = tracker.encode_memory(frames[0], large, torch.tensor([True]), is_binary=True).float()
        keys = memory.flatten(2).transpose(1, 2)
        cells = layer.norm2(frames[3].coarse.flatten(2).transpose(1, 2))
        q, k = rotate(attention.q(cells), *rotary), rotate(attention.k(keys), *rotary)
        weights = (q @ k.transpose(1, 2) / WIDTH**0.5).softmax(-1)[0]
        inside = [masks[t, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten() for t in (0, 3)]
        share = weights[:, inside[0]].sum(1)  # of each cell's attention that falls on where the object was
        shares.append((float(share[inside[1]].mean()), float(share[~inside[1]].mean())))
    there, elsewhere = np.mean(shares, axis=0)
    assert there > 0.5 and elsewhere < 0.15
