"""Sessions: what is searched, played, kept, corrected and forgotten, in which order, and what is refused.

Detector and tracker are played by a script, a world of boxes that a test can lay out frame by frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sam3.masks import mask_iou
from sam3.model import Sam3
from sam3.predictor import VideoPredictor
from sam3.prompts import Click, ObjectPrompt, Prompt
from sam3.tracker.mask_decoder import MaskCandidates
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import TrackerOutput
from sam3.video.association import Detections
from sam3.video.following import CarriedObjects, Play
from sam3.video.frame_loop import EncodedFrame, Found, FrameLoop, Search
from sam3.video.session import VideoSession
from sam3.video.source import VideoError
from sam3.video_config import VideoConfig

GRID, SIDE = 32, 64


def logits_of(box: Sequence[int]) -> Tensor:
    logits = torch.full((GRID, GRID), -10.0)
    logits[box[1] : box[3], box[0] : box[2]] = 10.0
    return logits


@dataclass
class World:
    """Boxes (x0, y0, x1, y1) on the grid by name and frame, what the detector says of them, and what was called."""

    boxes: dict[str, dict[int, tuple[int, int, int, int]]]
    found: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)  # phrase -> frame -> name -> score
    followed: dict[int, str] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def mask(self, name: str, frame: int) -> Tensor:
        box = self.boxes[name].get(frame)
        return torch.full((GRID, GRID), -10.0) if box is None else logits_of(box)

    def detect(self, encoded: EncodedFrame, searches: Sequence[Search]) -> list[Found | None]:
        answers: list[Found | None] = []
        for search in searches:
            question = search.question(encoded.frame)
            if question is None:
                answers.append(None)
                continue
            question.on_input((SIDE, SIDE), GRID)  # refuses what lies outside
            seen = self.found.get(question.phrase or "exemplar", {}).get(encoded.frame, {})
            masks = [self.mask(name, encoded.frame) for name in seen]
            stacked = torch.stack(masks) if masks else torch.zeros(0, GRID, GRID)
            answers.append(Found(Detections(torch.tensor(list(seen.values())), stacked), 0.75))
        if searches:
            self.calls.append(("detect", encoded.frame, [search.phrase for search in searches]))
        return answers


class ScriptedFollowing:
    """Follows what it was started on without a fault."""

    def __init__(self, world: World):
        self.world = world

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.world.followed)

    def is_hinted(self, masklet_id: int, frame: int) -> bool:
        return ("show", frame, masklet_id) in [call[:3] for call in self.world.calls]

    def carry(self, features: Any, ids: Collection[int], play: Play) -> CarriedObjects | None:
        kept = [one for one in self.world.followed if one in ids]
        self.world.calls.append(("carry", play.frame, kept))
        return self._output(kept, play.frame) if kept else None

    def remember(self, features: Any, carried: CarriedObjects, mask_logits: Tensor, play: Play, **how: Any) -> None:
        told = ("remember", play.frame, carried.ids, sorted(how["prompts"]), how["keeps_own_masks"])
        self.world.calls.append(told)

    def start(self, features: Any, ids: Sequence[int], mask_logits: Tensor, play: Play) -> None:
        names = list(self.world.boxes)
        truth = torch.stack([self.world.mask(name, play.frame) for name in names])
        best = mask_iou(mask_logits > 0, truth > 0).argmax(1).tolist()
        self.world.followed |= {one: names[row] for one, row in zip(ids, best, strict=True)}

    def show(self, features: Any, masklet_id: int, prompt: Hints | Tensor, frame: int) -> TrackerOutput:
        assert isinstance(prompt, Hints)
        x, y = (prompt.points_xy[0, prompt.labels[0].tolist().index(1)] * GRID).int().tolist()
        under = [name for name in self.world.boxes if self.world.mask(name, frame)[y, x] > 0]
        self.world.followed[masklet_id] = under[0]
        self.world.calls.append(("show", frame, masklet_id, prompt.mask_logits is not None))
        return self._output([masklet_id], frame).output

    def stop(self, ids: Collection[int]) -> None:
        self.world.followed = {one: name for one, name in self.world.followed.items() if one not in ids}

    def _output(self, ids: Sequence[int], frame: int) -> CarriedObjects:
        masks = torch.stack([self.world.mask(self.world.followed[one], frame) for one in ids])
        scores = torch.where((masks > 0).flatten(1).any(1), 3.0, -3.0)
        nothing = MaskCandidates(masks[:, None], torch.ones(len(ids), 1), torch.zeros(len(ids), 1, 1), scores)
        return CarriedObjects(tuple(ids), TrackerOutput(masks, torch.ones(len(ids)), scores, scores[:, None], nothing))


@pytest.fixture
def play_world(clickable: Sam3, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a predictor whose detector and tracker see a world."""

    make_loop = FrameLoop.__init__

    def make(world: World, config: VideoConfig | None = None) -> VideoPredictor:
        def scripted(self: FrameLoop, *args: Any, **kwargs: Any) -> None:
            make_loop(self, *args, **kwargs)
            self.following = ScriptedFollowing(world)  # type: ignore[assignment]
            monkeypatch.setattr(self, "_detect", world.detect)

        monkeypatch.setattr(FrameLoop, "__init__", scripted)
        return VideoPredictor(clickable, config)

    return make


BOX = {"a": (4, 4, 12, 12), "b": (18, 4, 26, 12), "c": (4, 18, 12, 26)}
QUICK = VideoConfig(hotstart_frames=0)


def blank(num_frames: int) -> np.ndarray:
    return np.zeros((num_frames, SIDE, SIDE, 3), dtype=np.uint8)


def still(num_frames: int, **frames: range) -> World:
    """Boxes that stay in their places in some of the frames, and are found as "thing" with a score of 0.9."""
    times = {name: frames.get(name, range(num_frames)) for name in BOX}
    boxes = {name: dict.fromkeys(times[name], BOX[name]) for name in BOX}
    seen = {frame: {name: 0.9 for name in BOX if frame in times[name]} for frame in range(num_frames)}
    return World(boxes, {"thing": seen})


def frames_of(results: Iterator[Any]) -> list[int]:
    return [result.frame for result in results]


def lengths(session: VideoSession) -> dict[int, list[int]]:
    return {one.id: one.frames.tolist() for one in session.masklets()}


def test_a_phrase_finds_every_instance_and_follows_each(play_world):
    world = still(6, b=range(2, 6), c=range(0, 4))
    session = play_world(world, QUICK).open(blank(6))
    first = session.add("thing")
    assert first.ids.tolist() == [0, 1] and first.phrases == ("thing", "thing")
    assert first.boxes_xyxy_px.tolist() == [[8, 8, 24, 24], [8, 36, 24, 52]]
    assert first.presence_scores.tolist() == [0.75, 0.75] and first.detection_scores == pytest.approx([0.9, 0.9])
    results = list(session.propagate())
    assert [result.ids.tolist() for result in results] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 2], [0, 2]]
    assert lengths(session) == {0: [0, 1, 2, 3, 4, 5], 1: [0, 1, 2, 3], 2: [2, 3, 4, 5]}
    assert [one.masklet_detection_score for one in session.masklets()] == [5, 3, 3]
    detections = session.to_detections(3)
    assert detections.tracker_id.tolist() == [0, 1, 2] and detections.xyxy[2].tolist() == [36, 8, 52, 24]


def test_each_frame_is_done_once_however_often_it_is_played(play_world):
    world = still(5)
    session = play_world(world, QUICK).open(blank(5))
    session.add("thing", frame=2)
    assert frames_of(session.propagate("both")) == [2, 3, 4, 1, 0]
    assert [call[1] for call in world.calls if call[0] == "detect"] == [2, 3, 4, 1, 0]
    world.calls.clear()
    assert frames_of(session.propagate("forward")) == [2, 3, 4]
    assert frames_of(session.propagate("backward", start=3)) == [3, 2, 1, 0]
    assert [len(result) for result in session.propagate("both", start=1)] == [3] * 5
    assert world.calls == []


def test_backward_starts_at_the_prompt_or_at_the_end_of_what_is_known(play_world):
    session = play_world(still(5), QUICK).open(blank(5))
    session.add("thing", frame=3)
    assert frames_of(session.propagate("backward", num_frames=2)) == [3, 2]
    assert frames_of(session.propagate("backward")) == [1, 0]
    assert frames_of(session.propagate("both", num_frames=1)) == [4, 3]


@pytest.mark.parametrize("stop", [1, 2, 5, 19, 20, 39])
def test_a_pass_that_is_stopped_goes_on_as_if_it_never_had_been(play_world, stop):
    """With the trial of new masklets on: what was computed is kept although it was not handed out yet."""
    world = still(40, b=range(7, 40), c=range(0, 25))
    whole = play_world(world).open(blank(40))
    whole.add("thing")
    expected = list(whole.propagate())
    other = still(40, b=range(7, 40), c=range(0, 25))
    session = play_world(other).open(blank(40))
    session.add("thing")
    player = session.propagate()
    seen = [next(player) for _ in range(stop)]
    player.close()
    seen += list(session.propagate())
    assert lengths(session) == lengths(whole)
    assert [call for call in other.calls if call[0] == "detect"] == [c for c in world.calls if c[0] == "detect"]
    assert [result.frame for result in seen] == [result.frame for result in expected]
    assert [result.ids.tolist() for result in seen] == [result.ids.tolist() for result in expected]
    for one, same in zip(session.masklets(), whole.masklets(), strict=True):
        assert one.rles == same.rles and one.masklet_detection_score == same.masklet_detection_score


def test_a_false_alarm_never_shows_and_results_wait_for_that(play_world):
    world = still(30, b=range(0), c=range(0))
    world.boxes["b"] = dict.fromkeys(range(30), BOX["b"])
    world.found["thing"][3]["b"] = 0.9  # found once, never again
    session = play_world(world).open(blank(30))
    session.add("thing")
    player = session.propagate()
    assert next(player).frame == 0
    assert max(call[1] for call in world.calls) == 14
    assert [result.ids.tolist() for result in player] == [[0]] * 29
    assert lengths(session).keys() == {0}
    quick = play_world(world, QUICK).open(blank(30))
    quick.add("thing")
    assert [len(result) for result in quick.propagate(num_frames=5)] == [1, 1, 1, 2, 2]


def test_phrases_do_not_disturb_each_other(play_world):
    """Two phrases may mean the same object; a third comes later and goes over the frames by itself."""
    world = still(4)
    world.found["square"] = {frame: {"a": 0.8} for frame in range(4)}
    world.found["late"] = {frame: {"b": 0.8} for frame in range(4)}
    session = play_world(world, QUICK).open(blank(4))
    session.add("thing")
    session.add("square")
    assert [result.phrases for result in session.propagate()] == [("thing",) * 3 + ("square",)] * 4
    world.calls.clear()
    session.add("late", frame=1)
    assert [result.phrases[-1] for result in session.propagate("both")] == ["late"] * 4
    assert [call[1:] for call in world.calls if call[0] == "detect"] == [(f, ["late"]) for f in (1, 2, 3, 0)]
    session.remove("thing")
    assert {one.phrase for one in session.masklets()} == {"square", "late"}
    assert sorted(world.followed.values()) == ["a", "b"]


def test_exemplars_alone_find_on_their_frame_and_are_followed_elsewhere(play_world):
    """In the released code such a session loses every object at the eighth frame."""
    world = still(30)
    world.found = {"exemplar": {0: {"a": 0.9, "b": 0.9}}}
    session = play_world(world).open(blank(30))
    session.add(Prompt(exemplar_boxes_xyxy_px=[[8, 8, 24, 24], [36, 8, 52, 24]]))
    assert [len(result) for result in session.propagate()] == [2] * 30
    assert [one.phrase for one in session.masklets()] == [None, None]
    quirky = play_world(world, VideoConfig(reference_quirks=True)).open(blank(30))
    world.followed.clear()
    quirky.add(Prompt(exemplar_boxes_xyxy_px=[[8, 8, 24, 24]]))
    assert [len(result) for result in quirky.propagate()] == [0] * 30


@pytest.mark.parametrize("quirks", [False, True])
def test_sure_masklets_are_told_anew_and_remembered_by_that_except_in_the_reference(play_world, quirks):
    world = still(34)
    session = play_world(world, VideoConfig(reference_quirks=quirks)).open(blank(34))
    session.add("thing")
    list(session.propagate())
    told = {call[1]: call[3:] for call in world.calls if call[0] == "remember" and call[3]}
    assert told == {16: ([0, 1, 2], quirks), 32: ([0, 1, 2], quirks)}


def test_exemplars_of_a_phrase_are_asked_on_their_frame_only():
    search = Search(Prompt("thing", [[1, 1, 5, 5]]), frame=3)
    assert search.question(3) is search.prompt
    other = search.question(4)
    assert other is not None and other.phrase == "thing" and not other.has_exemplars


def test_clicks_show_an_object_that_no_phrase_found(play_world):
    world = still(6)
    session = play_world(world).open(blank(6))
    shown = session.add(Click(44, 16), frame=3)
    assert shown.ids.tolist() == [session.newest_id] == [0] and shown.phrases == (None,)
    assert frames_of(session.propagate("both")) == [3, 4, 5, 2, 1, 0]
    assert lengths(session) == {0: [0, 1, 2, 3, 4, 5]}
    session.add([Click(16, 44), Click(40, 40, is_positive=False)], frame=3)
    session.add(ObjectPrompt([Click(16, 16)], box_xyxy_px=[6, 6, 26, 26]), frame=0)
    assert [len(result) for result in session.propagate()] == [2, 2, 2, 3, 3, 3]
    session.remove(1)
    assert lengths(session).keys() == {0, 2}


def test_a_correction_is_followed_alone_from_its_frame_on(play_world):
    world = still(6)
    world.found["thing"] = {frame: {"a": 0.9, "b": 0.9} for frame in range(6)}
    session = play_world(world, QUICK).open(blank(6))
    session.add("thing")
    list(session.propagate())
    world.calls.clear()
    corrected = session.add(Click(16, 44), frame=2, masklet_id=1)  # it was the third box all along
    assert corrected.ids.tolist() == [0, 1] and corrected.boxes_xyxy_px[1].tolist() == [8, 36, 24, 52]
    assert corrected.detection_scores == pytest.approx([0.9, 1.0])
    assert ("show", 2, 1, True) in world.calls  # its earlier mask comes with the click
    assert frames_of(session.propagate()) == [2, 3, 4, 5]
    assert [call for call in world.calls if call[0] == "detect"] == []
    assert [call[2] for call in world.calls if call[0] == "carry"] == [[1]] * 3
    boxes = [one.boxes_xyxy_px[:, 1].tolist() for one in session.masklets()]
    assert boxes == [[8.0] * 6, [8.0, 8.0, 36.0, 36.0, 36.0, 36.0]]
    assert frames_of(session.propagate("backward")) == [1, 0]
    assert session.masklets()[1].boxes_xyxy_px[:, 1].tolist() == [36.0] * 6


def test_a_correction_ahead_of_time_stands_when_the_video_gets_there(play_world):
    world = still(8)
    session = play_world(world, QUICK).open(blank(8))
    session.add("thing")
    session.add(Click(16, 44), frame=5, masklet_id=1)
    told = session.result(5)
    world.followed[1] = "b"
    list(session.propagate())
    assert [rle for one, rle in zip(told.ids, told.rles, strict=True) if one == 1] == [session.masklets()[1].rle(5)]
    assert session.masklets()[1].boxes_xyxy_px[:, 0].tolist() == [36.0] * 5 + [8.0] + [36.0] * 2


def test_a_start_further_on_leaves_no_gap(play_world):
    world = still(10)
    session = play_world(world, QUICK).open(blank(10))
    session.add("thing")
    assert frames_of(session.propagate(start=6, num_frames=2)) == [6, 7]
    assert [call[1] for call in world.calls if call[0] == "detect"] == list(range(8))
    assert [len(result) for result in session.propagate(start=0)] == [3] * 10
    assert [call[1] for call in world.calls if call[0] == "detect"] == list(range(10))


def test_both_ways_from_two_prompts_hands_out_each_frame_once(play_world):
    world = still(8)
    world.found["other"] = {frame: {"a": 0.9} for frame in range(8)}
    session = play_world(world, QUICK).open(blank(8))
    session.add("thing")
    session.add("other", frame=4)
    assert sorted(frames_of(session.propagate("both"))) == list(range(8))
    assert sorted(frames_of(session.propagate("both"))) == list(range(8))


@pytest.mark.parametrize("broken", ["carry", "remember", "start"])
def test_an_error_within_a_frame_leaves_the_session_as_it_was(play_world, monkeypatch, broken):
    world = still(6, b=range(3, 6))
    session = play_world(world, QUICK).open(blank(6))
    session.add("thing")
    list(session.propagate(num_frames=3))
    with monkeypatch.context() as patch:

        def fail(*args: Any, **how: Any) -> None:
            raise MemoryError("no room")

        patch.setattr(session._loop.following, broken, fail)
        with pytest.raises(MemoryError):
            list(session.propagate())
    assert frames_of(session.propagate()) == [3, 4, 5]
    assert lengths(session) == {0: [0, 1, 2, 3, 4, 5], 1: [0, 1, 2, 3, 4, 5], 2: [3, 4, 5]}


def test_two_passes_do_not_run_at_once(play_world):
    session = play_world(still(4), QUICK).open(blank(4))
    session.add("thing")
    one, other = session.propagate(), session.propagate()
    next(one)
    with pytest.raises(ValueError, match="being played"):
        next(other)
    assert frames_of(one) == [1, 2, 3]


def test_a_false_alarm_takes_no_pixels_from_what_was_there(play_world):
    world = World({"a": dict.fromkeys(range(12), (4, 4, 20, 12)), "b": {0: (14, 4, 28, 12)}})
    world.found["thing"] = {0: {"a": 0.8, "b": 0.9}} | {frame: {"a": 0.8} for frame in range(1, 12)}
    world.boxes["b"] |= dict.fromkeys(range(1, 12), (14, 4, 28, 12))
    session = play_world(world).open(blank(12))
    assert session.add("thing").boxes_xyxy_px.tolist() == [[8, 8, 28, 24], [28, 8, 56, 24]]
    results = list(session.propagate())
    assert results[0].boxes_xyxy_px.tolist() == [[8, 8, 40, 24]]


def test_what_a_user_does_not_want_is_followed_unseen(play_world):
    world = still(6)
    session = play_world(world, QUICK).open(blank(6))
    session.add("thing")
    session.remove(1)
    assert [result.ids.tolist() for result in session.propagate()] == [[0, 2]] * 6
    assert session.newest_id == 2
    assert session.add(Click(44, 16), frame=2, masklet_id=1).ids.tolist() == [0, 1, 2]


def test_a_masklet_that_a_user_wants_comes_back(play_world):
    world = still(30, b=range(0), c=range(0))
    world.boxes["b"] = dict.fromkeys(range(30), BOX["b"])
    world.found["thing"][3]["b"] = 0.9
    session = play_world(world).open(blank(30))
    session.add("thing")
    list(session.propagate())
    assert lengths(session).keys() == {0}
    session.add(Click(44, 16), frame=5, masklet_id=1)
    list(session.propagate())
    assert lengths(session)[1][-25:] == list(range(5, 30))


def test_overlapping_masks_of_a_search_are_divided(play_world):
    world = World({"a": dict.fromkeys(range(2), (4, 4, 20, 12)), "b": dict.fromkeys(range(2), (14, 4, 28, 12))})
    world.found["thing"] = {frame: {"a": 0.9, "b": 0.8} for frame in range(2)}
    session = play_world(world, QUICK).open(blank(2))
    first = session.add("thing")
    assert first.masks.sum(0).max() == 1
    assert first.boxes_xyxy_px.tolist() == [[8, 8, 40, 24], [40, 8, 56, 24]]


# ---------------------------------------------------------------------------------------------------- what can go wrong
def test_a_frame_that_cannot_be_read_is_passed_over(play_world, tmp_path):
    for number in range(5):
        Image.fromarray(blank(1)[0]).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    session = play_world(still(5), QUICK).open(tmp_path)
    session.add("thing")
    with pytest.warns(UserWarning, match=r"2\.png.*passed over"):
        assert frames_of(session.propagate()) == [0, 1, 3, 4]
    assert frames_of(session.propagate()) == [0, 1, 3, 4]
    assert session.broken_frames == [2] and lengths(session)[0] == [0, 1, 3, 4]


@pytest.mark.filterwarnings("ignore:.*passed over")
def test_a_broken_end_is_no_reason_to_ask_for_it_again(play_world):
    for broken, prompted in ((4, 0), (0, 4), (4, 2)):
        frames: list[Any] = list(blank(5))
        frames[broken] = np.zeros(3, dtype=np.uint8)
        session = play_world(still(5), QUICK).open(frames)
        session.add("thing", frame=prompted)
        expected = [frame for frame in range(5) if frame != broken]
        assert sorted(frames_of(session.propagate("both"))) == expected
        assert sorted(frames_of(session.propagate("both"))) == expected
        assert session.broken_frames == [broken]


def test_a_frame_of_another_size_ends_the_pass_and_nothing_is_lost(play_world):
    frames = [*blank(20), np.zeros((9, 9, 3), dtype=np.uint8)]
    session = play_world(still(21)).open(frames)
    session.add("thing")
    handed_out = []
    with pytest.raises(VideoError, match="frame 20 is 9x9, the video 64x64"):
        handed_out.extend(result.frame for result in session.propagate())
    assert lengths(session)[0] == list(range(20))


def test_a_camera_may_begin_with_a_broken_frame(play_world):
    frames: list[Any] = [np.zeros(3, dtype=np.uint8), *blank(4)]
    session = play_world(still(5), QUICK).open(iter(frames))
    with pytest.raises(VideoError, match="frame 0 cannot be read .*read on at frame 1"):
        session.add("thing")
    session.add("thing", frame=1)
    assert frames_of(session.propagate()) == [1, 2, 3, 4]


def test_a_camera_gives_each_result_at_once(play_world):
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for number, frame in enumerate(blank(7)):
            taken.append(number)
            yield frame

    session = play_world(still(7), QUICK).open(camera())
    session.add("thing")
    for result in session.propagate():
        assert taken[-1] == result.frame
    assert lengths(session)[0] == list(range(7)) and session.source.num_frames == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add(""), "expected a short noun phrase"),
        (lambda s: s.add("thing", frame=4), "4 was asked for"),
        (lambda s: s.add("thing", frame=-1), "-1 was asked for"),
        (lambda s: s.add(Click(70, 5)), "lies outside the picture, which is 64 pixels wide"),
        (lambda s: s.add(Prompt("thing", [[70, 1, 90, 5]])), "lies outside the picture"),
        (lambda s: s.add(Click(5, 5), masklet_id=9), r"masklet 9; the session has the masklets \[\]"),
        (lambda s: s.add("thing", masklet_id=0), "only clicks, boxes and masks correct one masklet"),
        (lambda s: s.add(5), "expected a phrase, a Prompt, clicks or an ObjectPrompt"),
        (lambda s: s.remove("thing"), "'thing' is not searched"),
        (lambda s: s.remove(3), "masklet 3"),
        (lambda s: s.propagate(), "call add with a phrase"),
        (lambda s: (s.add("thing"), s.add("thing")), "searched already"),
        (lambda s: (s.add("thing"), s.propagate("up")), "expected 'forward', 'backward' or 'both'"),
        (lambda s: (s.add("thing"), s.propagate(num_frames=0)), "expected at least 1"),
        (lambda s: (s.add("thing"), s.propagate(start=4)), r"frame 4 was asked for, but the array has 4 frames"),
        (lambda s: s.result(4), r"frame 4 was asked for, but the array has 4 frames \(0 to 3\)"),
        (lambda s: s.add("thing", frame=1.0), "received 1.0 for the number of a frame; expected a whole number"),
        (lambda s: s.add(Click(5, 5), frame=None), "received None for the number of a frame"),
        (lambda s: (s.add("thing"), s.propagate(num_frames=2.5)), "received 2.5 for num_frames"),
        (lambda s: s.add(["thing", "other"]), "received 2 phrases or prompts at once; expected one, call add for each"),
        (lambda s: s.add([]), "nothing that says which object is meant"),
    ],
)
def test_bad_input_is_refused_with_advice(play_world, call, message):
    session = play_world(still(4)).open(blank(4))
    with pytest.raises((ValueError, IndexError), match=message):
        call(session)


def test_nothing_is_added_while_the_video_is_played(play_world):
    session = play_world(still(4), QUICK).open(blank(4))
    session.add("thing")
    player = session.propagate()
    next(player)
    for call in (lambda: session.add("other"), lambda: session.remove(0), session.propagate):
        with pytest.raises(ValueError, match="close the iterator"):
            call()
    player.close()
    session.add("other")
