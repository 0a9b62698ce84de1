"""The life of masklets on 4 x 4 masks: trial, duplicates, suppression, re-conditioning, removal, held-back results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sam3.masks import SUPPRESSED_LOGIT
from sam3.video.association import CarriedMasks, Detections, associate
from sam3.video.masklets import (
    FrameDecisions,
    LifeCycle,
    add_masklet,
    confirm_masklet,
    live,
    release,
    remove_masklet,
    suppress,
)
from sam3.video_config import VideoConfig

SHORT = VideoConfig(hotstart_frames=4, max_unseen=2, max_duplicate=3, keep_alive=3)
REFERENCE = replace(SHORT, reference_quirks=True)
LEFT = torch.tensor([3.0, 3.0, -3.0, -3.0]).expand(4, 4)
RIGHT = -LEFT
EMPTY = torch.full((4, 4), -3.0)


def found(*pairs: tuple[float, torch.Tensor]) -> Detections:
    masks = [mask for _, mask in pairs]
    return Detections(
        torch.tensor([score for score, _ in pairs]), torch.stack(masks) if masks else torch.zeros(0, 4, 4)
    )


def carry(masks: dict[int, torch.Tensor], logit: float = 5.0) -> CarriedMasks:
    stack = torch.stack(list(masks.values())) if masks else torch.zeros(0, 4, 4)
    return CarriedMasks(tuple(masks), stack, torch.full((len(masks),), logit))


def step(
    cycle: LifeCycle,
    frame: int,
    detections: Detections | None,
    masks: dict[int, torch.Tensor],
    config: VideoConfig = SHORT,
    *,
    is_backward: bool = False,
    logit: float = 5.0,
) -> tuple[FrameDecisions, LifeCycle]:
    """One frame; `masks` are those of the masklets alive."""
    carried = carry({one: masks[one] for one in cycle.ids}, logit)
    association = associate(detections, carried, config)
    return live(cycle, association, detections, carried, frame, config, is_backward=is_backward)


def born(*pairs: tuple[float, torch.Tensor], frame: int = 0, config: VideoConfig = SHORT) -> LifeCycle:
    return step(LifeCycle(), frame, found(*pairs), {}, config)[1]


# --------------------------------------------------------------------------------------------------------------- birth
def test_detections_become_masklets_in_their_order():
    decisions, cycle = step(LifeCycle(), 5, found((0.6, LEFT), (0.9, RIGHT)), {})
    assert decisions == FrameDecisions(born=((0, 0), (1, 1)))
    assert [(life.first_frame, round(life.score, 1), life.keep_alive) for life in cycle.alive] == [
        (5, 0.6, 3),
        (5, 0.9, 3),
    ]
    assert (cycle.ids, cycle.next_id) == ((0, 1), 2)


def test_only_the_strongest_find_room():
    config = replace(SHORT, max_masklets=2)
    decisions, cycle = step(LifeCycle(), 0, found((0.6, LEFT), (0.9, RIGHT), (0.8, LEFT)), {}, config)
    assert (decisions.born, decisions.num_dropped) == (((0, 1), (1, 2)), 1)
    decisions, _ = step(cycle, 1, found((0.95, EMPTY)), {0: LEFT, 1: RIGHT}, config)
    assert (decisions.born, decisions.num_dropped) == ((), 1)


def test_masks_of_other_masklets_are_refused():
    cycle = born((0.9, LEFT))
    carried = carry({4: LEFT})
    with pytest.raises(ValueError, match=r"masks of the masklets \(4,\) were given, alive are \(0,\)"):
        live(cycle, associate(None, carried, SHORT), None, carried, 1, SHORT)


# --------------------------------------------------------------------------------------------------------------- trial
def test_a_masklet_unseen_too_often_while_on_trial_is_removed_for_good():
    cycle = born((0.9, LEFT))
    decisions, cycle = step(cycle, 1, found(), {0: LEFT})
    assert (decisions.removed_ids, cycle[0].unseen_frames, cycle[0].keep_alive) == ((), (1,), 2)
    decisions, cycle = step(cycle, 2, found((0.9, LEFT)), {0: LEFT})
    assert (decisions.removed_ids, cycle[0].unseen_frames, cycle[0].keep_alive) == ((), (1,), 3)
    decisions, cycle = step(cycle, 3, found((0.9, RIGHT)), {0: LEFT})  # in total, not in a row
    assert (decisions.removed_ids, decisions.born) == ((0,), ((1, 0),))
    assert (cycle.ids, cycle.removed_ids, cycle[0].unseen_frames) == ((1,), {0}, (1, 3))


def test_after_the_trial_a_masklet_stays_however_often_it_is_unseen():
    cycle = born((0.9, LEFT))
    for frame in range(1, 4):
        _, cycle = step(cycle, frame, found((0.9, LEFT)), {0: LEFT})
    for frame in range(4, 12):
        decisions, cycle = step(cycle, frame, found(), {0: LEFT})
        assert decisions.removed_ids == ()
    life = cycle[0]
    assert (life.is_confirmed, life.unseen_frames) == (True, ())  # nothing piles up
    assert (life.keep_alive, life.detection_score) == (-1, 3 - 8)


def test_without_trial_nobody_is_removed():
    config = replace(SHORT, hotstart_frames=0)
    cycle = born((0.9, LEFT), config=config)
    for frame in range(1, 12):
        decisions, cycle = step(cycle, frame, found(), {0: LEFT}, config)
        assert decisions.removed_ids == ()


def test_an_empty_masklet_is_not_unseen():
    cycle = born((0.9, LEFT))
    for frame in range(1, 4):
        decisions, cycle = step(cycle, frame, found(), {0: EMPTY})
    assert (decisions.removed_ids, cycle[0].keep_alive, cycle[0].detection_score) == ((), 3, 0)
    assert cycle[0].last_occluded == 3


def test_frames_without_a_look_cost_nothing_except_in_the_reference():
    ours = theirs = born((0.9, LEFT))
    for frame in (1, 2):
        _, ours = step(ours, frame, None, {0: LEFT})
        _, theirs = step(theirs, frame, None, {0: LEFT}, REFERENCE)
    assert (ours.ids, theirs.ids) == ((0,), ())


def test_the_younger_of_two_that_share_a_detection_is_removed():
    cycle = born((0.9, LEFT))
    _, cycle = step(cycle, 1, found((0.9, LEFT)), {0: EMPTY})  # lost, and born again
    assert cycle.ids == (0, 1)
    for frame in (2, 3, 4):
        decisions, cycle = step(cycle, frame, found((0.9, LEFT)), {0: LEFT, 1: LEFT})
        assert decisions.removed_ids == ((1,) if frame == 4 else ())
    assert dict(cycle[1].duplicate_frames) == {0: (2, 3, 4)}
    assert cycle[0].duplicate_frames == {}


def test_backwards_the_later_born_is_the_older():
    cycle = born((0.9, LEFT), frame=9)
    _, cycle = step(cycle, 8, found((0.9, LEFT)), {0: EMPTY}, is_backward=True)
    for frame in (7, 6, 5):
        decisions, cycle = step(cycle, frame, found((0.9, LEFT)), {0: LEFT, 1: LEFT}, is_backward=True)
    assert decisions.removed_ids == (1,)


def test_played_backwards_a_confirmed_masklet_is_not_tried_again_except_in_the_reference():
    outcomes = []
    for config in (SHORT, REFERENCE):
        cycle = born((0.9, LEFT), frame=10, config=config)
        for frame in range(11, 16):
            _, cycle = step(cycle, frame, found((0.9, LEFT)), {0: LEFT}, config)
        for frame in (9, 8):
            _, cycle = step(cycle, frame, found(), {0: LEFT}, config, is_backward=True)
        outcomes.append(cycle.ids)
    assert outcomes == [(0,), ()]


# --------------------------------------------------------------------------------------------------------- suppression
def test_of_two_on_top_of_each_other_the_one_occluded_last_is_suppressed():
    cycle = born((0.9, LEFT), (0.9, RIGHT))
    _, cycle = step(cycle, 1, None, {0: EMPTY, 1: RIGHT})
    decisions, cycle = step(cycle, 2, None, {0: RIGHT, 1: RIGHT})
    assert decisions.suppressed_ids == ()  # 1 was never occluded: nothing is known
    _, cycle = step(cycle, 3, None, {0: LEFT, 1: EMPTY})
    masks = {0: LEFT, 1: LEFT}
    decisions, cycle = step(cycle, 4, None, masks)
    assert decisions.suppressed_ids == (1,)
    assert (cycle[0].last_occluded, cycle[1].last_occluded) == (1, 4)
    shown = suppress(carry(masks), decisions.suppressed_ids)
    assert torch.equal(shown.mask_logits[0], LEFT)
    assert shown.mask_logits[1].unique().tolist() == [SUPPRESSED_LOGIT]


def test_lost_masklets_are_left_out_only_when_asked_for():
    for suppresses_lost in (False, True):
        config = replace(SHORT, suppresses_lost=suppresses_lost, hotstart_frames=0)
        cycle, lost = born((0.9, LEFT), config=config), []
        for frame in range(1, 5):
            decisions, cycle = step(cycle, frame, found(), {0: LEFT}, config)
            lost.append(decisions.lost_ids)
        decisions, _ = step(cycle, 5, found((0.9, LEFT)), {0: LEFT}, config)
        assert lost == ([(), (), (0,), (0,)] if suppresses_lost else [()] * 4)
        assert decisions.lost_ids == ((0,) if suppresses_lost else ())  # from -1 back to 0, still lost


# ----------------------------------------------------------------------------------------------------- re-conditioning
@pytest.mark.parametrize(
    ("frame", "logit", "ours", "reference"),
    [(16, 5.0, True, True), (17, 5.0, False, False), (16, 1.0, False, True), (16, 0.7, False, False)],
)
def test_sure_masklets_are_reconditioned_on_frames_that_are_due(frame, logit, ours, reference):
    for config, expected in ((SHORT, ours), (REFERENCE, reference)):
        decisions, _ = step(born((0.9, LEFT)), frame, found((0.9, LEFT)), {0: LEFT}, config, logit=logit)
        assert decisions.recondition == (((0, 0),) if expected else ())
    for often in (0, -1):  # configs written elsewhere say -1
        never = replace(SHORT, recondition_every=often)
        assert step(born((0.9, LEFT)), 16, found((0.9, LEFT)), {0: LEFT}, never)[0].recondition == ()


# --------------------------------------------------------------------------------------------------------------- users
def test_what_a_user_draws_or_corrects_is_not_removed():
    number, cycle = add_masklet(born((0.6, LEFT)), 0, SHORT)
    cycle = confirm_masklet(cycle, 0)
    assert (number, cycle[0].score, cycle[1].score) == (1, 1.0, 1.0)
    for frame in range(1, 8):
        _, cycle = step(cycle, frame, found(), {0: LEFT, 1: RIGHT})
    assert cycle.ids == (0, 1)


def test_a_correction_brings_a_removed_masklet_back_and_a_removal_is_final():
    cycle = born((0.6, LEFT), (0.7, RIGHT))
    cycle = remove_masklet(cycle, 0)
    assert (cycle.ids, cycle.removed_ids) == ((1,), {0})
    cycle = confirm_masklet(cycle, 0)
    assert (cycle.ids, cycle.removed_ids) == ((0, 1), frozenset())
    assert add_masklet(remove_masklet(cycle, 1), 3, SHORT)[0] == 2  # ids are not used again
    with pytest.raises(KeyError, match=r"masklet 7 does not exist; alive are \(0, 1\)"):
        remove_masklet(cycle, 7)


# ------------------------------------------------------------------------------------------------------------- results
def test_results_are_held_back_for_the_trial_and_flushed_at_the_end():
    handed, pending = [], ()
    for frame in range(6):
        ready, pending = release((*pending, frame), SHORT, is_last=frame == 5)
        handed.append(ready)
    assert handed == [(), (), (), (0,), (1,), (2, 3, 4, 5)]
    assert pending == ()
    assert release((0,), replace(SHORT, hotstart_frames=0)) == ((0,), ())


def test_a_trial_that_nobody_can_fail_is_refused():
    with pytest.raises(ValueError, match="max_unseen 8 and max_duplicate 8 were given for a trial of 5 frames"):
        VideoConfig(hotstart_frames=5)


def test_specks_grow_with_the_grid():
    assert [VideoConfig().max_speck_area((side, side)) for side in (64, 288, 576)] == [1, 16, 64]
