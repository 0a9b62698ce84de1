"""A scripted scene of 48 frames, driven through the rules as a frame loop drives them, against the reference's trace.

Detector and tracker are played by the script that the reference was given: boxes on a 288 grid.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3.masks import divide_pixels, mask_boxes, mend_masks, suppress_covered
from sam3.model import Sam3
from sam3.predictor import VideoPredictor
from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.tracker import TrackerOutput
from sam3.video.association import CarriedMasks, Detections, associate, keep_detections
from sam3.video.following import CarriedObjects, Play
from sam3.video.frame_loop import EncodedFrame, Found, FrameLoop, Search
from sam3.video.masklets import FrameDecisions, LifeCycle, live, release, suppress
from sam3.video_config import VideoConfig

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "video_heuristics" / "heuristics_trace_forward.json").read_text()
)
SCENE = GOLDEN["scene"]
GRID = SCENE["mask_grid"]
HEIGHT, WIDTH = SCENE["video_hw"]
ROUND_LOST, HALF_SURE = (20, 150, 100, 230), (200, 20, 260, 80)  # boxes that the script treats in a special way


@dataclass(frozen=True)
class Result:
    """What is held back of a frame: ids, birth scores, masks at video size, and the scores that decide overlaps."""

    frame: int
    ids: tuple[int, ...]
    masks: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Step:
    """What happened on a frame, for comparison with the trace."""

    frame: int
    before: LifeCycle
    decisions: FrameDecisions
    after: LifeCycle
    covered: tuple[int, ...]
    scores: dict[int, float]


@dataclass
class Run:
    steps: list[Step] = field(default_factory=list)
    yielded: list[tuple[Result, LifeCycle, int]] = field(default_factory=list)


def box_logits(box: tuple[int, ...]) -> Tensor:
    logits = torch.full((GRID, GRID), -10.0)
    logits[box[1] : box[3], box[0] : box[2]] = 10.0
    return logits


def detect(frame: int) -> tuple[Detections, list[tuple[int, ...]]]:
    entries = SCENE["detections_per_frame"][frame]
    boxes = [tuple(entry["box"]) for entry in entries]
    scores = torch.tensor([entry["prob"] for entry in entries])
    return Detections(scores, torch.stack([box_logits(box) for box in boxes])), boxes


def carry(ids: tuple[int, ...], boxes: dict[int, tuple[int, ...]], frame: int, config: VideoConfig) -> CarriedMasks:
    """The script of the tracker: the box of birth, except for the two special ones."""
    masks, scores = torch.zeros(0, GRID, GRID), []
    for one in ids:
        is_lost = boxes[one] == ROUND_LOST and frame in (10, 11)
        masks = torch.cat([masks, torch.full((1, GRID, GRID), -10.0) if is_lost else box_logits(boxes[one])[None]])
        scores.append(-5.0 if is_lost else 0.5 if boxes[one] == HALF_SURE and frame == 32 else 5.0)
    return CarriedMasks(ids, mend_masks(masks, config.max_speck_area((GRID, GRID))), torch.tensor(scores))


def at_video_size(mask_logits: Tensor) -> Tensor:
    return F.interpolate(mask_logits[None], size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0] > 0


def play(config: VideoConfig) -> Run:
    """The frame loop: the frame with the prompt first by itself, then all frames from there on."""
    run, cycle, boxes = Run(), LifeCycle(), {}
    pending: tuple[Result, ...] = ()
    for number, frame in enumerate([0, *range(SCENE["num_frames"])]):
        queries, query_boxes = detect(frame)
        detections = keep_detections(queries, config)
        kept_boxes = [query_boxes[int((queries.scores == score).nonzero()[0, 0])] for score in detections.scores]
        carried = carry(cycle.ids, boxes, frame, config)
        association = associate(detections, carried, config)
        decisions, after = live(cycle, association, detections, carried, frame, config)
        shown = suppress(carried, decisions.suppressed_ids)
        remembered = suppress_covered(shown.mask_logits, config.min_front_share)
        is_covered = (remembered <= 0).flatten(1).all(1) & (shown.mask_logits > 0).flatten(1).any(1)
        boxes |= {one: kept_boxes[found] for one, found in decisions.born}
        new = [found for _, found in decisions.born]
        ids = carried.ids + tuple(one for one, _ in decisions.born)
        masks = at_video_size(torch.cat([shown.mask_logits, detections.mask_logits[new]]))
        scores = torch.cat([carried.object_score_logits.sigmoid(), detections.scores[new]])
        covered = tuple(one for one, flag in zip(carried.ids, is_covered.tolist(), strict=True) if flag)
        run.steps.append(Step(frame, cycle, decisions, after, covered, dict(zip(ids, scores.tolist(), strict=True))))
        cycle = after
        if number:  # the result of the prompted frame alone is not part of the pass
            pending = (*pending, Result(frame, ids, masks, scores))
            ready, pending = release(pending, config, is_last=frame == SCENE["num_frames"] - 1)
            run.yielded += [(result, cycle, number + 1) for result in ready]
    return run


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "with quirks"])
def run(request) -> Run:
    return play(VideoConfig(reference_quirks=request.param))


def golden_steps(run: Run) -> list[tuple[Step, dict[str, Any]]]:
    return list(zip(run.steps, GOLDEN["steps"], strict=True))


@pytest.mark.parity
def test_births_and_removals_equal_the_reference(run):
    for step, expected in golden_steps(run):
        assert step.frame == expected["frame"]
        assert list(step.after.ids) == expected["tracked_ids"], step.frame
        assert sorted(step.after.removed_ids) == expected["removed"], step.frame
        scores = {int(one): score for one, score in expected["det_score_of_obj"].items()}
        for one, score in scores.items():
            if score == -10_000.0:
                assert one in step.after.removed_ids
            else:
                assert step.after[one].score == pytest.approx(score, abs=1e-6)
        assert scores.keys() == {life.id for life in (*step.after.alive, *step.after.removed)}
    assert run.steps[-1].after.removed_ids == {1, 4, 5}


@pytest.mark.parity
def test_evidence_for_and_against_every_masklet_equals_the_reference(run):
    for step, expected in golden_steps(run):
        lives = (*step.after.alive, *step.after.removed)
        assert {str(life.id): life.keep_alive for life in lives} == expected["keep_alive"], step.frame
        unseen = {str(life.id): list(life.unseen_frames) for life in lives if life.unseen_frames}
        assert unseen == expected["unmatched_frames"], step.frame
        shared = {f"{a},{life.id}": list(frames) for life in lives for a, frames in life.duplicate_frames.items()}
        assert shared == expected["dup_frames"], step.frame
        occluded = {
            str(life.id): -1 if life.last_occluded is None else life.last_occluded
            for life in step.after.alive
            if life.id in step.before.ids
        }
        assert occluded == expected["last_occluded"], step.frame


@pytest.mark.parity
def test_shown_masklets_and_their_scores_equal_the_reference(run):
    for step, expected in golden_steps(run):
        assert step.decisions.suppressed_ids == step.decisions.lost_ids == ()
        assert sorted(step.scores) == expected["output_mask_ids"], step.frame
        if step is not run.steps[1]:  # there the reference shows the score of the prompt itself
            scores = {int(one): score for one, score in expected["tracker_score"].items()}
            assert step.scores == pytest.approx(scores, abs=5e-5), step.frame


@pytest.mark.parity
def test_reconditioned_masklets_equal_the_reference(run):
    """The reference notes it as a further conditioning frame of all masklets born together, and as encoder calls."""
    conditioned: dict[int, list[int]] = {}
    for step, expected in golden_steps(run):
        for one, _ in step.decisions.born:
            conditioned[one] = [step.frame]
        born_together = {step.after[one].first_frame for one, _ in step.decisions.recondition if one in step.after.ids}
        for life in step.after.alive:
            if life.first_frame in born_together and step.frame not in conditioned[life.id]:
                conditioned[life.id].append(step.frame)
        for bucket, frames in zip(expected["buckets"], expected["cond_frames_per_bucket"], strict=True):
            assert all(conditioned[one] == frames for one in bucket), step.frame
        num_prompts = sum(call["mask_shape"][-1] == 1008 for call in expected["memory_encoder_calls"])
        assert len(step.decisions.recondition) == num_prompts - bool(step.decisions.born), step.frame
    by_frame = {step.frame: step.decisions.recondition for step in run.steps if step.decisions.recondition}
    assert {frame: [one for one, _ in pairs] for frame, pairs in by_frame.items()} == {
        0: [0, 2],
        16: [0, 2],
        32: [0, 2, 6],
    }


@pytest.mark.parity
def test_masklets_remembered_as_covered_equal_the_reference(run):
    num_covered = 0
    for step, expected in golden_steps(run):
        calls = [call for call in expected["memory_encoder_calls"] if call["mask_shape"][-1] == 1152]
        means = [mean for call in calls for mean in call["mean_of_scaled_mask_per_object"]]
        is_empty = dict(zip(step.before.ids, [mean < -9.99 for mean in means], strict=True))
        is_lost = {one: step.scores[one] < 0.5 for one in step.before.ids}
        assert [one for one, empty in is_empty.items() if empty and not is_lost[one]] == list(step.covered), step.frame
        num_covered += len(step.covered)
    assert num_covered == 16  # two duplicates on eight frames


@pytest.mark.parity
def test_results_and_when_they_are_handed_out_equal_the_reference(run):
    assert len(run.yielded) == len(GOLDEN["yielded"]) == SCENE["num_frames"]
    for (result, cycle, num_frames), expected in zip(run.yielded, GOLDEN["yielded"], strict=True):
        is_shown = torch.tensor([one not in cycle.removed_ids for one in result.ids]) & result.masks.flatten(1).any(1)
        ids = [one for one, shown in zip(result.ids, is_shown.tolist(), strict=True) if shown]
        assert (result.frame, ids, num_frames) == (
            expected["frame"],
            expected["ids"],
            expected["frames_processed_so_far"],
        )
        assert [cycle[one].score for one in ids] == pytest.approx(expected["probs"], abs=1e-6)
        masks = result.masks[is_shown]
        x0, y0, x1, y1 = mask_boxes(masks).unbind(1)
        boxes = torch.stack([x0 / WIDTH, y0 / HEIGHT, (x1 - x0 - 1) / WIDTH, (y1 - y0 - 1) / HEIGHT], dim=1)
        torch.testing.assert_close(boxes, torch.tensor(expected["boxes_xywh"]), atol=6e-5, rtol=0)
        areas = divide_pixels(masks, result.scores[is_shown]).sum((1, 2)).tolist()
        if result.frame:  # on the prompted frame the reference shows its stored prompt, a pixel smaller
            assert areas == expected["mask_areas"]


class ScriptedFollowing:
    """Plays the script of the tracker."""

    def __init__(self, config: VideoConfig):
        self.config, self.boxes = config, dict[int, tuple[int, ...]]()

    def is_hinted(self, masklet_id: int, frame: int) -> bool:
        return False

    def carry(self, features: Any, ids: Collection[int], play: Play) -> CarriedObjects | None:
        kept = tuple(one for one in self.boxes if one in ids)
        if not kept:
            return None
        carried = carry(kept, self.boxes, play.frame, self.config)
        scores = carried.object_score_logits
        nothing = MaskCandidates(carried.mask_logits[:, None], scores[:, None], scores[:, None, None], scores)
        output = TrackerOutput(carried.mask_logits, scores, scores, scores[:, None], nothing)
        return CarriedObjects(kept, output)

    def remember(self, *args: Any, **how: Any) -> None:
        pass

    def start(self, features: Any, ids: Sequence[int], mask_logits: Tensor, play: Play) -> None:
        for one, box in zip(ids, mask_boxes(mask_logits > 0).int().tolist(), strict=True):
            self.boxes[one] = tuple(box)

    def stop(self, ids: Collection[int]) -> None:
        self.boxes = {one: box for one, box in self.boxes.items() if one not in ids}


@pytest.mark.parity
@pytest.mark.parametrize("quirks", [False, True], ids=["ours", "with quirks"])
def test_a_session_hands_out_what_the_reference_does(
    clickable: Sam3, monkeypatch: pytest.MonkeyPatch, quirks: bool
) -> None:
    """The whole session, in which only the two networks are played by the script."""
    config, looked_at = VideoConfig(reference_quirks=quirks), []

    def found(self: FrameLoop, encoded: EncodedFrame, searches: Sequence[Search]) -> list[Found | None]:
        looked_at.append(encoded.frame)
        return [Found(keep_detections(detect(encoded.frame)[0], config), 1.0) for _ in searches]

    monkeypatch.setattr(FrameLoop, "_detect", found)
    session = VideoPredictor(clickable, config).open(np.zeros((SCENE["num_frames"], HEIGHT, WIDTH, 3), np.uint8))
    monkeypatch.setattr(session._loop, "following", ScriptedFollowing(config))
    session.add("thing")
    results = session.propagate()
    for expected in GOLDEN["yielded"]:
        result = next(results)
        assert (result.frame, result.ids.tolist()) == (expected["frame"], expected["ids"])
        assert len(looked_at) == expected["frames_processed_so_far"] - 1  # the reference does the first frame twice
        assert result.detection_scores == pytest.approx(expected["probs"], abs=1e-6)
        if result.frame:
            assert [rle.area for rle in result.rles] == expected["mask_areas"]
    assert next(results, None) is None
