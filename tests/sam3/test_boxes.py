"""Box formats and overlaps against counted cells, RoI-align against a loop over single samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sam3.boxes import (
    cxcywh_to_xyxy,
    inverse_sigmoid,
    matched_iou,
    pairwise_giou,
    pairwise_iou,
    roi_align,
    xyxy_to_cxcywh,
)


def random_boxes(count: int, side: int) -> Tensor:
    """(count, 4) xyxy with whole corners and at least one cell."""
    low = torch.randint(0, side - 1, (count, 2))
    high = low + 1 + (torch.rand(count, 2) * (side - low - 1)).long()
    return torch.cat([low, high], dim=1).float()


def test_formats() -> None:
    assert cxcywh_to_xyxy(torch.tensor([0.5, 0.25, 0.2, 0.1])).tolist() == pytest.approx([0.4, 0.2, 0.6, 0.3])
    assert xyxy_to_cxcywh(torch.tensor([2.0, 4.0, 8.0, 5.0])).tolist() == [5.0, 4.5, 6.0, 1.0]
    boxes = random_boxes(40, 50).view(2, 4, 5, 4)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def counted(one: Tensor, other: Tensor) -> tuple[float, float]:
    """IoU and generalised IoU of two boxes with whole corners, by counting cells."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.int().tolist(), other.int().tolist()
    cells = [
        {(x, y) for x in range(x0, x1) for y in range(y0, y1)},
        {(u, v) for u in range(u0, u1) for v in range(v0, v1)},
    ]
    union, common = len(cells[0] | cells[1]), len(cells[0] & cells[1])
    xs, ys = zip(*(cells[0] | cells[1]), strict=True)
    hull = (max(xs) - min(xs) + 1) * (max(ys) - min(ys) + 1)
    return common / union, common / union - (hull - union) / hull


def test_overlaps_equal_counted_cells() -> None:
    a, b = random_boxes(7, 12), random_boxes(9, 12)
    iou, union = pairwise_iou(a, b)
    giou = pairwise_giou(a, b)
    assert iou.shape == union.shape == giou.shape == (7, 9)
    expected = np.array([[counted(one, other) for other in b] for one in a])
    assert {0.0} < set(expected[..., 0].ravel()), "some overlap, some do not"
    np.testing.assert_allclose(iou, expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(giou, expected[..., 1], atol=1e-6)
    pair_iou, pair_giou = matched_iou(a, b[:7])
    np.testing.assert_allclose(pair_iou, expected[range(7), range(7), 0], atol=1e-6)
    np.testing.assert_allclose(pair_giou, expected[range(7), range(7), 1], atol=1e-6)


def test_overlaps_of_stacked_boxes() -> None:
    a, b = random_boxes(6, 20).view(2, 3, 4), random_boxes(8, 20).view(2, 4, 4)
    iou, _ = pairwise_iou(a, b)
    assert iou.shape == (2, 3, 4)
    torch.testing.assert_close(iou[1], pairwise_iou(a[1], b[1])[0])


def test_overlaps_at_the_edges() -> None:
    unit = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    far = torch.tensor([[9.0, 0.0, 10.0, 1.0]])
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert pairwise_giou(unit, unit).item() == 1.0
    assert pairwise_giou(unit, far).item() == pytest.approx(-0.8)
    assert pairwise_iou(unit, far)[0].item() == 0.0
    for one, other in ((unit, point), (point, point)):
        assert pairwise_iou(one, other)[0].item() == 0.0
        assert torch.isfinite(pairwise_giou(one, other)).all()
    none = torch.zeros(0, 4)
    assert pairwise_iou(none, unit)[0].shape == (0, 1)
    assert [t.shape for t in matched_iou(none, none)] == [(0,), (0,)]


def test_giou_pulls_boxes_together_also_without_overlap() -> None:
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    pairwise_giou(box, torch.tensor([[3.0, 0.0, 4.0, 1.0]])).sum().backward()
    assert box.grad is not None and box.grad[0, 2] > 0


def test_inverse_sigmoid() -> None:
    x = torch.linspace(-8, 8, 33)
    inside = x.abs() < 6.9
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid())[inside], x[inside], atol=2e-3, rtol=0)
    edge = math.log(1 / 1e-3)  # the released models stop at 1e-3, so boxes saturate at 6.9078
    assert edge == pytest.approx(6.9078, abs=1e-4)
    received = inverse_sigmoid(torch.tensor([0.0, 1e-5, 1.0, 1 - 1e-5, -3.0, 4.0])).tolist()
    assert received == pytest.approx([-edge, -edge, edge, edge, -edge, edge], abs=1e-4)
    assert inverse_sigmoid(torch.tensor([1e-4]), eps=1e-5).item() == pytest.approx(math.log(1e-4), abs=1e-3)
    assert inverse_sigmoid(torch.tensor([0.5])).item() == 0.0


def pooled_one_by_one(features: np.ndarray, box: list[float], size: int) -> np.ndarray:
    """Legacy RoI-align of one box on one map (C, h, w), one bilinear sample after the other."""
    channels, height, width = features.shape
    x0, y0, x1, y1 = (np.float32(value) for value in box)
    wide, high = max(x1 - x0, np.float32(1)), max(y1 - y0, np.float32(1))
    across, down = math.ceil(wide / size), math.ceil(high / size)
    pooled = np.zeros((channels, size, size))
    for row in range(size):
        for column in range(size):
            for j in range(down):
                for i in range(across):
                    y = float(y0) + float(high) / size * (row + (j + 0.5) / down)
                    x = float(x0) + float(wide) / size * (column + (i + 0.5) / across)
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = max(y, 0.0), max(x, 0.0)
                    top, left = min(int(y), height - 1), min(int(x), width - 1)
                    fy = y - top if top < height - 1 else 0.0
                    fx = x - left if left < width - 1 else 0.0
                    for wy, yy in ((1 - fy, top), (fy, top + 1)):
                        for wx, xx in ((1 - fx, left), (fx, left + 1)):
                            if wy * wx:
                                pooled[:, row, column] += wy * wx * features[:, yy, xx]
            pooled[:, row, column] /= down * across
    return pooled


BOXES = {
    "inside": [2.3, 1.2, 7.9, 5.6],
    "whole map": [0.0, 0.0, 11.0, 9.0],
    "whole cells": [3.0, 2.0, 8.0, 6.0],
    "beyond every side": [-3.7, -2.4, 14.6, 11.9],
    "half outside": [8.4, -0.7, 13.2, 3.1],
    "last cell": [10.0, 8.0, 11.0, 9.0],
    "one cell": [4.0, 3.0, 5.0, 4.0],
    "tiny": [4.31, 5.62, 4.33, 5.63],
    "line": [1.1, 4.4, 9.7, 4.5],
    "no area": [3.5, 3.5, 3.5, 3.5],
    "outside": [30.0, 30.0, 35.0, 35.0],
    "outside, low": [-9.0, -9.0, -5.0, -5.0],
}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_roi_align_equals_a_loop_over_samples(size: int) -> None:
    features = torch.randn(2, 3, 9, 11)
    boxes = torch.tensor(list(BOXES.values()))
    image = torch.arange(len(boxes)) % 2
    received = roi_align(features, boxes, image, size)
    assert received.shape == (len(boxes), 3, size, size)
    for name, box, index, pooled in zip(BOXES, BOXES.values(), image, received, strict=True):
        expected = pooled_one_by_one(features[index].double().numpy(), box, size)
        np.testing.assert_allclose(pooled, expected, atol=1e-5, err_msg=name)
        assert bool(np.abs(expected).max() > 0) != name.startswith("outside")


def test_roi_align_is_not_shifted_by_half_a_cell() -> None:
    """A map that counts columns gives back sample positions: cell i lies at coordinate i, not i + 0.5."""
    columns = torch.arange(10.0).expand(1, 1, 10, 10)
    received = roi_align(columns, torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.tensor([0]), 2)
    torch.testing.assert_close(received[0, 0, 0], torch.tensor([3.0, 5.0]))


def test_roi_align_of_no_box_and_in_half_precision() -> None:
    features = torch.randn(1, 4, 6, 6)
    none = roi_align(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 3)
    assert none.shape == (0, 4, 3, 3)
    box, image = torch.tensor([[0.6, 1.1, 4.7, 5.2]]), torch.tensor([0])
    full = roi_align(features, box, image, 3)
    half = roi_align(features.bfloat16(), box, image, 3)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=2e-2, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(roi_align(features, box, image, 3), full)


def test_roi_align_passes_gradients_to_the_cells_in_the_box() -> None:
    features = torch.randn(2, 1, 8, 8, requires_grad=True)
    roi_align(features, torch.tensor([[2.0, 3.0, 5.0, 6.0]]), torch.tensor([1]), 3).sum().backward()
    assert features.grad is not None
    assert not features.grad[0].any() and features.grad[1].sum().item() == pytest.approx(9.0, abs=1e-5)
    assert not features.grad[1, 0, :3].any() and not features.grad[1, 0, :, :2].any()
