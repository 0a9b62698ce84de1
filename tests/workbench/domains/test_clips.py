"""Rendered clips: they repeat, their masks are what is painted, and all that a tracker has to learn occurs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from workbench.domains.clips import Clip, render_clip, render_clips
from workbench.domains.phrases import COLOURS, UNNAMED_COLOUR
from workbench.video_files import read_videos, write_videos

NUM_FRAMES = 32


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return list(render_clips(24, seed=5, num_frames=NUM_FRAMES, size=128))


def seen_pixels(clip: Clip) -> np.ndarray:
    """(objects, F) how many pixels of each object are seen in each frame."""
    numbers = range(1, len(clip.objects) + 1)
    return np.stack([clip.masks(number).sum(axis=(1, 2)) for number in numbers])


def test_a_clip_depends_on_seed_and_index_only() -> None:
    few, more = (list(render_clips(num, seed=3, num_frames=4)) for num in (2, 3))
    for one, other in zip(few, more, strict=False):
        assert one.frames.tobytes() == other.frames.tobytes()
        assert one.instance_maps.tobytes() == other.instance_maps.tobytes()
        assert (one.objects, one.phrases) == (other.objects, other.phrases)
    assert few[0].frames.tobytes() != few[1].frames.tobytes()
    (again,) = render_clips(1, seed=4, num_frames=4)
    assert again.frames.tobytes() != few[0].frames.tobytes()


def test_masks_lie_on_the_pixels_of_their_objects(clips: list[Clip]) -> None:
    checked, wrong = 0, 0  # rings are left out: where they are thin, half their pixels are rim
    for clip in clips:
        for number, about in enumerate(clip.objects, start=1):
            if about.texture != "solid" or about.colour == UNNAMED_COLOUR or about.kind == "ring":
                continue
            for frame in range(0, NUM_FRAMES, 8):
                mask = clip.masks(number)[frame]
                if mask.sum() > 150:
                    checked += 1
                    colour = np.median(clip.frames[frame][mask], axis=0)
                    wrong += np.abs(colour - COLOURS[about.colour]).max() > 60
    assert checked > 80
    assert wrong <= 0.01 * checked


def test_what_is_outside_all_masks_does_not_depend_on_the_objects(clips: list[Clip]) -> None:
    """Where nothing is, now or later, a clip without a moving ground stays as it is, but for light and noise."""
    still = 0
    for clip in clips:
        empty = (clip.instance_maps == 0).all(axis=0)
        change = np.abs(np.diff(clip.frames[:, empty].astype(int).mean(axis=2), axis=0)).mean()
        still += change < 12
    assert still > 12


def test_objects_go_on_smoothly(clips: list[Clip]) -> None:
    steps = []
    for clip in clips:
        for number in range(1, len(clip.objects) + 1):
            masks = clip.masks(number)
            areas = masks.sum(axis=(1, 2))
            for frame in range(NUM_FRAMES - 1):
                one, two = areas[frame : frame + 2]
                if min(one, two) > 60 and abs(one - two) < 0.05 * one:
                    centres = [np.argwhere(masks[at]).mean(axis=0) for at in (frame, frame + 1)]
                    steps.append(float(np.linalg.norm(centres[1] - centres[0])))
    assert len(steps) > 1000
    assert np.quantile(steps, 0.99) < 10 and np.median(steps) > 0.5


def test_objects_are_hidden_for_about_ten_frames_and_come_back(clips: list[Clip]) -> None:
    gaps = []
    for clip in clips:
        for is_seen in seen_pixels(clip) > 0:
            frames = np.flatnonzero(is_seen)
            gaps += [gap - 1 for gap in np.diff(frames).tolist() if gap > 1]
    assert sum(5 <= gap <= 16 for gap in gaps) >= 3


def test_objects_leave_over_the_edge_and_come_back(clips: list[Clip]) -> None:
    returns = 0
    for clip in clips:
        for number in range(1, len(clip.objects) + 1):
            masks = clip.masks(number)
            frames = np.flatnonzero(masks.any(axis=(1, 2)))
            for before, after in zip(frames[:-1], frames[1:], strict=True):
                if after - before > 1:
                    edge = masks[before].copy()
                    edge[2:-2, 2:-2] = False
                    returns += bool(edge.any())
    assert returns >= 2


def test_objects_cross_grow_and_have_look_alikes(clips: list[Clip]) -> None:
    crossings, growths, twins, counts = 0, 0, 0, []
    for clip in clips:
        pixels = seen_pixels(clip)
        counts.append(len(clip.objects))
        growths += int((pixels.max(axis=1) > 2 * np.maximum(pixels[:, 0], 1)).sum())
        traits = [(item.kind, item.colour, item.texture) for item in clip.objects]
        twins += len(set(traits)) < len(traits)
        for one, two in combinations(range(1, len(clip.objects) + 1), 2):
            touching = [
                frame
                for frame in range(0, NUM_FRAMES, 4)
                if _touch(clip.instance_maps[frame] == one, clip.instance_maps[frame] == two)
            ]
            crossings += bool(touching)
    assert crossings > 18 and growths > 6 and twins >= 5
    assert min(counts) >= 2 and max(counts) >= 6


def _touch(one: np.ndarray, two: np.ndarray) -> bool:
    return bool((one[1:] & two[:-1]).any() or (one[:-1] & two[1:]).any() or (one[:, 1:] & two[:, :-1]).any())


def test_phrases_are_true_or_absent_and_name_no_size(clips: list[Clip]) -> None:
    for clip in clips:
        seen = [item for item, pixels in zip(clip.objects, seen_pixels(clip), strict=True) if pixels.any()]
        is_true = [any(map(phrase.matches, seen)) for phrase in clip.phrases]
        assert is_true == sorted(is_true, reverse=True) and 1 <= sum(is_true) <= 3 and not all(is_true)
        assert all(phrase.size is None for phrase in clip.phrases)


def test_a_clip_as_labelled_video(clips: list[Clip], tmp_path: Path) -> None:
    clip = clips[0]
    labels = clip.to_labels("clip-0")
    assert labels.phrases[: len(clip.phrases)] == tuple(phrase.text for phrase in clip.phrases)
    for phrase in clip.phrases:
        union = np.zeros(clip.instance_maps.shape, dtype=bool)
        for number, about in enumerate(clip.objects, start=1):
            if phrase.matches(about):
                union |= clip.masks(number)
        of_phrase = [masklet for masklet in labels.masklets if masklet.phrase == phrase.text]
        for frame in range(0, NUM_FRAMES, 5):
            joined = np.any([np.zeros((128, 128), bool), *(masklet.mask(frame) for masklet in of_phrase)], axis=0)
            np.testing.assert_array_equal(joined, union[frame])
    (read,) = read_videos(write_videos([labels], tmp_path / "clip.json"))
    assert [one.rles for one in read.masklets] == [one.rles for one in labels.masklets]
    assert set(read.phrases) == set(labels.phrases)


def test_small_and_short_clips_and_numbers_that_cannot_be_drawn() -> None:
    clip = render_clip(np.random.default_rng(0), num_frames=1, size=64, num_objects=(1, 1))
    assert clip.frames.shape == (1, 64, 64, 3) and clip.instance_maps.any()
    for options in ({"num_frames": 0}, {"size": 32}, {"num_objects": (3, 2)}):
        with pytest.raises(ValueError, match="expected at least 1 frame"):
            render_clip(np.random.default_rng(0), **options)  # type: ignore[arg-type]
