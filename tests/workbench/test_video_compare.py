"""Comparisons of videos: nothing changes against itself, losses come first, intervals follow the clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam3.video.results import FrameResult, Masklet, frame_result
from sam3.video.source import Video
from workbench.video_clips import VideoClip, rendered_clips
from workbench.video_compare import compare_evaluations, interval_text
from workbench.video_evaluate import ClipRecord, VideoEvaluation, evaluate_videos
from workbench.video_statistics import VIDEO_METRICS


@pytest.fixture(scope="module")
def clips() -> list[VideoClip]:
    return rendered_clips(4, seed=5, num_frames=4, size=64)


def measured(clips: Sequence[VideoClip], change: Any = lambda masklets, clip: masklets) -> VideoEvaluation:
    def follow(video: Video, phrases: Sequence[str], frame_rate: float | None) -> Iterator[FrameResult]:
        (clip,) = (clip for clip in clips if clip.video is video)
        assert clip.truth is not None
        masklets = change(list(clip.truth.masklets), clip)
        for frame in range(clip.truth.num_frames):
            if masklets:
                yield frame_result(masklets, frame)

    return evaluate_videos(follow, clips, model_name="oracle", data_name="rendered", progress=False)


@pytest.fixture(scope="module")
def right(clips: list[VideoClip]) -> VideoEvaluation:
    return measured(clips)


def without_first(masklets: list[Masklet], clip: VideoClip) -> list[Masklet]:
    return masklets[1:]


def test_against_itself_all_changes_are_zero(clips: list[VideoClip]) -> None:
    evaluation = measured(clips, without_first)
    comparison = compare_evaluations(evaluation, evaluation, num_resamples=50)
    assert set(comparison.metrics) == set(VIDEO_METRICS) - {"id_survival"}  # no object was away for long
    for name, delta in comparison.metrics.items():
        assert delta.delta == 0 and not delta.is_certain, name
        assert delta.ci95 == (None if name == "TETA" else (0.0, 0.0)), name
        assert delta.before == delta.after
    assert not comparison.regressions and all(pair.change == (0, 0, 0) for pair in comparison.pairs)
    assert len(comparison.pairs) == sum(len(clip.phrases) for clip in clips)


def test_losses_come_first(clips: list[VideoClip], right: VideoEvaluation) -> None:
    """An object is lost in one clip, a masklet is invented in another; the other clips stay as they are."""
    absent = next(p for p in clips[2].phrases if p not in {m.phrase for m in clips[2].truth.masklets})  # type: ignore[union-attr]

    def spoilt(masklets: list[Masklet], clip: VideoClip) -> list[Masklet]:
        if clip is clips[2]:
            return [*masklets, replace(masklets[0], id=90, phrase=absent)]
        return masklets[1:] if clip is clips[1] else masklets

    comparison = compare_evaluations(right, measured(clips, spoilt), num_resamples=200)
    worse = comparison.regressions
    assert {(pair.video, pair.is_worse) for pair in worse} == {(clips[1].name, True), (clips[2].name, True)}
    assert worse == comparison.pairs[: len(worse)]
    assert [pair.change for pair in comparison.pairs] == sorted(pair.change for pair in comparison.pairs)
    (alarm,) = (pair for pair in worse if pair.video == clips[2].name)
    assert (alarm.phrase, alarm.masklets_before, alarm.masklets_after) == (absent, 0, 1)
    assert alarm.change[:2] == (-1, -1) and alarm.frames_after == len(clips[2].truth.masklets[0])  # type: ignore[union-attr]
    assert set(comparison.videos[:2]) == {clips[1].name, clips[2].name}
    hota, absent_claims = comparison.metrics["pHOTA"], comparison.metrics["IL_FPR"]
    assert hota.delta < 0 and hota.ci95 is not None and hota.ci95[0] < hota.delta < hota.ci95[1]
    assert absent_claims.delta > 0
    assert comparison.metrics["TETA"].before == pytest.approx(1) and comparison.metrics["TETA"].delta < 0


def test_a_change_in_all_clips_is_certain_and_one_of_a_single_clip_is_not() -> None:
    many = rendered_clips(8, seed=8, num_frames=2, size=64)
    before = measured(many)
    all_lost = compare_evaluations(before, measured(many, lambda m, clip: m[len(m) // 2 + 1 :]))
    assert all_lost.metrics["pHOTA"].is_certain and all_lost.metrics["J&F"].is_certain
    one_lost = compare_evaluations(before, measured(many, lambda m, clip: m[(clip is many[0]) :]))
    assert not one_lost.metrics["pHOTA"].is_certain and one_lost.metrics["pHOTA"].delta < 0


def test_switches_are_a_loss_where_nothing_else_changed(right: VideoEvaluation) -> None:
    comparison = compare_evaluations(right, right, num_resamples=10)
    pair = next(pair for pair in comparison.pairs if pair.before is not None and pair.before.num_truth)
    assert pair.after is not None
    assert not pair.is_worse and replace(pair, after=replace(pair.after, id_switches=2)).is_worse
    better = replace(pair, before=replace(pair.before, f1=0.5), after=replace(pair.after, id_switches=2))  # type: ignore[type-var]
    assert not better.is_worse


def test_few_clips_have_no_intervals_and_say_so(tmp_path: Path, clips: list[VideoClip]) -> None:
    two = clips[:2]
    comparison = compare_evaluations(measured(two), measured(two, without_first))
    assert all(delta.ci95 is None for delta in comparison.metrics.values()) and comparison.num_resamples == 0
    assert "2 clips: too few for intervals" in comparison.note
    comparison.save(tmp_path / "comparison.json")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["metrics"]["pHOTA"]["delta"] < 0 and content["pairs"][0]["is_worse"]
    text = str(comparison)
    assert "pHOTA" in text and f"{len(comparison.regressions)} of {len(comparison.pairs)} questions got worse" in text


def test_clips_without_labels_are_counted_and_timed(clips: list[VideoClip], right: VideoEvaluation) -> None:
    def plain(evaluation: VideoEvaluation, factor: float) -> VideoEvaluation:
        records = tuple(ClipRecord(clip.found, None, factor * clip.found.num_frames) for clip in evaluation.clips)
        return replace(evaluation, clips=records, metrics={}, pairs=())

    comparison = compare_evaluations(plain(right, 1.0), plain(measured(clips, without_first), 1.5))
    assert list(comparison.metrics) == ["seconds_per_frame"]
    speed = comparison.metrics["seconds_per_frame"]
    assert (speed.before, speed.after, speed.ci95) == (1.0, 1.5, (0.5, 0.5))
    assert interval_text("seconds_per_frame", speed) == "+0.500 to +0.500"
    lost = sum(pair.masklets_before - pair.masklets_after for pair in comparison.pairs)
    assert lost == len(clips) and not comparison.regressions
    assert "Identity switches: unknown without labels" in str(comparison)


def test_other_clips_or_labels_are_refused(clips: list[VideoClip], right: VideoEvaluation) -> None:
    with pytest.raises(ValueError, match="4 clips before, 3 after"):
        compare_evaluations(right, measured(clips[:3]))
    others = [*clips[:3], replace(clips[3], truth=replace(clips[3].truth, masklets=clips[3].truth.masklets[1:]))]  # type: ignore[type-var, union-attr]
    with pytest.raises(ValueError, match="clips-5-0003.*labels .* masklets"):
        compare_evaluations(right, measured(others))
