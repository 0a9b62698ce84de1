"""Measuring of videos: what is found is kept bit for bit, and right answers measure as right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3.video.results import FrameResult, Masklet, frame_result
from sam3.video.source import Video
from workbench.video_clips import VideoClip, rendered_clips
from workbench.video_evaluate import VideoEvaluation, evaluate_videos, follower
from workbench.video_statistics import VIDEO_METRICS


@pytest.fixture(scope="module")
def clips() -> list[VideoClip]:
    return rendered_clips(3, seed=5, num_frames=4, size=64)


def answering(clips: Sequence[VideoClip], change: Any = lambda masklets: masklets) -> Any:
    """A way to follow that knows the labels; `change` spoils the masklets of a clip."""

    def follow(video: Video, phrases: Sequence[str], frame_rate: float | None) -> Iterator[FrameResult]:
        (clip,) = (clip for clip in clips if clip.video is video)
        assert clip.truth is not None and tuple(phrases) == clip.phrases and frame_rate == clip.frame_rate
        masklets = change(list(clip.truth.masklets))
        for frame in range(clip.truth.num_frames):
            yield frame_result(masklets, frame)

    return follow


def measured(clips: Sequence[VideoClip], change: Any = lambda masklets: masklets) -> VideoEvaluation:
    return evaluate_videos(answering(clips, change), clips, model_name="oracle", data_name="rendered", progress=False)


def test_right_answers_measure_as_right(clips: list[VideoClip]) -> None:
    evaluation = measured(clips)
    for name in ("demo_cgf1_micro_50_95", "demo_ilmcc_50_95", "all_phrase_HOTA", "JF"):
        assert evaluation.metrics[f"video_mask_{name}"] == pytest.approx(1, abs=1e-4)
    assert evaluation.metrics["video_mask_id_switches"] == 0
    asked = [(clip.name, phrase) for clip in clips for phrase in clip.phrases]
    assert sorted((pair.video, pair.phrase) for pair in evaluation.pairs) == sorted(asked)
    for pair in evaluation.pairs:
        assert (pair.num_found, pair.num_false, pair.num_missed, pair.f1) == (pair.num_truth, 0, 0, 1)
        assert math.isnan(pair.hota) if not pair.num_truth else pair.hota == pytest.approx(1)
    assert any(not pair.num_truth for pair in evaluation.pairs) and evaluation.seconds_per_frame > 0


def test_a_lost_object_counts_as_missed(clips: list[VideoClip]) -> None:
    evaluation = measured(clips, lambda masklets: masklets[1:])
    assert sum(pair.num_missed for pair in evaluation.pairs) == len(clips)
    assert sum(pair.num_false for pair in evaluation.pairs) == 0
    assert 0 < evaluation.metrics["video_mask_all_phrase_HOTA"] < 1


def test_weighted_sums_give_the_evaluators_values(clips: list[VideoClip]) -> None:
    """The metrics of a comparison are those of `saco_video_metrics`, and repeating a clip is weighing it twice."""

    def spoilt(masklets: list[Masklet]) -> list[Masklet]:
        first = masklets[0]
        late = replace(
            first, id=90, frames=first.frames[2:], rles=first.rles[2:], boxes_xyxy_px=first.boxes_xyxy_px[2:],
            scores=first.scores[2:],
        )  # fmt: skip
        early = replace(
            first, frames=first.frames[:2], rles=first.rles[:2], boxes_xyxy_px=first.boxes_xyxy_px[:2],
            scores=first.scores[:2],
        )  # fmt: skip
        return [early, *([late] if len(late.frames) else []), *masklets[2:]]

    evaluation = measured(clips, spoilt)
    values = evaluation.statistics().values(np.ones((1, 3)))
    names = {
        "cgF1": "demo_cgf1_micro_50_95",
        "pmF1": "demo_positive_micro_f1_50_95",
        "IL_MCC": "demo_ilmcc_50_95",
        "pHOTA": "all_phrase_HOTA",
        "pDetA": "all_phrase_DetA",
        "pAssA": "all_phrase_AssA",
        "J&F": "JF",
        "id_switches": "id_switches",
    }
    for name, long_name in names.items():
        assert values[name][0] == pytest.approx(evaluation.metrics[f"video_mask_{long_name}"], abs=1e-9), name
    assert 0 < values["pHOTA"][0] < 1 and values["id_switches"][0] > 0
    assert values["seconds_per_frame"][0] == pytest.approx(evaluation.seconds_per_frame)
    assert set(values) == set(VIDEO_METRICS) - {"TETA"}
    twice = [*clips[:1], replace(clips[0], name="again", video=np.array(clips[0].video), truth=None), *clips[1:]]
    assert clips[0].truth is not None
    twice[1] = replace(twice[1], truth=replace(clips[0].truth, name="again"))
    repeated = measured(twice, spoilt).statistics().values(np.ones((1, 4)))
    weighted = evaluation.statistics().values(np.array([[2.0, 1.0, 1.0]]))
    for name in names:
        assert weighted[name][0] == pytest.approx(repeated[name][0], abs=1e-9), name


def test_a_file_brings_back_every_bit(tmp_path: Path, clips: list[VideoClip]) -> None:
    def scored(masklets: list[Masklet]) -> list[Masklet]:
        chance = np.random.default_rng(1)
        return [
            replace(
                masklet,
                scores=chance.random(len(masklet)).astype(np.float32),
                detection_score=float(np.float32(0.123456789)),
                masklet_detection_score=-3,
            )
            for masklet in masklets
        ]

    evaluation = measured(clips, scored)
    evaluation.save(tmp_path / "one.json")
    again = VideoEvaluation.load(tmp_path / "one.json")
    again.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json", "two.json"]
    old, new = evaluation.clips[0].found.masklets[0], again.clips[0].found.masklets[0]
    np.testing.assert_array_equal(old.scores, new.scores)
    np.testing.assert_array_equal(old.boxes_xyxy_px, new.boxes_xyxy_px)
    for name in ("rles", "phrase", "detection_score", "presence_score", "masklet_detection_score"):
        assert getattr(old, name) == getattr(new, name)
    np.testing.assert_equal([vars(pair) for pair in again.pairs], [vars(pair) for pair in evaluation.pairs])
    np.testing.assert_equal(again.metrics, evaluation.metrics)


def test_clips_without_labels_have_masklets_and_no_metrics(tmp_path: Path, clips: list[VideoClip]) -> None:
    plain = [replace(clip, truth=None) for clip in clips]

    def follow(video: Video, phrases: Sequence[str], frame_rate: float | None) -> Iterator[FrameResult]:
        (clip,) = (clip for clip in clips if clip.video is video)
        return answering(clips)(video, phrases, clip.frame_rate)

    evaluation = evaluate_videos(follow, plain, model_name="m", data_name="d", progress=False)
    assert evaluation.metrics == {} and evaluation.pairs == () and not evaluation.has_labels
    evaluation.save(tmp_path / "plain.json")
    assert VideoEvaluation.load(tmp_path / "plain.json").clips[0].truth is None
    with pytest.raises(ValueError, match="3 of 3 clips have no labels"):
        evaluation.statistics()


def test_clips_that_cannot_be_told_apart_are_refused(clips: list[VideoClip]) -> None:
    for wrong in ([], [clips[0], clips[0]], [clips[0], replace(clips[1], truth=None)]):
        with pytest.raises(ValueError, match="expected at least one, a name for each, and labels for all or none"):
            measured(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "is not JSON"),
        ("[]", "has the format 'list'"),
        ('{"format": "workbench-evaluation-1"}', "has the format 'workbench-evaluation-1'"),
        ('{"format": "workbench-video-evaluation-1"}', "is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        VideoEvaluation.load(tmp_path / "file.json")
    with pytest.raises(FileNotFoundError, match="no evaluation at"):
        VideoEvaluation.load(tmp_path / "missing.json")


def test_damaged_masks_are_refused(tmp_path: Path, clips: list[VideoClip]) -> None:
    measured(clips).save(tmp_path / "file.json")
    content = json.loads((tmp_path / "file.json").read_text())
    content["clips"][0]["found"]["masklets"][0]["counts"][0] = "00"
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged .*run lengths cannot be decoded"):
        VideoEvaluation.load(tmp_path / "file.json")


def test_a_session_is_asked_every_phrase_and_closed() -> None:
    calls: list[Any] = []

    class Recorder:
        def add(self, what: str) -> None:
            calls.append(what)

        def propagate(self) -> Iterator[FrameResult]:
            calls.append("played")
            yield FrameResult.of_masks(0, [], np.zeros((0, 4, 4), bool), scores=[], phrases=[])

        @contextmanager
        def open(self, video: Video, *, frame_rate: float | None = None) -> Iterator[Recorder]:
            calls.append(frame_rate)
            yield self
            calls.append("closed")

    results = list(follower(Recorder())(np.zeros((1, 4, 4, 3), np.uint8), ["cat", "dog"], 5.0))
    assert len(results) == 1 and calls == [5.0, "cat", "dog", "played", "closed"]
