"""Which detection belongs to which masklet on one frame: thresholds on mask IoU, no assignment problem.

In: what the detector found on a frame and what the tracker carried over to it. Out: an `Association`, plain numbers
that the life cycle in `masklets` goes by. Paper: section on video, appendix C.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sam3.masks import mask_iou, mask_nms
from sam3.video_config import VideoConfig

_LEAVING = 100_000  # later than any frame, for the released code's way of counting


@dataclass(frozen=True, eq=False)
class Detections:
    """What the detector found on a frame.

    Attributes:
        scores: (D,) 0..1, presence included.
        mask_logits: (D, h, w); above 0 is inside.
    """

    scores: Tensor
    mask_logits: Tensor

    def __post_init__(self) -> None:
        if self.mask_logits.ndim != 3 or self.scores.shape != self.mask_logits.shape[:1]:
            raise ValueError(
                f"scores of shape {tuple(self.scores.shape)} came with mask logits of shape "
                f"{tuple(self.mask_logits.shape)}; expected (D,) and (D, h, w)"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        """Some of them: a bool or long tensor, or a slice."""
        return Detections(self.scores[index], self.mask_logits[index])


@dataclass(frozen=True, eq=False)
class CarriedMasks:
    """What the tracker carried over to a frame, for the K masklets that are alive.

    Attributes:
        ids: K masklet ids, in the order of the rows.
        mask_logits: (K, h, w) on the grid of the detections, mended.
        object_score_logits: (K,) above 0 where the tracker takes the object for visible.
    """

    ids: tuple[int, ...]
    mask_logits: Tensor
    object_score_logits: Tensor

    def __post_init__(self) -> None:
        shapes = tuple(self.mask_logits.shape), tuple(self.object_score_logits.shape)
        if len(shapes[0]) != 3 or len(self.ids) != shapes[0][0] or shapes[1] != (len(self.ids),):
            raise ValueError(
                f"{len(self.ids)} ids came with mask logits of shape {shapes[0]} and object scores of shape "
                f"{shapes[1]}; expected (K, h, w) and (K,) for K ids"
            )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Association:
    """How the detections and the masklets of one frame go together; detections by position, masklets by id.

    Attributes:
        new: detections that may each start a masklet.
        matches: (detection, masklet) with a mask IoU of at least `match_iou`; many to many.
        seen_ids: masklets that a detection agrees with (`agree_iou`).
        unseen_ids: masklets with a mask that no detection agrees with. Empty masklets are neither seen nor unseen.
        candidates: (masklet, detection) that are sure enough of one another for re-conditioning.
    """

    new: tuple[int, ...] = ()
    matches: tuple[tuple[int, int], ...] = ()
    seen_ids: tuple[int, ...] = ()
    unseen_ids: tuple[int, ...] = ()
    candidates: tuple[tuple[int, int], ...] = ()


def keep_detections(detections: Detections, config: VideoConfig) -> Detections:
    """The detections above `min_detection_score` that are no duplicates, in their order.

    Args:
        detections: one entry per query of the detector.
        config: `min_detection_score` and `nms_iou` apply.

    Example:
        >>> logits = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]], [[-1.0, 1.0]]])
        >>> keep_detections(Detections(torch.tensor([0.6, 0.9, 0.4]), logits), VideoConfig()).scores.tolist()
        [0.8999999761581421]
    """
    sure = detections[detections.scores > config.min_detection_score]
    return sure[mask_nms(sure.mask_logits > 0, sure.scores, config.nms_iou)]


def associate(detections: Detections | None, carried: CarriedMasks, config: VideoConfig) -> Association:
    """How detections and masklets of a frame go together.

    Args:
        detections: from `keep_detections`; None when the detector did not look at this frame, or had nothing to look
            for (an exemplar given on another frame): then no masklet counts as unseen.
        carried: the masklets that are alive; K may be 0, and then every detection is new whatever its score.
        config: `match_iou`, `agree_iou`, `min_new_score`, `recondition_score` and `recondition_iou` apply.

    Returns:
        The association.

    Raises:
        ValueError: the masks are not on one grid.

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, -1.0, -1.0]]])
        >>> found = Detections(torch.tensor([0.9, 0.8]), torch.cat([mask, -mask]))
        >>> associate(found, CarriedMasks((7,), mask, torch.tensor([5.0])), VideoConfig())
        Association(new=(1,), matches=((0, 7),), seen_ids=(7,), unseen_ids=(), candidates=((7, 0),))
    """
    if detections is None:
        if not config.reference_quirks:
            return Association()
        detections = Detections(carried.object_score_logits[:0], carried.mask_logits[:0])
    grids = detections.mask_logits.shape[1:], carried.mask_logits.shape[1:]
    if len(detections) and len(carried) and grids[0] != grids[1]:
        raise ValueError(
            f"detections have masks of {tuple(grids[0])}, masklets of {tuple(grids[1])}; expected the same grid: "
            "resize the logits of one of them first"
        )
    has_mask = (carried.mask_logits > 0).flatten(1).any(1).tolist()
    if not len(carried):
        return Association(new=tuple(range(len(detections))))
    if not len(detections):
        return Association(unseen_ids=tuple(one for one, there in zip(carried.ids, has_mask, strict=True) if there))
    iou = mask_iou(detections.mask_logits > 0, carried.mask_logits > 0)
    is_match = iou >= config.match_iou
    is_seen = (iou >= config.agree_iou).any(0).tolist()
    is_new = (detections.scores >= config.min_new_score) & ~is_match.any(1)
    best_iou, best = iou.max(1)
    is_sure = (detections.scores >= config.recondition_score) & (best_iou >= config.recondition_iou)
    sure = {carried.ids[int(best[found])]: found for found in _places(is_sure)}  # no IoU this high is new
    by_masklet = list(zip(carried.ids, is_seen, has_mask, strict=True))
    return Association(
        new=tuple(_places(is_new)),
        matches=tuple((found, carried.ids[row]) for found, row in is_match.nonzero().tolist()),
        seen_ids=tuple(one for one, seen, _ in by_masklet if seen),
        unseen_ids=tuple(one for one, seen, there in by_masklet if there and not seen),
        candidates=tuple(sure.items()),
    )


def suppress_overlapping(
    mask_logits: Tensor,
    last_occluded: Sequence[int | None],
    is_leaving: Sequence[bool],
    config: VideoConfig,
    *,
    is_backward: bool = False,
) -> tuple[bool, ...]:
    """Which masklets are to be suppressed because another one shows the same thing.

    Of two masklets on top of each other, the one that was occluded more recently is the likelier to have jumped to a
    neighbour. When either was never occluded, nothing is known, and both stay.

    Args:
        mask_logits: (K, h, w).
        last_occluded: K frames on which each masklet was last empty or suppressed; None for never.
        is_leaving: K flags; a masklet that is removed on this frame counts as occluded after all others.
        config: `occlusion_iou` and `reference_quirks` apply.
        is_backward: whether the video is played backwards, so that smaller frames are more recent.

    Returns:
        K flags.

    Example:
        >>> suppress_overlapping(torch.ones(2, 4, 4), [3, 9], [False, False], VideoConfig())
        (False, True)
    """
    is_known = [frame is not None or leaving for frame, leaving in zip(last_occluded, is_leaving, strict=True)]
    recency = [
        _recency(frame, leaving, config, is_backward=is_backward)
        for frame, leaving in zip(last_occluded, is_leaving, strict=True)
    ]
    is_suppressed = [False] * len(is_known)
    same = (mask_iou(mask_logits > 0, mask_logits > 0) >= config.occlusion_iou).triu(1)
    for one, other in same.nonzero().tolist():
        if recency[one] == recency[other]:
            continue
        loser, winner = (one, other) if recency[one] > recency[other] else (other, one)
        if is_known[winner] and (is_known[loser] or config.reference_quirks):
            is_suppressed[loser] = True
    return tuple(is_suppressed)


def _recency(last_occluded: int | None, leaving: bool, config: VideoConfig, *, is_backward: bool) -> float:
    """A number that is larger, the later in playing order the masklet was last occluded."""
    sign = -1 if is_backward else 1
    if config.reference_quirks:
        return sign * (_LEAVING if leaving else -1 if last_occluded is None else last_occluded)
    if leaving:
        return torch.inf
    return -torch.inf if last_occluded is None else sign * last_occluded


def _places(flags: Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()
