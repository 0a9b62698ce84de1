"""The predictor that follows objects with an adapted model, without the adapter reaching into the tracker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sam3.predictor import VideoPredictor
from sam3.video_config import VideoConfig
from workbench.adapters import Adapter


def tracker_context(adapter: Adapter) -> Callable[[], AbstractContextManager[None]] | None:
    """What to enter while the features of the tracker are computed, so that they are those of the base model.

    Detector and tracker share the image encoder. An adapter that changes it has taught the detector alone, so it is
    switched off for the tracker, which takes a second pass of the encoder in every frame. None for an adapter that
    leaves the encoder as it is: one pass serves both.
    """
    return None if adapter.plan.freezes_image_encoder else adapter.disabled


def video_predictor_for(adapter: Adapter, config: VideoConfig | None = None) -> VideoPredictor:
    """The predictor an adapter is meant to be used with on videos.

    Raises:
        ValueError: the model has no tracker.
    """
    adapter.model.require_tracker()
    return VideoPredictor(adapter.model, config=config, tracker_context=tracker_context(adapter))


def tracker_notes(adapter: Adapter) -> tuple[str, ...]:
    """What a report must say about this adapter on videos."""
    if adapter.plan.freezes_image_encoder:
        notes = [
            f"The adapter ({adapter.plan.name}) leaves the image encoder and the tracker as they are: one pass per "
            "frame serves detector and tracker, before and after alike."
        ]
    else:
        notes = [
            f"The adapter ({adapter.plan.name}) changes the image encoder, which the tracker shares but was not "
            "adapted to. The features of the tracker are therefore computed with the adapter switched off, in a second "
            "pass per frame: the tracker is exactly that of the base model, and a frame takes longer."
        ]
    if "calibration" in adapter.facts:
        notes.append("The adapter's calibrated thresholds are for pictures; videos are followed with the plain scores.")
    return tuple(notes)
