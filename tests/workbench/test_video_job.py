"""`workbench compare-video` and `workbench track` from files to report, with a very small model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3.video.source import open_video
from workbench.video_clips import rendered_clips
from workbench.video_evaluate import VideoEvaluation
from workbench.video_files import read_mask_pngs, read_videos, write_videos
from workbench.video_overlay import write_overlay

NUM = 2
Run = Callable[..., str]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labels.json` and folders of frames of three clips."""
    folder = tmp_path_factory.mktemp("labelled")
    clips = rendered_clips(3, seed=5, num_frames=NUM, size=64)
    for clip in clips:
        place = folder / "frames" / clip.name
        place.mkdir(parents=True)
        for number, frame in enumerate(np.asarray(clip.video)):
            Image.fromarray(frame).save(place / f"{number:05d}.png")
    write_videos([clip.truth for clip in clips if clip.truth is not None], folder / "labels.json")
    write_overlay(open_video(clips[0].video, frame_rate=8), [], folder / "clip.mp4")
    return folder


@pytest.fixture
def compare_labelled(succeed: Run, tmp_path: Path, video_weights: Path, labelled: Path) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        source = ["--labels", labelled / "labels.json", "--video", labelled / "frames"]
        return succeed("compare-video", *arguments, *source, "--model", video_weights, "--out", tmp_path / "out")

    return run


def test_an_adapter_that_learnt_nothing_changes_nothing(
    tmp_path: Path, compare_labelled: Callable[..., str], video_adapter: Callable[..., Path], labelled: Path
) -> None:
    printed = compare_labelled(video_adapter("tokens", 0.0), "--no-links")
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name, delta in comparison["metrics"].items():
        if name != "seconds_per_frame":
            assert delta["delta"] == 0 and delta["ci95"] == (None if name == "TETA" else [0, 0]), name
    num_questions = sum(len(video.phrases) for video in read_videos(labelled / "labels.json"))
    assert len(comparison["pairs"]) == num_questions and f"0 of {num_questions} questions got worse" in printed
    before, after = (VideoEvaluation.load(tmp_path / "out" / f"{name}.json") for name in ("before", "after"))
    for old, new in zip(before.clips, after.clips, strict=True):
        assert [m.rles for m in old.found.masklets] == [m.rles for m in new.found.masklets]
    assert sum(len(clip.found.masklets) for clip in before.clips) > 0
    assert (before.adapter, after.adapter) == ("", str(tmp_path / "adapter_tokens"))
    assert not (tmp_path / "out" / "links.json").exists()


def test_a_whole_comparison_lies_in_its_folder(
    tmp_path: Path, compare_labelled: Callable[..., str], video_adapter: Callable[..., Path]
) -> None:
    printed = compare_labelled(video_adapter("lora", 0.3))
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "after.json", "before.json", "clips", "comparison.json", "links.json", "report.html",
    ]  # fmt: skip
    assert re.search(r"pHOTA +\d", printed) and "linked" in printed and f"Report: {out / 'report.html'}" in printed
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["metrics"]["cgF1"]["ci95"] is not None and comparison["num_clips"] == 3
    folders = sorted((out / "clips").iterdir())
    assert [folder.name for folder in folders] == [f"{n + 1:03d}_clips-5-000{n}" for n in range(3)]
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["before_after.mp4", "masklets.json", "video.mp4"]
        assert open_video(folder / "before_after.mp4").num_frames == NUM
        assert open_video(folder / "video.mp4").size == (64, 64)
        data = json.loads((folder / "masklets.json").read_text())
        assert [side["title"] for side in data["sides"]] == ["before", "after: lora adapter"]
        assert len(data["frames"]) == NUM and (folder / data["video"]).exists()
    report = (out / "report.html").read_text()
    for text in ("second pass per frame", "What the tracker adds", "clips/001_clips-5-0000/before_after.mp4"):
        assert text in report
    links = VideoEvaluation.load(out / "links.json")
    assert links.has_labels and "linked detections" in links.model


def test_videos_without_labels_are_counted(
    tmp_path: Path, succeed: Run, video_weights: Path, labelled: Path, video_adapter: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    printed = succeed(
        "compare-video", video_adapter("decoder", 0.05), "--video", labelled / "clip.mp4", "--model", video_weights,
        "--out", out,
    )  # fmt: skip
    assert "Identity switches: unknown without labels" in printed and "seconds_per_frame" in printed
    comparison = json.loads((out / "comparison.json").read_text())
    assert sorted(pair["phrase"] for pair in comparison["pairs"]) == ["red circle", "star"]  # those of the adapter
    assert list(comparison["metrics"]) == ["seconds_per_frame"] and comparison["pairs"][0]["before"] is None
    report = (out / "report.html").read_text()
    assert "nothing is known about right and wrong" in report and "one pass per frame" in report


def test_without_an_adapter_the_tracker_is_compared_with_linking(
    tmp_path: Path, succeed: Run, video_weights: Path
) -> None:
    out = tmp_path / "out"
    printed = succeed(
        "compare-video", "--rendered", 1, "--frames", 2, "--seed", 4, "--model", video_weights, "--out", out
    )
    assert "linked detections" in printed and "too few for intervals" in printed
    content = json.loads((out / "comparison.json").read_text())
    assert content["before"]["model"].endswith("linked detections") and content["after"]["model"].endswith("tracker")
    assert content["before"]["data"] == "rendered clips, seed 4"
    assert {pair["video"] for pair in content["pairs"]} == {"clips-4-0000"}


def test_tracking_writes_videos_masks_and_labels(
    tmp_path: Path, succeed: Run, video_weights: Path, labelled: Path
) -> None:
    out = tmp_path / "out"
    printed = succeed(
        "track", labelled / "frames", "--phrase", "red circle", "--phrases", "star", "--model", video_weights,
        "--out", out, "--frame-rate", 6,
    )  # fmt: skip
    videos = read_videos(out / "masklets.json")
    assert [video.phrases for video in videos] == [("red circle", "star")] * 3
    assert sum(len(video.masklets) for video in videos) > 0
    for number, video in enumerate(videos, start=1):
        place = out / f"{number:03d}_{video.name}"
        for phrase in video.phrases:
            count = sum(masklet.phrase == phrase for masklet in video.masklets)
            assert f"{video.name}, {phrase}: {count} found, in " in printed
        assert open_video(place / "overlay.mp4").num_frames == NUM
        masks = read_mask_pngs(place / "masks")
        assert masks.num_frames == NUM and len(masks.masklets) <= len(video.masklets)
        data: dict[str, Any] = json.loads((place / "masklets.json").read_text())
        assert data["frame_rate"] == 6 and len(data["sides"][0]["masklets"]) == len(video.masklets)


def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, fail: Run, video_weights: Path, small_weights: Path, labelled: Path
) -> None:
    given = ["--model", video_weights, "--out", tmp_path / "out"]
    assert "expected either --video" in fail("compare-video", *given)
    assert "expected either --video" in fail("compare-video", "--labels", labelled / "labels.json", *given)
    assert "expected either --video" in fail("compare-video", "--rendered", 1, "--video", labelled, *given)
    assert "leave out --phrase" in fail("compare-video", "--rendered", 1, "--phrase", "star", *given)
    assert "nothing is asked" in fail("compare-video", "--video", labelled / "clip.mp4", *given)
    assert "nothing is asked" in fail("track", labelled / "clip.mp4", *given)
    assert "there is no" in fail("track", labelled / "missing.mp4", "--phrase", "star", *given)
    no_tracker = ["--model", small_weights, "--out", tmp_path / "out"]
    assert "has no tracker" in fail("track", labelled / "clip.mp4", "--phrase", "star", *no_tracker)
    assert not (tmp_path / "out").exists()
