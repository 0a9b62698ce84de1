"""Which frames are remembered: recorded choices of the original, and what the bank keeps and forgets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sam3.tracker.memory_bank import MAX_POINTERS, MemoryBank, MemoryEntry, choose_frames


def entry(quality: float = 1.0, *, is_conditioning: bool = False, objects: int = 1, value: float = 0.0) -> MemoryEntry:
    return MemoryEntry(
        torch.full((objects, 2, 3, 3), value),
        torch.full((objects, 4), value),
        torch.full((objects,), 20.0),
        torch.full((objects,), quality),
        is_conditioning,
    )


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, list[dict]]:
    return json.loads((golden / "tracker" / "choices.json").read_text())


def test_recorded_choices_of_conditioning_frames(cases: dict[str, list[dict]]) -> None:
    assert len(cases["conditioning"]) == 7
    for case in cases["conditioning"]:
        choice = choose_frames(case["frame"], case["conditioning"], {}, by_quality=False)
        assert list(choice.conditioning) == case["chosen"]


def test_recorded_choices_by_quality(cases: dict[str, list[dict]]) -> None:
    """Recorded places may name the neighbour although nothing is stored of it; it is then left empty."""
    assert len(cases["by_quality"]) == 7
    for case in cases["by_quality"]:
        qualities = {int(frame): quality for frame, quality in case["qualities"].items()}
        choice = choose_frames(
            case["frame"], [], qualities, num_frames=case["num_frames"], is_backward=case["is_backward"]
        )
        recent = [[7 - age, frame] for age, frame in reversed(choice.recent)]
        assert recent == [pair for pair in case["maps"] if pair[1] in qualities]
        pointers = [[distance, frame] for frame, distance in choice.pointers]
        assert pointers == [pair for pair in case["pointers"] if pair[1] in qualities]


def test_recorded_qualities(cases: dict[str, list[dict]]) -> None:
    for case in cases["quality"]:
        logits, ious = torch.tensor(case["object_score_logits"]), torch.tensor(case["iou_scores"])
        received = MemoryEntry(torch.zeros(len(ious), 1, 1, 1), torch.zeros(len(ious), 4), logits, ious, False).quality
        assert received == pytest.approx(case["quality"], abs=1e-6)


def test_an_unused_conditioning_frame_is_remembered_like_any_other() -> None:
    choice = choose_frames(20, [0, 5, 16, 19, 30, 18], {17: 0.5}, by_quality=False)
    assert choice.conditioning == (19, 30, 18, 16)
    assert choice.recent == ((3, 17),)
    choice = choose_frames(7, [0, 5, 16, 19, 30, 4], {}, by_quality=False)
    assert choice.conditioning == (5, 16, 4, 0) and choice.recent == ()
    choice = choose_frames(9, [8, 10, 7, 11, 6], {}, by_quality=False)
    assert choice.conditioning == (8, 10, 7, 11) and choice.recent == ((3, 6),)
    assert choice.pointers == ((8, 1), (7, 2), (6, 3)), "no pointer comes from what is still to come"


def test_time_runs_backward_too() -> None:
    choice = choose_frames(
        5, [9, 2], {6: 1.0, 7: 1.0, 8: 1.0, 4: 1.0}, num_frames=10, is_backward=True, by_quality=False
    )
    assert choice.recent == ((1, 6), (2, 7), (3, 8))
    assert choice.pointers == ((9, 4), (6, 1), (7, 2), (8, 3)) and choice.span == 9


@pytest.mark.parametrize("is_backward", [False, True])
@pytest.mark.parametrize("by_quality", [False, True])
def test_trimming_changes_no_later_choice(by_quality: bool, is_backward: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    whole, trimmed = MemoryBank(by_quality=by_quality), MemoryBank(by_quality=by_quality)
    order = range(59, -1, -1) if is_backward else range(60)
    most = 0
    for frame in order:
        if whole.entries:
            options = {"num_frames": 60, "is_backward": is_backward}
            assert whole.choose(frame, **options) == trimmed.choose(frame, **options)
        quality = float(torch.rand((), generator=generator)) * 0.02
        new = entry(quality, is_conditioning=frame in (order[0], 33))
        for bank in (whole, trimmed):
            bank.store(frame, new)
        trimmed.trim(frame, num_frames=60, is_backward=is_backward)
        most = max(most, len(trimmed.entries))
    assert most <= 2 + MAX_POINTERS and len(whole.entries) == 60


def test_what_is_recalled() -> None:
    bank = MemoryBank(by_quality=False)
    bank.store(0, entry(is_conditioning=True, value=10.0))
    for frame in range(1, 9):
        bank.store(frame, entry(value=float(frame)))
    memory = bank.recall(9, num_frames=12)
    assert [float(maps[0, 0, 0, 0]) for maps in memory.maps] == [10, 8, 7, 6, 5, 4, 3]
    assert memory.ages == (0, 1, 2, 3, 4, 5, 6)
    assert [float(pointer[0, 0]) for pointer in memory.pointers] == [10, 8, 7, 6, 5, 4, 3, 2, 1]
    assert memory.distances == (9, 1, 2, 3, 4, 5, 6, 7, 8) and memory.span == 11
    bank.store(8, entry(is_conditioning=True, value=80.0))
    assert [float(maps[0, 0, 0, 0]) for maps in bank.recall(9).maps][:2] == [10, 80]


def test_objects_can_be_forgotten() -> None:
    bank = MemoryBank()
    values = torch.tensor([1.0, 2.0, 3.0])
    new = MemoryEntry(values.view(3, 1, 1, 1), values.view(3, 1), values, values / 3, True)
    bank.store(0, new)
    bank.keep(torch.tensor([2, 0]))
    memory = bank.recall(1)
    assert memory.maps[0].flatten().tolist() == memory.pointers[0].flatten().tolist() == [3, 1]
    assert len(bank.entries[0]) == 2 and bank.entries[0].quality != new.quality


def test_a_bank_without_conditioning_frame_says_what_to_do() -> None:
    bank = MemoryBank()
    bank.store(3, entry())
    with pytest.raises(ValueError, match="memory of 1 frames has no conditioning frame .*; prompt the objects"):
        bank.recall(4)
