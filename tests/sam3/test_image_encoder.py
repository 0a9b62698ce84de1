"""The image encoder: windows and position grid that do not fit the picture, other sizes, refusals, tracker pyramid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sam3.config import ImageEncoderConfig
from sam3.image_encoder import Block, ImageEncoder, PyramidLevel
from sam3.layers import rotary_table
from sam3.model import Sam3


@pytest.mark.parametrize("grid", [1, 3, 4, 5, 8, 12])
@torch.no_grad()
def test_input_sizes_that_are_multiples_of_the_patch(ready: Sam3, grid: int) -> None:
    """Window and position grid are 4 here: smaller, equal, a multiple and no multiple of both."""
    features = ready.image_encoder(torch.rand(2, 3, 14 * grid, 14 * grid) * 2 - 1)
    assert features.grid == (grid, grid)
    assert [tuple(level.shape) for level in features.pyramid] == [(2, 32, n * grid, n * grid) for n in (4, 2, 1)]
    assert all(level.isfinite().all() and level.std() > 0.01 for level in features.pyramid)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_touch(ready: Sam3) -> None:
    pixels = torch.rand(3, 3, 70, 70) * 2 - 1
    batch = ready.image_encoder(pixels)
    for index in range(3):
        alone = ready.image_encoder(pixels[index : index + 1])
        for level, expected in zip(batch[index].pyramid, alone.pyramid, strict=True):
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


def one_window(block: Block, x: Tensor) -> Tensor:
    """Attention within one window (s, s, C), whose cells beyond the grid are zeros."""
    size = x.shape[0]
    tokens = x.flatten(0, 1)[None]
    rotary = rotary_table(size, size, block.head_dim, 1.0, x.device)
    return block.attention(tokens, tokens, tokens, rotary=rotary)[0].view(size, size, -1)


@torch.no_grad()
def test_windows_at_the_edge_are_filled_with_zeros(ready: Sam3) -> None:
    block = ready.image_encoder.blocks[0]
    assert isinstance(block, Block) and block.window_size == 4
    x = torch.randn(2, 6, 7, 48)
    received = block.attend(x, block.rotary(7, x.device))
    assert received.shape == x.shape
    for index, picture in enumerate(x):
        padded = torch.zeros(8, 8, 48)
        padded[:6, :7] = picture
        expected = torch.zeros(8, 8, 48)
        for top in (0, 4):
            for left in (0, 4):
                window = slice(top, top + 4), slice(left, left + 4)
                expected[window] = one_window(block, padded[window])
        torch.testing.assert_close(received[index], expected[:6, :7], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_global_blocks_look_beyond_their_window(ready: Sam3) -> None:
    x = torch.randn(1, 8, 8, 48)
    other = x.clone()
    other[:, 1, 2] = 3 * torch.randn(48)
    for index, block in enumerate(ready.image_encoder.blocks):
        assert isinstance(block, Block)
        rotary = block.rotary(8, x.device)
        is_changed = (block(x, rotary) - block(other, rotary)).abs().amax(-1)[0] > 1e-7
        assert is_changed[:4, :4].all()
        assert bool(is_changed[4:].any()) == bool(is_changed[:, 4:].any()) == (index in (1, 3))


@torch.no_grad()
def test_position_grid_is_repeated(working_model: Callable[..., Sam3]) -> None:
    encoder = working_model("ragged").image_encoder  # a grid of 7 x 7 over positions of 3 x 3
    grid = encoder.positions(7, 7)
    assert grid.shape == (1, 7, 7, 48)
    own = encoder.position_embed.view(3, 3, 48)
    for row in range(7):
        for column in range(7):
            assert torch.equal(grid[0, row, column], own[row % 3, column % 3])
    assert torch.equal(encoder.positions(3, 3)[0], own)
    assert torch.equal(encoder.positions(2, 2)[0], own[:2, :2])


@torch.no_grad()
def test_features_of_some_pictures(ready: Sam3) -> None:
    features = ready.image_encoder(torch.rand(4, 3, 28, 28) * 2 - 1)
    for chosen, rows in (
        (2, [2]),
        (-1, [3]),
        (-4, [0]),
        (slice(1, 3), [1, 2]),
        (torch.tensor([3, 0, 3]), [3, 0, 3]),
    ):
        for part, level in zip(features[chosen].pyramid, features.pyramid, strict=True):
            assert torch.equal(part, level[rows])


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 112, 98), (1, 3, 100, 100), (3, 112, 112), (1, 1, 112, 112), (1, 3, 0, 0), (112,), (1, 112, 112, 3)],
)
def test_other_shapes_are_refused(ready: Sam3, shape: tuple[int, ...]) -> None:
    expected = r"expected \(B, 3, S, S\) with S a multiple of the patch size 14, for instance 112; resize"
    with pytest.raises(ValueError, match=expected) as raised:
        ready.image_encoder(torch.zeros(shape))
    assert str(shape) in str(raised.value)


def test_sizes_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match="pyramid scale 3.0 is unknown; expected 4.0, 2.0, 1.0 or 0.5"):
        PyramidLevel(3.0, 8, 4)
    with pytest.raises(ValueError, match="width 30 is not a multiple of num_heads 4"):
        ImageEncoder(ImageEncoderConfig(width=30, num_heads=4, num_layers=1), 4)


@torch.no_grad()
def test_pyramid_levels_are_two_and_four_times_the_grid() -> None:
    """A level sees each cell where it is: one bright cell stays at its place, spread by the last 3 x 3 filter alone."""
    for scale in (4.0, 2.0, 1.0, 0.5):
        level = PyramidLevel(scale, 8, 4)
        x = torch.zeros(1, 8, 6, 6)
        bright = x.clone()
        bright[..., 2, 3] = 5.0
        changed = (level(bright) - level(x)).abs().amax(1)[0] > 1e-6
        rows, columns = changed.nonzero().unbind(1)
        low = torch.tensor([rows.min(), columns.min()])
        high = torch.tensor([rows.max(), columns.max()]) + 1
        place = torch.tensor([2.0, 3.0]) * scale
        assert (low == place.floor() - 1).all() and (high == (place + scale).ceil() + 1).all()


def test_layers_are_dropped_more_often_the_deeper_they_lie(working_model: Callable[..., Sam3]) -> None:
    encoder = working_model(image={"drop_path": 0.6}).image_encoder
    rates = [block.drop_path.rate for block in encoder.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6])
    pixels = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        kept = encoder(pixels).pyramid[2]
        assert torch.equal(kept, encoder(pixels).pyramid[2])
        encoder.train()
        torch.manual_seed(0)
        outcomes = [encoder(pixels).pyramid[2] for _ in range(6)]
    assert any(not torch.equal(outcomes[0], outcome) for outcome in outcomes[1:])


def test_other_sizes_scale_the_positions_of_global_blocks(ready: Sam3) -> None:
    """A global block spans one window's range of positions whatever the grid, as in the released model."""
    block = ready.image_encoder.blocks[1]
    assert isinstance(block, Block) and block.window_size is None
    for grid in (3, 6, 8):
        x = torch.randn(1, grid, grid, 48)
        tokens = x.flatten(1, 2)
        rotary = rotary_table(grid, grid, 16, 4 / grid, x.device)
        with torch.no_grad():
            expected = block.attention(tokens, tokens, tokens, rotary=rotary).view_as(x)
            torch.testing.assert_close(block.attend(x, block.rotary(grid, x.device)), expected)
