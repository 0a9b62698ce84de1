"""Following without a tracker: every frame by itself, and detections of neighbouring frames linked by their overlap.

What a tracker has to beat. It has the same detector and the same thresholds, and no memory but the last mask of each
object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sam3.masks import mask_iou, mask_nms
from sam3.predictor import ImagePredictor, Prediction
from sam3.video.results import FrameResult
from sam3.video.source import BrokenFrameError, FrameSource, Video, open_video
from sam3.video_config import VideoConfig


@dataclass(frozen=True, eq=False)
class Link:
    """An object that is being followed.

    Args:
        id: of the object.
        mask: (H, W) bool, where it was seen last.
        last_frame: when that was.
        first_score, presence_score: of its first detection.
    """

    id: int
    mask: NDArray[np.bool_]
    last_frame: int
    first_score: float
    presence_score: float


def link(
    links: Sequence[Link], masks: NDArray[np.bool_], *, min_iou: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which objects the detections of a frame continue: the assignment with the largest sum of mask IoUs.

    Args:
        links: K objects.
        masks: (N, H, W) bool, the detections.
        min_iou: pairs that overlap less stay apart.

    Returns:
        (M,) indices of objects and (M,) of the detections that continue them.

    Example:
        >>> masks = np.zeros((2, 4, 8), dtype=bool)
        >>> masks[0, :, :3], masks[1, :, 5:] = True, True
        >>> old = [Link(7, np.roll(masks[1], -1, axis=1), 0, 0.9, 1.0)]
        >>> [indices.tolist() for indices in link(old, masks, min_iou=0.1)]
        [[0], [1]]
    """
    if not len(links) or not len(masks):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    iou = mask_iou(torch.from_numpy(np.stack([one.mask for one in links])), torch.from_numpy(masks)).numpy()
    rows, columns = linear_sum_assignment(np.where(iou >= min_iou, iou, 0.0), maximize=True)
    is_close = iou[rows, columns] >= min_iou
    return rows[is_close], columns[is_close]


class LinkedDetections:
    """Follows phrases by linking detections; a `Follow` for `evaluate_videos`.

    Args:
        predictor: finds the phrases in every frame.
        config: the thresholds that a session would use: which detections count, which are doubles of better ones, how
            much an object must overlap where it was, and how good a detection must be to start a new object.
        memory_frames: how many frames an object may be unseen before it is forgotten.
    """

    def __init__(self, predictor: ImagePredictor, config: VideoConfig | None = None, *, memory_frames: int = 5):
        self.predictor = predictor
        self.config = config or predictor.model.config.video
        self.memory_frames = memory_frames

    def __call__(self, video: Video, phrases: Sequence[str], frame_rate: float | None = None) -> Iterator[FrameResult]:
        """What is seen in every frame that can be read, with ids that go on."""
        links: dict[str, list[Link]] = {phrase: [] for phrase in phrases}
        num_ids = 0
        with open_video(video, frame_rate=frame_rate) as source:
            for number, frame in _readable(source):
                self.predictor.set_image(frame)
                seen: list[tuple[Link, float, str]] = []
                answers = self.predictor.predict(list(links), score_threshold=self.config.min_detection_score)
                for phrase, answer in zip(links, answers, strict=True):
                    links[phrase], now = self._step(links[phrase], self._distinct(answer), number, num_ids)
                    num_ids = max([num_ids, *(one.id for one in links[phrase])])
                    seen += [(one, score, phrase) for one, score in now]
                yield _result(number, seen, source.size)

    def _distinct(self, answer: Prediction) -> Prediction:
        kept = mask_nms(torch.from_numpy(answer.masks), torch.from_numpy(answer.scores), self.config.nms_iou).numpy()
        return replace(
            answer,
            boxes_xyxy_px=answer.boxes_xyxy_px[kept],
            masks=answer.masks[kept],
            scores=answer.scores[kept],
        )

    def _step(
        self, links: list[Link], answer: Prediction, frame: int, num_ids: int
    ) -> tuple[list[Link], list[tuple[Link, float]]]:
        """The objects to go on with, and those seen in this frame with their scores."""
        links = [one for one in links if frame - one.last_frame <= self.memory_frames + 1]
        rows, columns = link(links, answer.masks, min_iou=self.config.match_iou)
        seen = [
            (replace(links[row], mask=answer.masks[column], last_frame=frame), float(answer.scores[column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        least = self.config.min_new_score if links else self.config.min_detection_score
        free = np.setdiff1d(np.arange(len(answer)), columns)
        for column in free[(answer.scores[free] >= least) & answer.masks[free].any(axis=(1, 2))]:
            num_ids, score = num_ids + 1, float(answer.scores[column])
            seen.append((Link(num_ids, answer.masks[column], frame, score, answer.presence_score), score))
        unseen = [one for row, one in enumerate(links) if row not in rows]
        return [one for one, _ in seen] + unseen, seen


def _result(frame: int, seen: Sequence[tuple[Link, float, str]], size: tuple[int, int]) -> FrameResult:
    masks = np.stack([one.mask for one, _, _ in seen]) if seen else np.zeros((0, *size), dtype=bool)
    return FrameResult.of_masks(
        frame,
        [one.id for one, _, _ in seen],
        masks,
        scores=[score for _, score, _ in seen],
        phrases=[phrase for _, _, phrase in seen],
        detection_scores=[one.first_score for one, _, _ in seen],
        presence_scores=[one.presence_score for one, _, _ in seen],
    )


def _readable(source: FrameSource) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    start: int | None = 0
    while start is not None:
        try:
            yield from source.frames(start)
            return
        except BrokenFrameError as error:
            start = error.resume_at
