"""Rendered clips as a frozen image encoder sees them: made when first asked for, kept on disk, always the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam3.image_encoder import ImageEncoder
from workbench.domains.clips import render_clip

_STREAM = 31  # apart from `render_clips` of the same seed, which others measure on


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """One clip.

    Attributes:
        features: (F, C, h, w) float16, the image encoder's trunk, before its pyramids.
        instance_maps: (F, H, W) uint8, 0 for the ground.
    """

    features: np.ndarray
    instance_maps: np.ndarray

    def __getitem__(self, frames: np.ndarray) -> EncodedClip:
        """Some of the frames."""
        return EncodedClip(self.features[frames], self.instance_maps[frames])


class ClipPool:
    """Clips by number; clip i depends on (seed, i) and the trunk's weights only.

    The folder holds `features.npy`, `instance_maps.npy` (both memory maps, filled in as needed) and `is_made.npy`:
    about 115 KB for every frame of 224 x 224 pixels of a trunk of 128 channels. A pool found there is gone on with.

    Args:
        folder: where the pool is kept.
        encoder: its trunk is used.
        size: number of clips.
        num_frames: of every clip.
        seed: of the clips.

    Raises:
        ValueError: the folder holds a pool of other sizes.
    """

    def __init__(self, folder: Path, encoder: ImageEncoder, *, size: int, num_frames: int, seed: int):
        self.encoder, self.size, self.num_frames, self.seed = encoder, size, num_frames, seed
        config = encoder.config
        grid, side = config.grid_size, config.image_size
        folder.mkdir(parents=True, exist_ok=True)
        self._features = _open(folder / "features.npy", (size, num_frames, config.width, grid, grid), np.float16)
        self._instance_maps = _open(folder / "instance_maps.npy", (size, num_frames, side, side), np.uint8)
        self._is_made = _open(folder / "is_made.npy", (size,), np.bool_)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> EncodedClip:
        if not self._is_made[index]:
            clip = render_clip(
                np.random.default_rng([self.seed, _STREAM, index]),
                num_frames=self.num_frames,
                size=self.encoder.config.image_size,
            )
            self._features[index] = encode_frames(self.encoder, clip.frames).half().cpu().numpy()
            self._instance_maps[index] = clip.instance_maps
            self._is_made[index] = True
        return EncodedClip(self._features[index], self._instance_maps[index])

    def fill(self) -> None:
        """Makes all clips that are still missing."""
        for index in tqdm(np.flatnonzero(~self._is_made), desc="clips", mininterval=5):
            self[int(index)]


@torch.no_grad()
def encode_frames(encoder: ImageEncoder, frames: np.ndarray) -> Tensor:
    """The trunk's maps (F, C, h, w) of frames (F, H, W, 3) uint8 of the model's input size."""
    device = encoder.patch_embed.weight.device
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return encoder.trunk(pixels)


def _open(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
    if not path.exists():
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; choose another folder, or "
            "delete the pool to make it anew"
        )
    return array
