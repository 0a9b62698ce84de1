"""The life of masklets: birth, trial, duplicates, keeping alive, suppression, re-conditioning, removal.

Pure functions: a `LifeCycle` and what happened on a frame go in, `FrameDecisions` and the next `LifeCycle` come out.
Only numbers are kept, a handful per masklet, however long the video is. Paper: appendix C.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sam3.masks import SUPPRESSED_LOGIT
from sam3.video.association import Association, CarriedMasks, Detections, suppress_overlapping
from sam3.video_config import VideoConfig

_MIN_KEEP_ALIVE = -1

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class MaskletLife:
    """What is known of one masklet.

    Attributes:
        id: never used again for another one.
        first_frame: where it was born.
        score: of the detection it was born from, 0..1; 1 for a masklet that a user has drawn or corrected.
        keep_alive: up by one when a detection matches, down by one when it is unseen; at 0 or below it is lost.
        detection_score: the paper's masklet detection score over its whole life: frames seen minus frames unseen.
        unseen_frames: frames of its trial on which it was unseen.
        duplicate_frames: id of an older masklet -> frames of the trial on which the two shared a detection.
        last_occluded: the last frame on which it was empty or suppressed behind another one.
        is_confirmed: its trial is over, or a user wants it: it is not removed any more.
    """

    id: int
    first_frame: int
    score: float
    keep_alive: int
    detection_score: int = 0
    unseen_frames: tuple[int, ...] = ()
    duplicate_frames: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    last_occluded: int | None = None
    is_confirmed: bool = False


@dataclass(frozen=True)
class LifeCycle:
    """All masklets of a session so far.

    Attributes:
        alive: those that are tracked, oldest id first.
        removed: those that are not any more, as they were when they were removed.
        next_id: of the next one to be born.
    """

    alive: tuple[MaskletLife, ...] = ()
    removed: tuple[MaskletLife, ...] = ()
    next_id: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of those alive."""
        return tuple(life.id for life in self.alive)

    @property
    def removed_ids(self) -> frozenset[int]:
        """Ids that no result may show, earlier frames included."""
        return frozenset(life.id for life in self.removed)

    def __getitem__(self, masklet_id: int) -> MaskletLife:
        """The masklet of an id, alive or removed.

        Raises:
            KeyError: there is none; the message says which there are.
        """
        for life in (*self.alive, *self.removed):
            if life.id == masklet_id:
                return life
        raise KeyError(f"masklet {masklet_id} does not exist; alive are {self.ids}, removed {sorted(self.removed_ids)}")


@dataclass(frozen=True)
class FrameDecisions:
    """What to do on a frame.

    Attributes:
        born: (masklet, detection): start tracking this detection's mask under this id.
        removed_ids: stop tracking, and leave out of all results that have not been handed out.
        suppressed_ids: set their mask logits to `SUPPRESSED_LOGIT`, in the result and in what is remembered.
        lost_ids: leave out of this frame's result only.
        recondition: (masklet, detection): give this detection's mask to the tracker as a prompt for this masklet.
        num_dropped: new detections that found no room.
    """

    born: tuple[tuple[int, int], ...] = ()
    removed_ids: tuple[int, ...] = ()
    suppressed_ids: tuple[int, ...] = ()
    lost_ids: tuple[int, ...] = ()
    recondition: tuple[tuple[int, int], ...] = ()
    num_dropped: int = 0


def live(
    cycle: LifeCycle,
    association: Association,
    detections: Detections | None,
    carried: CarriedMasks,
    frame: int,
    config: VideoConfig,
    *,
    is_backward: bool = False,
) -> tuple[FrameDecisions, LifeCycle]:
    """What happens to all masklets on one frame.

    Args:
        cycle: the masklets before this frame.
        association: from `associate`, of the same detections and carried masks.
        detections: from `keep_detections`; None when the detector did not look.
        carried: the masks of exactly the masklets that are alive.
        frame: index of the frame.
        config: thresholds.
        is_backward: whether the video is played backwards.

    Returns:
        The decisions, and the masklets after this frame.

    Raises:
        ValueError: `carried` has other masklets than `cycle`.

    Example:
        >>> import torch
        >>> config, nothing = VideoConfig(), CarriedMasks((), torch.zeros(0, 4, 4), torch.zeros(0))
        >>> found = Detections(torch.tensor([0.9]), torch.ones(1, 4, 4))
        >>> decisions, cycle = live(LifeCycle(), Association(new=(0,)), found, nothing, 0, config)
        >>> decisions.born, cycle.ids
        (((0, 0),), (0,))
    """
    if sorted(carried.ids) != sorted(cycle.ids):
        raise ValueError(
            f"masks of the masklets {carried.ids} were given, alive are {cycle.ids}; expected one mask for each"
        )
    judged = _judge(cycle.alive, association, frame, config, is_backward=is_backward)
    leaving = {life.id for life in judged if _has_failed(life, frame, config, is_backward=is_backward)}
    suppressed = _suppressed(judged, carried, leaving, config, is_backward=is_backward)
    is_shown = (carried.mask_logits > 0).flatten(1).any(1).tolist()
    occluded = suppressed | {one for one, shown in zip(carried.ids, is_shown, strict=True) if not shown}
    stayed = tuple(
        replace(life, last_occluded=frame) if life.id in occluded else life for life in judged if life.id not in leaving
    )
    children, num_dropped = _births(association.new, detections, frame, len(stayed), cycle.next_id, config)
    decisions = FrameDecisions(
        born=tuple((child.id, found) for child, found in children),
        removed_ids=tuple(life.id for life in judged if life.id in leaving),
        suppressed_ids=tuple(life.id for life in stayed if life.id in suppressed),
        lost_ids=tuple(life.id for life in stayed if config.suppresses_lost and life.keep_alive <= 0),
        recondition=_to_recondition(association.candidates, carried, leaving, frame, config),
        num_dropped=num_dropped,
    )
    removed = cycle.removed + tuple(life for life in judged if life.id in leaving)
    alive = stayed + tuple(child for child, _ in children)
    return decisions, LifeCycle(alive, removed, cycle.next_id + len(children))


def suppress(carried: CarriedMasks, masklet_ids: Sequence[int]) -> CarriedMasks:
    """The carried masks with those of some masklets suppressed.

    Args:
        carried: masks of a frame.
        masklet_ids: `FrameDecisions.suppressed_ids`.

    Returns:
        The same masklets; suppressed ones have `SUPPRESSED_LOGIT` everywhere.
    """
    rows = [row for row, one in enumerate(carried.ids) if one in masklet_ids]
    if not rows:
        return carried
    mask_logits = carried.mask_logits.clone()
    mask_logits[rows] = SUPPRESSED_LOGIT
    return replace(carried, mask_logits=mask_logits)


# --------------------------------------------------------------------------------------------------- wishes of a user
def add_masklet(cycle: LifeCycle, frame: int, config: VideoConfig) -> tuple[int, LifeCycle]:
    """A masklet that a user has drawn on a frame: its id, and the masklets with it. Its score is 1; it has no trial."""
    life = MaskletLife(cycle.next_id, frame, 1.0, config.keep_alive, is_confirmed=True)
    return life.id, replace(cycle, alive=(*cycle.alive, life), next_id=cycle.next_id + 1)


def confirm_masklet(cycle: LifeCycle, masklet_id: int) -> LifeCycle:
    """The masklets after a user has corrected one: its score is 1, it is alive, and it is not removed by itself.

    Raises:
        KeyError: there is no such masklet.
    """
    confirmed = replace(cycle[masklet_id], score=1.0, is_confirmed=True)
    others = [life for life in cycle.alive if life.id != masklet_id]
    alive = tuple(sorted([*others, confirmed], key=lambda life: life.id))
    return replace(cycle, alive=alive, removed=_without(cycle.removed, masklet_id))


def remove_masklet(cycle: LifeCycle, masklet_id: int) -> LifeCycle:
    """The masklets after a user has removed one.

    Raises:
        KeyError: there is no such masklet.
    """
    life = cycle[masklet_id]
    return replace(cycle, alive=_without(cycle.alive, masklet_id), removed=(*_without(cycle.removed, masklet_id), life))


# ------------------------------------------------------------------------------------------------------------ results
def release(
    pending: Sequence[_Result], config: VideoConfig, *, is_last: bool = False
) -> tuple[tuple[_Result, ...], tuple[_Result, ...]]:
    """Results that may be handed out, and results to hold back until the trial of their masklets is decided.

    Leave out `LifeCycle.removed_ids` when handing out, not before: that is what the waiting is for.

    Args:
        pending: results held back so far and the newest one, oldest first.
        config: `hotstart_frames` results are gathered before the first is handed out; with 0 none is held back.
        is_last: whether the video ends here, so that all are handed out.

    Returns:
        (ready, pending).

    Example:
        >>> release("abc", VideoConfig(hotstart_frames=3, max_unseen=2, max_duplicate=2))
        (('a',), ('b', 'c'))
    """
    num_held = 0 if is_last else max(config.hotstart_frames - 1, 0)
    num_ready = max(len(pending) - num_held, 0)
    return tuple(pending[:num_ready]), tuple(pending[num_ready:])


# -------------------------------------------------------------------------------------------------------------- rules
def _age(life: MaskletLife, frame: int, *, is_backward: bool) -> int:
    """Frames since birth in playing order."""
    return life.first_frame - frame if is_backward else frame - life.first_frame


def _judge(
    lives: Sequence[MaskletLife], association: Association, frame: int, config: VideoConfig, *, is_backward: bool
) -> list[MaskletLife]:
    """The masklets with this frame's evidence added."""
    matched = {masklet_id for _, masklet_id in association.matches}
    keepers = _keepers(lives, association.matches, is_backward=is_backward)
    judged = []
    for life in lives:
        is_seen, is_unseen = life.id in association.seen_ids, life.id in association.unseen_ids
        is_over = _age(life, frame, is_backward=is_backward) >= config.hotstart_frames
        is_confirmed = life.is_confirmed or (is_over and not config.reference_quirks)
        keep_alive = min(life.keep_alive + (life.id in matched), config.keep_alive)
        unseen, shared = life.unseen_frames, life.duplicate_frames
        if not is_confirmed:
            unseen = (*unseen, frame) if is_unseen else unseen
            older = keepers.get(life.id, ())
            shared = {**shared, **{one: (*shared.get(one, ()), frame) for one in older}}
        judged.append(
            replace(
                life,
                keep_alive=max(keep_alive - is_unseen, _MIN_KEEP_ALIVE),
                detection_score=life.detection_score + is_seen - is_unseen,
                unseen_frames=unseen,
                duplicate_frames=shared,
                is_confirmed=is_confirmed,
            )
        )
    return judged


def _keepers(
    lives: Sequence[MaskletLife], matches: Sequence[tuple[int, int]], *, is_backward: bool
) -> dict[int, tuple[int, ...]]:
    """Masklet -> the masklets, first in playing order, that it shares a detection with."""
    birth = {life.id: (-life.first_frame if is_backward else life.first_frame) for life in lives}
    sharing: dict[int, list[int]] = {}
    for found, masklet_id in matches:
        sharing.setdefault(found, []).append(masklet_id)
    keepers: dict[int, tuple[int, ...]] = {}
    for group in sharing.values():
        keeper = min(group, key=lambda one: birth[one])
        for other in group:
            if other != keeper and keeper not in keepers.get(other, ()):
                keepers[other] = (*keepers.get(other, ()), keeper)
    return keepers


def _has_failed(life: MaskletLife, frame: int, config: VideoConfig, *, is_backward: bool) -> bool:
    """Whether the masklet is on trial, and has been unseen or a duplicate too often."""
    if life.is_confirmed or _age(life, frame, is_backward=is_backward) >= config.hotstart_frames:
        return False
    most_shared = max((len(frames) for frames in life.duplicate_frames.values()), default=0)
    return len(life.unseen_frames) >= config.max_unseen or most_shared >= config.max_duplicate


def _suppressed(
    lives: Sequence[MaskletLife], carried: CarriedMasks, leaving: set[int], config: VideoConfig, *, is_backward: bool
) -> set[int]:
    by_id = {life.id: life for life in lives}
    flags = suppress_overlapping(
        carried.mask_logits,
        [by_id[one].last_occluded for one in carried.ids],
        [one in leaving for one in carried.ids],
        config,
        is_backward=is_backward,
    )
    return {one for one, is_suppressed in zip(carried.ids, flags, strict=True) if is_suppressed}


def _births(
    new: Sequence[int],
    detections: Detections | None,
    frame: int,
    num_alive: int,
    next_id: int,
    config: VideoConfig,
) -> tuple[list[tuple[MaskletLife, int]], int]:
    """The masklets born, each with its detection, and how many new detections find no room."""
    if detections is None:
        return [], 0
    scores = detections.scores.tolist()
    strongest = sorted(new, key=lambda found: -scores[found])[: max(config.max_masklets - num_alive, 0)]
    born = [
        (MaskletLife(next_id + number, frame, scores[found], config.keep_alive), found)
        for number, found in enumerate(sorted(strongest))
    ]
    return born, len(new) - len(born)


def _to_recondition(
    candidates: Sequence[tuple[int, int]], carried: CarriedMasks, leaving: set[int], frame: int, config: VideoConfig
) -> tuple[tuple[int, int], ...]:
    """Those of the candidates whose masklets are sure of themselves, on the frames that are due."""
    if config.recondition_every <= 0 or frame % config.recondition_every:
        return ()
    logits = carried.object_score_logits
    scores = dict(zip(carried.ids, (logits if config.reference_quirks else logits.sigmoid()).tolist(), strict=True))
    return tuple(
        (one, found) for one, found in candidates if scores[one] > config.recondition_score and one not in leaving
    )


def _without(lives: tuple[MaskletLife, ...], masklet_id: int) -> tuple[MaskletLife, ...]:
    return tuple(life for life in lives if life.id != masklet_id)
