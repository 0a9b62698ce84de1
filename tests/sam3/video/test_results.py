"""Results of frames and masklets: the same objects seen two ways."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sam3.rle import Rle
from sam3.video.results import FrameResult, Masklet, frame_result, masklet_of_rles, masklets_of

SIZE = (12, 16)


def square(x: int, y: int, side: int = 4) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture()
def results() -> list[FrameResult]:
    """Object 2 is seen in frames 0, 1 and 3, object 9 from frame 1 on."""
    frames = []
    for frame in range(4):
        masks = np.stack([square(8, frame), square(frame, 2) if frame != 2 else np.zeros(SIZE, bool)])
        ids = [9, 2] if frame else [2]
        masks = masks if frame else masks[1:]
        scores = [0.5 + 0.1 * frame, 0.9][-len(ids) :]
        phrases = ["dog", "red cat"][-len(ids) :]
        detections = [0.75, 0.625][-len(ids) :]
        frames.append(
            FrameResult.of_masks(frame, ids, masks, scores=scores, phrases=phrases, detection_scores=detections)
        )
    return frames


def test_frames_join_to_masklets_and_masklets_part_into_the_same_frames(results: list[FrameResult]) -> None:
    masklets = masklets_of(reversed(results))
    assert [(masklet.id, masklet.phrase, masklet.frames.tolist()) for masklet in masklets] == [
        (2, "red cat", [0, 1, 3]),
        (9, "dog", [1, 2, 3]),
    ]
    assert masklets[1].detection_score == 0.75
    for result in results:
        again = frame_result(masklets, result.frame)
        for field in dataclasses.fields(FrameResult):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(result, field.name))
    np.testing.assert_array_equal(masklets[0].mask(3), square(3, 2))
    assert not masklets[0].mask(2).any() and masklets[0].rle(2) is None
    assert not masklets[0].mask(100).any()


def test_detections_carry_ids_phrases_and_masks(results: list[FrameResult]) -> None:
    detections = results[3].to_detections()
    assert detections.tracker_id.tolist() == [2, 9]
    assert detections.data["class_name"].tolist() == ["red cat", "dog"]
    assert detections.class_id.tolist() == [1, 0]
    np.testing.assert_array_equal(detections.mask, results[3].masks)
    np.testing.assert_array_equal(detections.xyxy, [[3, 2, 7, 6], [8, 3, 12, 7]])
    masklet = masklets_of(results)[0]
    assert masklet.to_detections(1).tracker_id.tolist() == [2]
    assert len(masklet.to_detections(2)) == 0


def test_an_object_without_a_phrase_is_a_visual_one() -> None:
    result = FrameResult.of_masks(0, [1], square(0, 0)[None], scores=[1], phrases=[None])
    assert result.to_detections().data["class_name"].tolist() == ["visual"]


def test_a_labelled_masklet_leaves_out_the_frames_where_it_is_not_seen() -> None:
    empty = Rle.of(np.zeros(SIZE, dtype=bool))
    masklet = masklet_of_rles(4, "cat", [None, Rle.of(square(1, 1)), empty, Rle.of(square(2, 2))])
    assert masklet.frames.tolist() == [1, 3]
    assert masklet.boxes_xyxy_px.tolist() == [[1, 1, 5, 5], [2, 2, 6, 6]]
    with pytest.raises(ValueError, match="seen in none of 2 frames"):
        masklet_of_rles(4, "cat", [None, empty])


def test_what_does_not_fit_together_is_refused(results: list[FrameResult]) -> None:
    masklet = masklets_of(results)[0]
    with pytest.raises(ValueError, match="frame 3 has {'scores': 1} for 2 entries"):
        dataclasses.replace(results[3], scores=np.ones(1, np.float32))
    with pytest.raises(ValueError, match="expected each object once"):
        dataclasses.replace(results[3], ids=np.array([5, 5]))
    with pytest.raises(ValueError, match="in rising order"):
        dataclasses.replace(masklet, frames=np.array([0, 3, 1]))
    with pytest.raises(ValueError, match="masks of"):
        dataclasses.replace(masklet, image_size=(5, 5))
    with pytest.raises(ValueError, match="rising order"):
        masklets_of([results[0], results[0]])
    with pytest.raises(ValueError, match="no masklet"):
        frame_result([], 0)


def test_a_masklet_of_a_long_video_stays_small() -> None:
    mask = square(3, 3)
    masklet = masklet_of_rles(1, "cat", [Rle.of(mask)] * 1000)
    assert isinstance(masklet, Masklet)
    assert sum(len(rle.counts) for rle in masklet.rles) < 20_000
