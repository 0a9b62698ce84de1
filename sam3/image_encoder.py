"""The image encoder: a vision transformer with windowed and global attention, then a feature pyramid.

In: normalised pictures (B, 3, H, W). Out: `ImageFeatures`, three maps at 4, 2 and 1 times the patch grid for the
detector. The tracker makes its own from the same trunk. Paper: "Perception Encoder" box of Fig. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sam3.config import ImageEncoderConfig
from sam3.layers import Attention, DropPath, Recomputable, rotary_table


@dataclass(frozen=True)
class ImageFeatures:
    """What is kept of a batch of pictures.

    Attributes:
        pyramid: maps (B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w) for the detector.
    """

    pyramid: tuple[Tensor, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the coarsest map."""
        return self.pyramid[-1].shape[-2], self.pyramid[-1].shape[-1]

    def __getitem__(self, index: int | slice | Tensor) -> ImageFeatures:
        """The features of some pictures of the batch, as a batch."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return ImageFeatures(tuple(level[index] for level in self.pyramid))


class Block(nn.Module):
    """Pre-norm transformer block on a grid of patches; attends within windows unless `is_global`."""

    def __init__(self, config: ImageEncoderConfig, is_global: bool, drop_path: float):
        super().__init__()
        self.window_size = None if is_global else config.window_size
        self.rotary_span = config.window_size
        self.head_dim = config.width // config.num_heads
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """A grid (B, h, w, C) after this block."""
        x = x + self.drop_path(self.attend(self.norm1(x), rotary))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))

    def rotary(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The table for a grid of `side` x `side`. A global block spans a window's range whatever the grid."""
        size, scale = (side, self.rotary_span / side) if self.window_size is None else (self.window_size, 1.0)
        return rotary_table(size, size, self.head_dim, scale, device)

    def attend(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        batch, height, width, _ = x.shape
        size = self.window_size
        if size is None:
            tokens = x.flatten(1, 2)
            return self.attention(tokens, tokens, tokens, rotary=rotary).view_as(x)
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        tokens = x.view(batch, rows, size, columns, size, -1).transpose(2, 3).reshape(-1, size * size, x.shape[-1])
        tokens = self.attention(tokens, tokens, tokens, rotary=rotary)
        x = tokens.view(batch, rows, columns, size, size, -1).transpose(2, 3).reshape(x.shape)
        return x[:, :height, :width]


class PyramidLevel(nn.Module):
    """One map of the pyramid: up- or down-sampling by `scale`, then a 1 x 1 and a 3 x 3 convolution."""

    def __init__(self, scale: float, in_channels: int, channels: int):
        super().__init__()
        steps: list[nn.Module] = []
        if scale == 4.0:
            steps = [
                nn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2),
                nn.GELU(),
                nn.ConvTranspose2d(in_channels // 2, in_channels // 4, 2, 2),
            ]
            in_channels //= 4
        elif scale == 2.0:
            steps = [nn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2)]
            in_channels //= 2
        elif scale == 0.5:
            steps = [nn.MaxPool2d(2)]
        elif scale != 1.0:
            raise ValueError(f"pyramid scale {scale} is unknown; expected 4.0, 2.0, 1.0 or 0.5")
        self.resample = nn.Sequential(*steps)
        self.conv1 = nn.Conv2d(in_channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, then: nn.Conv2d | None = None) -> Tensor:
        """The level of maps x; with `then`, a 1 x 1 convolution that follows, what that makes of the level.

        Both convolutions are done as one, which costs only the channels that are left.
        """
        x = self.conv1(self.resample(x))
        if then is None:
            return self.conv3(x)
        assert self.conv3.bias is not None and then.bias is not None  # both are built with one
        last = then.weight.flatten(1)
        weight = torch.einsum("oc,cihw->oihw", last, self.conv3.weight)
        return F.conv2d(x, weight, last @ self.conv3.bias + then.bias, padding=1)


class ImageEncoder(Recomputable):
    """Vision transformer and its two feature pyramids.

    Paper: the frozen-by-default backbone shared by detector and tracker (Fig. 2; appendix C.1).

    Args:
        config: sizes.
        channels: channels of the pyramid, the detector's width.
    """

    def __init__(self, config: ImageEncoderConfig, channels: int):
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.position_embed = nn.Parameter(torch.zeros(1, config.position_grid**2, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        rates = torch.linspace(0, config.drop_path, config.num_layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(config, layer in config.global_layers, rates[layer]) for layer in range(config.num_layers)
        )
        self.pyramid = nn.ModuleList(PyramidLevel(s, config.width, channels) for s in config.pyramid_scales)
        self.tracker_pyramid = (
            nn.ModuleList(PyramidLevel(s, config.width, channels) for s in config.pyramid_scales)
            if config.has_tracker_pyramid
            else None
        )

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Feature maps of a batch of pictures.

        Args:
            pixel_values: (B, 3, H, W) in -1..1; H = W, a multiple of the patch size (not necessarily the config's).

        Raises:
            ValueError: the size is no multiple of the patch size.
        """
        return self.features(self.trunk(pixel_values))

    def features(self, trunk: Tensor) -> ImageFeatures:
        """The detector's maps from those of the trunk.

        Of four maps that released weights can make the smallest is used by nothing, and not made.
        """
        return ImageFeatures(tuple(level(trunk) for level in list(self.pyramid)[:3]))

    def trunk(self, pixel_values: Tensor) -> Tensor:
        """The vision transformer alone: (B, C, h, w), its own width. Same arguments and errors as `forward`."""
        patch, shape = self.config.patch_size, tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] % patch or not shape[2]:
            raise ValueError(
                f"received pixel values of shape {shape}; expected (B, 3, S, S) with S a multiple of the patch size "
                f"{patch}, for instance {self.config.image_size}; resize the picture"
            )
        x = self.patch_embed(pixel_values).permute(0, 2, 3, 1)  # (B, h, w, C)
        x = self.norm(x + self.positions(x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = self.run(block, x, block.rotary(x.shape[1], x.device))  # type: ignore[operator]
        return x.permute(0, 3, 1, 2)  # (B, C, h, w)

    def positions(self, height: int, width: int) -> Tensor:
        """The learned position grid, repeated (not interpolated) over a larger grid: (1, h, w, C)."""
        side = self.config.position_grid
        grid = self.position_embed.view(1, side, side, -1)
        if (height, width) == (side, side):
            return grid
        return grid.repeat(1, -(-height // side), -(-width // side), 1)[:, :height, :width]


def to_pixel_values(picture: NDArray[np.uint8], size: int) -> Tensor:
    """The model's input: resized to (3, size, size) without keeping the aspect ratio, -1..1.

    Bilinear with antialiasing, rounded to whole grey levels, as the released weights were used.
    """
    values = torch.tensor(picture).permute(2, 0, 1)[None].float()
    if values.shape[-2:] != (size, size):
        values = F.interpolate(values, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        values = values.round().clamp(0, 255)
    return values[0] / 127.5 - 1
