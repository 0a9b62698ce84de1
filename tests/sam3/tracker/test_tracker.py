"""The tracker on small random weights: what objects share, where gradients go, refusals, other sizes and precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sam3.config import TrackerConfig, TransformerConfig
from sam3.image_encoder import PyramidLevel
from sam3.tracker.memory_bank import MemoryBank
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import FrameFeatures, Tracker

WIDTH, CONFIG = 32, TrackerConfig(8, 7, TransformerConfig(2, 1, 48), TransformerConfig(2, 4, 48), 1, 0.0)


def make_tracker() -> Tracker:
    torch.manual_seed(6)
    tracker = Tracker(CONFIG, WIDTH, 14)
    with torch.no_grad():
        for name, parameter in tracker.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.3 if parameter.ndim < 2 else (parameter.numel() / len(parameter)) ** -0.5)
        tracker.mask_decoder.object_mlp.layers[-1].bias.fill_(3.0)
    return tracker


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return make_tracker().eval()


def pyramid(grid: int, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, WIDTH, scale * grid, scale * grid) for scale in (4, 2, 1)]


def clicks(*points: tuple[float, float]) -> Hints:
    return Hints(torch.tensor(points)[:, None], torch.ones(len(points), 1, dtype=torch.long))


def follow(tracker: Tracker, frames: list[FrameFeatures], hints: Hints) -> list[Tensor]:
    bank, masks = MemoryBank(), []
    for index, features in enumerate(frames):
        output = tracker.step(features, memory=bank.recall(index)) if index else tracker.step(features, hints=hints)
        assert output.memory is not None and len(output) == len(hints)
        bank.store(index, output.memory)
        masks.append(output.mask_logits)
    return masks


@torch.no_grad()
def test_objects_of_a_batch_do_not_touch(tracker: Tracker) -> None:
    frames = [tracker.prepare(pyramid(6)) for _ in range(4)]
    together = follow(tracker, frames, clicks((0.2, 0.3), (0.7, 0.8), (0.9, 0.1)))
    for index, point in enumerate([(0.2, 0.3), (0.7, 0.8), (0.9, 0.1)]):
        alone = follow(tracker, frames, clicks(point))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[index : index + 1], other, rtol=1e-4, atol=2e-3)
    assert (together[-1][0] - together[-1][1]).abs().max() > 0.03


@torch.no_grad()
def test_every_object_may_have_its_own_frame(tracker: Tracker) -> None:
    """As in training, where objects of several clips are one batch."""
    first, second = tracker.prepare(pyramid(6)), tracker.prepare(pyramid(6))
    both = FrameFeatures(*(torch.cat([getattr(f, n) for f in (first, second)]) for n in ("fine", "middle", "coarse")))
    hints = clicks((0.2, 0.3), (0.7, 0.8))
    output = tracker.step(both, hints=hints)
    for index, features in enumerate((first, second)):
        alone = tracker.step(features, hints=clicks(((0.2, 0.3), (0.7, 0.8))[index]))
        torch.testing.assert_close(output.mask_logits[index], alone.mask_logits[0], rtol=1e-4, atol=1e-4)
        assert both[index].grid == (6, 6) and torch.equal(both[index].coarse, features.coarse)


def test_gradients_reach_every_part_through_memory() -> None:
    """The loss is on the third frame alone; what is never used has none."""
    tracker = make_tracker().train()
    pyramids = [pyramid(5) for _ in range(3)]
    for level in (pyramids[0][2], *pyramids[1]):
        level.requires_grad_()
    bank = MemoryBank(by_quality=False)
    mask = torch.zeros(1, 80, 80)
    mask[0, 20:50, 30:60] = 1
    bank.store(0, tracker.adopt(tracker.prepare(pyramids[0]), mask).memory)  # type: ignore[arg-type]
    given = tracker.step(tracker.prepare(pyramids[1]), hints=clicks((0.2, 0.3)), memory=bank.recall(1)).memory
    assert given is not None and given.maps.dtype == torch.float32
    bank.store(1, replace(given, is_conditioning=False))
    output = tracker.step(tracker.prepare(pyramids[2]), memory=bank.recall(2, num_frames=3), with_memory=False)
    several = output.candidates
    loss = several.mask_logits.square().mean() + several.iou_scores.sum() + several.object_score_logits.sum()
    (loss + output.pointers.sum()).backward()
    without = {name for name, p in tracker.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    # Nothing is absent, nothing is a box or a negative click, and every frame but one is seen with memory.
    expected = {"unused_no_memory_position", "no_object_pointer", "no_object_embed", "no_memory_embed"}
    expected |= {f"prompt_encoder.label_embeds.{label}.weight" for label in (0, 2, 3)}
    unused = {name for name in without if not name.startswith(("mask_decoder.mask_mlps.0", "mask_decoder.iou_mlp"))}
    assert unused == expected
    for level in (
        pyramids[0][2],
        *pyramids[1],
    ):  # the first masks are given
        assert level.grad is not None and level.grad.abs().sum() > 0


@torch.no_grad()
def test_absent_objects_have_no_mask_and_the_pointer_of_nothing(tracker: Tracker) -> None:
    features = tracker.prepare(pyramid(6))
    output = tracker.step(features, hints=clicks((0.2, 0.3), (0.7, 0.8)))
    assert (output.object_score_logits > 0).all()
    empty = torch.zeros(2, 96, 96)
    empty[1, 10:40, 20:50] = 1
    adopted = tracker.adopt(features, empty)
    assert adopted.object_score_logits.tolist() == [-10, 10]
    assert torch.equal(adopted.pointers[0], tracker.no_object_pointer[0])
    assert not torch.equal(adopted.pointers[1], tracker.no_object_pointer[0])
    hidden = make_tracker().eval()
    hidden.mask_decoder.object_mlp.layers[-1].bias.fill_(-300.0)
    output = hidden.step(features, hints=clicks((0.2, 0.3)))
    assert (output.mask_logits == -1024).all() and torch.equal(output.pointers, hidden.no_object_pointer)
    assert output.candidates.mask_logits.max() > -100, "candidates are kept for training"
    assert output.memory is not None and output.memory.quality == 0


@torch.no_grad()
def test_masks_of_any_size_are_taken(tracker: Tracker) -> None:
    features = tracker.prepare(pyramid(6))
    large = torch.zeros(1, 192, 192)
    large[0, 40:120, 60:160] = 1
    one, other = tracker.adopt(features, large), tracker.adopt(features, large[:, ::2, ::2])
    torch.testing.assert_close(one.mask_logits, other.mask_logits, atol=0.5, rtol=0)
    torch.testing.assert_close(one.pointers, other.pointers, atol=1e-2, rtol=0)
    assert torch.equal(tracker.adopt(features, large > 0).pointers, one.pointers)


@torch.no_grad()
def test_lower_precision(tracker: Tracker) -> None:
    half = make_tracker().eval().to(torch.bfloat16)
    maps = pyramid(6)
    hints = clicks((0.2, 0.3), (0.7, 0.8))
    exact = [tracker.prepare(maps)] * 2
    rough = [half.prepare([level.bfloat16() for level in maps])] * 2
    for one, other in zip(follow(tracker, exact, hints), follow(half, rough, hints), strict=True):
        assert other.dtype == torch.float32
        assert ((one > 0) == (other > 0)).float().mean() > 0.95


def test_refusals(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="received neither memory nor hints; pass what MemoryBank.recall returns"):
        tracker.step(tracker.prepare(pyramid(4)))
    bank, features = MemoryBank(), tracker.prepare(pyramid(4))
    bank.store(0, tracker.step(features, hints=clicks((0.2, 0.3), (0.7, 0.8))).memory)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory of 2 objects and hints of 1; both must be of the same objects"):
        tracker.step(features, memory=bank.recall(1), hints=clicks((0.1, 0.1)))
    with pytest.raises(
        ValueError, match=r"points \(1, 2\), labels \(1, 1\) and mask logits None; expected \(K, N, 2\)"
    ):
        Hints(torch.zeros(1, 2), torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"mask logits \(2, 1, 8, 8\)"):
        Hints(torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="memory_width 12 does not divide the width 32"):
        Tracker(replace(CONFIG, memory_width=12), WIDTH, 14)


@torch.no_grad()
def test_features_made_at_once_are_those_of_the_pyramid(tracker: Tracker) -> None:
    """Folding the last two convolutions of a level into one changes nothing."""
    levels = [PyramidLevel(scale, 40, WIDTH) for scale in (4.0, 2.0, 1.0)]
    trunk = torch.randn(2, 40, 5, 5)
    at_once, expected = tracker.prepare_from(levels, trunk), tracker.prepare([level(trunk) for level in levels])
    for name in ("fine", "middle", "coarse"):
        torch.testing.assert_close(getattr(at_once, name), getattr(expected, name), rtol=0, atol=1e-5)
