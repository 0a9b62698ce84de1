"""The shared layers: attention against a written-out softmax, position codes against formulas, stochastic depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sam3.layers import MLP, Attention, DropPath, rotary_table, rotate, sine_encode, sine_position_map

CPU = torch.device("cpu")


def written_out(attention: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """One head after the other; `bias` (B, heads, L, S) is added to the logits."""
    q, k, v = attention.q(query), attention.k(key), attention.v(value)
    width = q.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width) + bias[:, head]
        heads.append(logits.softmax(-1) @ v[..., part])
    return attention.out(torch.cat(heads, dim=-1))


def test_attention_with_every_kind_of_mask() -> None:
    attention = Attention(12, 3)
    query, key, value = torch.randn(2, 4, 12), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    none = torch.zeros(2, 3, 4, 5)
    torch.testing.assert_close(attention(query, key, value), written_out(attention, query, key, value, none))
    allowed = torch.tensor([[True, True, False, True, False], [True] * 5])[:, None, None]
    closed = none.masked_fill(~allowed, -math.inf)
    received = attention(query, key, value, mask=allowed)
    torch.testing.assert_close(received, written_out(attention, query, key, value, closed))
    bias = torch.randn(2, 3, 4, 5)
    received = attention(query, key, value, mask=bias)
    torch.testing.assert_close(received, written_out(attention, query, key, value, bias))
    future = torch.full((5, 5), -math.inf).triu(1).expand(2, 3, 5, 5)
    received = attention(key, key, key, is_causal=True)
    torch.testing.assert_close(received, written_out(attention, key, key, key, future))


def test_attention_drops_weights_in_training_only() -> None:
    attention, x = Attention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not torch.equal(attention.train()(x, x, x), attention(x, x, x))
    attention.eval()
    assert torch.equal(attention(x, x, x), attention(x, x, x))


def test_attention_refuses_a_width_that_the_heads_cannot_share() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of num_heads 4; change the config"):
        Attention(10, 4)


def test_mlp() -> None:
    mlp, x = MLP(4, 6, 5, 3), torch.randn(2, 4)
    first, second, last = mlp.layers
    expected = last(second(first(x).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(mlp(x), expected)
    assert (MLP(4, 3)(torch.randn(50, 4)) < 0).any(), "no ReLU behind the last layer"
    dropping = MLP(4, 64, 3, dropout=0.5)
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), dropping(x))


def test_rotary_products_depend_on_the_offset_alone() -> None:
    height, width, channels = 4, 6, 16
    table = rotary_table(height, width, channels, 0.7, CPU)
    q, k = torch.randn(channels), torch.randn(channels)
    products = rotate(q.expand(height * width, -1), *table) @ rotate(k.expand(height * width, -1), *table).T
    products = products.view(height, width, height, width)
    by_offset: dict[tuple[int, int], list[float]] = {}
    for y, x, v, u in np.ndindex(height, width, height, width):
        by_offset.setdefault((v - y, u - x), []).append(products[y, x, v, u].item())
    assert max(max(values) - min(values) for values in by_offset.values()) < 1e-4
    means = [float(np.mean(values)) for values in by_offset.values()]
    assert len({round(mean, 3) for mean in means}) > 0.9 * len(means), "different offsets give different products"


def test_rotary_turns_the_first_half_by_column_and_the_second_by_row() -> None:
    height, width, channels = 3, 5, 8
    cosines, sines = (t.view(height, width, channels // 2) for t in rotary_table(height, width, channels, 1.0, CPU))
    assert (cosines[:, :, :2] == cosines[:1, :, :2]).all() and (sines[:, :, 2:] == sines[:, :1, 2:]).all()
    for row, column in np.ndindex(height, width):
        for j in range(2):
            frequency = 10000 ** (-4 * j / channels)
            assert sines[row, column, j].item() == pytest.approx(math.sin(column * frequency), abs=1e-6)
            assert cosines[row, column, 2 + j].item() == pytest.approx(math.cos(row * frequency), abs=1e-6)
    turned = rotate(torch.eye(channels)[0], cosines[0, 1], sines[0, 1])  # one column on: channel 0 towards channel 1
    assert turned.tolist() == pytest.approx([math.cos(1), math.sin(1), 0, 0, 0, 0, 0, 0])


def test_rotary_scale_stretches_the_positions() -> None:
    coarse = rotary_table(4, 4, 8, 1.0, CPU)[0].view(4, 4, -1)
    fine = rotary_table(8, 8, 8, 0.5, CPU)[0].view(8, 8, -1)
    torch.testing.assert_close(fine[::2, ::2], coarse)


def test_rotation_keeps_length_and_type() -> None:
    x = torch.randn(2, 3, 12, 8)
    table = rotary_table(3, 4, 8, 1.0, CPU)
    torch.testing.assert_close(rotate(x, *table).norm(dim=-1), x.norm(dim=-1))
    half = rotate(x.half(), *table)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), rotate(x.half().float(), *table), atol=2e-3, rtol=0)


def test_rotary_refuses_channels_that_two_axes_cannot_share() -> None:
    with pytest.raises(ValueError, match="received 6 channels per head; rotary codes need a multiple of 4"):
        rotary_table(2, 2, 6, 1.0, CPU)


def test_sine_code_equals_its_formula() -> None:
    values = torch.rand(3, 2)
    code = sine_encode(values, 10)
    assert code.shape == (3, 2, 10)
    for place in np.ndindex(3, 2):
        for i in range(10):
            angle = 2 * math.pi * values[place].item() / 10000 ** (2 * (i // 2) / 10)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            assert code[place][i].item() == pytest.approx(expected, abs=1e-5)
    assert sine_encode(values.half(), 4).dtype == torch.float32


def test_position_map_codes_rows_then_columns() -> None:
    height, width, channels = 3, 5, 12
    code = sine_position_map(height, width, channels, CPU).view(height, width, channels)
    for row, column in np.ndindex(height, width):
        for half, place in ((0, (row + 1) / height), (6, (column + 1) / width)):
            expected = sine_encode(torch.tensor(place), 6)
            torch.testing.assert_close(code[row, column, half : half + 6], expected, atol=1e-4, rtol=0)


def test_cached_tables_serve_training_after_inference() -> None:
    """Sizes that no other test uses, so that the tables are made under inference mode here."""
    with torch.inference_mode():
        rotary_table(3, 7, 20, 0.3, CPU)
        sine_position_map(3, 7, 20, CPU)
    tables = (*rotary_table(3, 7, 20, 0.3, CPU), sine_position_map(3, 7, 20, CPU))
    assert not any(table.is_inference() or table.requires_grad for table in tables)
    x = torch.randn(1, 21, 20, requires_grad=True)
    (rotate(x, *tables[:2]) * tables[2]).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.rand(4000, 2, 3) + 1
    out = drop(x)
    kept = out[:, 0, 0] > 0
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    assert not out[~kept].any(), "a sample is dropped or kept as a whole"
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero() -> None:
    x = torch.rand(5, 2)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x
