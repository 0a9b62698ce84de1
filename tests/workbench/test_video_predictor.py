"""Adapters on videos: the tracker sees what it saw without them, and the encoder runs no more often than it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sam3.checkpoint import load_sam3
from sam3.model import Sam3
from sam3.predictor import VideoPredictor
from workbench.adapters import load_adapter
from workbench.video_clips import rendered_clips
from workbench.video_evaluate import follower
from workbench.video_predictor import tracker_context, tracker_notes, video_predictor_for

NUM = 3


@contextmanager
def watched(model: Sam3) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Everything the tracker's features are made of, and a 1 for every pass of the image encoder."""
    seen: list[Tensor] = []
    passes: list[int] = []
    tracker = model.require_tracker()
    prepare = tracker.prepare_from

    def recording(pyramid: Sequence[nn.Module], trunk: Tensor) -> object:
        features = prepare(pyramid, trunk)
        seen.extend((features.fine, features.middle, features.coarse))
        return features

    hook = model.image_encoder.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    tracker.prepare_from = recording  # type: ignore[method-assign, assignment]
    try:
        yield seen, passes
    finally:
        hook.remove()
        del tracker.prepare_from


def played(predictor: VideoPredictor, phrases: tuple[str, ...] = ("red circle", "star")) -> tuple[list[Tensor], int]:
    (clip,) = rendered_clips(1, seed=5, num_frames=NUM, size=64)
    with watched(predictor.model) as (seen, passes):
        results = list(follower(predictor)(clip.video, phrases, None))
    assert [result.frame for result in results] == list(range(NUM))
    return seen, len(passes)


def same(levels: list[Tensor], others: list[Tensor]) -> bool:
    assert len(levels) == len(others) == 3 * NUM
    return all(torch.equal(a, b) for a, b in zip(levels, others, strict=True))


@pytest.fixture(scope="module")
def base(video_weights: Path) -> list[Tensor]:
    """What the tracker's features are made of without any adapter."""
    seen, passes = played(VideoPredictor(load_sam3(video_weights)))
    assert passes == NUM
    return seen


@pytest.mark.parametrize("plan", ["lora", "full"])
def test_adapters_of_the_encoder_do_not_reach_the_tracker(
    video_weights: Path, video_adapter: Callable[..., Path], base: list[Tensor], plan: str
) -> None:
    adapter = load_adapter(load_sam3(video_weights), video_adapter(plan, 0.02))
    adapted = adapter.state()
    shared, passes = played(VideoPredictor(adapter.model))
    assert passes == NUM and not same(shared, base)  # this is what must not happen
    kept, passes = played(video_predictor_for(adapter))
    assert passes == 2 * NUM and same(kept, base)
    assert all(torch.equal(adapted[name], value) for name, value in adapter.state().items())
    again, _ = played(VideoPredictor(adapter.model))
    assert same(again, shared)  # the adapter is on again
    with adapter.disabled():
        off, passes = played(VideoPredictor(adapter.model))
    assert passes == NUM and same(off, base)
    (note,) = tracker_notes(adapter)
    assert f"({plan}) changes the image encoder" in note and "second pass" in note


@pytest.mark.parametrize("plan", ["presence", "tokens", "decoder"])
def test_one_pass_serves_both_where_the_encoder_stays(
    video_weights: Path, video_adapter: Callable[..., Path], base: list[Tensor], plan: str
) -> None:
    adapter = load_adapter(load_sam3(video_weights), video_adapter(plan))
    assert tracker_context(adapter) is None
    seen, passes = played(video_predictor_for(adapter))
    assert passes == NUM and same(seen, base)
    (note,) = tracker_notes(adapter)
    assert f"({plan}) leaves the image encoder" in note and "one pass per frame" in note


def test_the_detector_does_use_the_adapter(video_weights: Path, video_adapter: Callable[..., Path]) -> None:
    adapter = load_adapter(load_sam3(video_weights), video_adapter("lora", 0.3))
    (clip,) = rendered_clips(1, seed=5, num_frames=2, size=64)

    def scores(predictor: VideoPredictor) -> np.ndarray:
        results = follower(predictor)(clip.video, ("red circle",), None)
        return np.concatenate([result.detection_scores for result in results])

    after = scores(video_predictor_for(adapter))
    with adapter.disabled():
        before = scores(VideoPredictor(adapter.model))
    assert len(before) and (after.shape != before.shape or not np.allclose(after, before))


def test_thresholds_for_pictures_are_not_used_and_it_is_said(
    video_weights: Path, video_adapter: Callable[..., Path]
) -> None:
    adapter = load_adapter(load_sam3(video_weights), video_adapter("tokens"))
    adapter.facts["calibration"] = {}
    assert "videos are followed with the plain scores" in tracker_notes(adapter)[1]


def test_a_model_without_tracker_is_refused(small_weights: Path) -> None:
    from workbench.adapters import Plan, add_adapter

    adapter = add_adapter(load_sam3(small_weights), Plan("presence"), [])
    with pytest.raises(ValueError, match="this model has no tracker"):
        video_predictor_for(adapter)
