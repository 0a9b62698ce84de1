"""Linked detections: objects keep their ids as long as a detector sees them often enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sam3.config import Sam3Config
from sam3.model import Sam3
from sam3.predictor import ImagePredictor, Prediction
from sam3.video.results import FrameResult, masklets_of
from sam3.video_config import VideoConfig
from workbench.video_baseline import Link, LinkedDetections, link

SIZE = (24, 48)
Seen = list[tuple[int, int, float]]  # left, top, score of squares of 8 pixels


def square(left: int, top: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[max(0, top) : top + 8, max(0, left) : left + 8] = True
    return mask


class Script:
    """A predictor that reads the number of the frame from its first pixel and answers what is written for it."""

    def __init__(self, **frames: Sequence[Seen]):
        self.frames = frames
        self.number = 0

    def set_image(self, image: np.ndarray) -> None:
        self.number = int(image[0, 0, 0])

    def predict(self, prompts: list[str], *, score_threshold: float) -> list[Prediction]:
        answers = []
        for phrase in prompts:
            seen = sorted(
                (one for one in self.frames[phrase][self.number] if one[2] > score_threshold), key=lambda s: -s[2]
            )
            masks = np.stack([square(*one[:2]) for one in seen]) if seen else np.zeros((0, *SIZE), bool)
            scores = np.array([one[2] for one in seen], dtype=np.float32)
            answers.append(Prediction(phrase, np.zeros((len(seen), 4), np.float32), masks, scores, 0.9, SIZE))
        return answers


def followed(script: Script, **settings: Any) -> list[FrameResult]:
    num_frames = len(next(iter(script.frames.values())))
    video = np.zeros((num_frames, *SIZE, 3), np.uint8)
    video[:, 0, 0, 0] = np.arange(num_frames)
    settings = {"config": VideoConfig()} | settings
    return list(LinkedDetections(script, **settings)(video, list(script.frames)))  # type: ignore[arg-type]


def test_moving_objects_keep_their_ids_and_phrases_stay_apart() -> None:
    cat = [[(2 * n, 0, 0.9), (30 - 2 * n, 14, 0.8)] for n in range(5)]
    dog = [[(2 * n, 0, 0.7)] for n in range(5)]
    results = followed(Script(cat=cat, dog=dog))
    masklets = masklets_of(results)
    assert [(m.id, m.phrase, m.frames.tolist()) for m in masklets] == [
        (1, "cat", [0, 1, 2, 3, 4]),
        (2, "cat", [0, 1, 2, 3, 4]),
        (3, "dog", [0, 1, 2, 3, 4]),
    ]
    assert masklets[0].mask(3)[4, 10] and masklets[1].mask(3)[18, 26]
    assert masklets[0].detection_score == pytest.approx(0.9) and masklets[0].presence_score == pytest.approx(0.9)


def test_an_object_is_remembered_for_a_few_frames_only() -> None:
    for gap, ids in ((2, {1}), (3, {1, 2})):
        cat: list[Seen] = [[(4, 4, 0.9)], *([[]] * gap), [(5, 4, 0.9)]]
        results = followed(Script(cat=cat), memory_frames=2)
        assert {id_ for result in results for id_ in result.ids.tolist()} == ids
        assert [len(result) for result in results] == [1, *([0] * gap), 1]


def test_crossing_objects_go_to_the_best_pairing_and_far_ones_are_new() -> None:
    links = [Link(1, square(0, 0), 0, 0.9, 1.0), Link(2, square(4, 0), 0, 0.9, 1.0)]
    masks = np.stack([square(5, 0), square(1, 0)])
    rows, columns = link(links, masks, min_iou=0.1)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}
    rows, columns = link(links[:1], square(7, 0)[None], min_iou=0.1)  # IoU 1 / 15
    assert not len(rows) and not len(columns)
    assert [len(indices) for indices in link([], masks, min_iou=0.1)] == [0, 0]


def test_thresholds_are_those_of_a_session() -> None:
    cat = [
        [(0, 0, 0.6), (1, 0, 0.55), (20, 0, 0.4)],  # a double of the first, and one too weak
        [(0, 0, 0.55), (20, 0, 0.6)],  # too weak to start while another is followed
        [(0, 0, 0.55), (20, 0, 0.75)],
    ]
    assert [result.ids.tolist() for result in followed(Script(cat=cat))] == [[1], [1], [1, 2]]
    strict = VideoConfig(min_detection_score=0.58)
    assert [result.ids.tolist() for result in followed(Script(cat=cat), config=strict)] == [[1], [], [2]]


def test_a_whole_model_can_be_followed() -> None:
    video = np.random.default_rng(0).integers(0, 255, (2, 32, 40, 3), dtype=np.uint8)
    follow = LinkedDetections(ImagePredictor(Sam3(Sam3Config.tiny()).eval()), VideoConfig(min_detection_score=0.0))
    results = list(follow(video, ["red circle", "star"]))
    assert [(result.frame, result.image_size) for result in results] == [(0, (32, 40)), (1, (32, 40))]
