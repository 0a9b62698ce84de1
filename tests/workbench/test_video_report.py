"""The report on videos: what it says follows from the comparison, it needs nothing from outside, and it plays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import workbench.video_report as video_report
from sam3.video.results import FrameResult, Masklet, frame_result
from sam3.video.source import open_video
from workbench.video_clips import VideoClip, rendered_clips
from workbench.video_compare import VideoComparison, compare_evaluations
from workbench.video_evaluate import VideoEvaluation, evaluate_videos
from workbench.video_report import ClipFiles, headline, write_video_report
from workbench.video_sides import Side, draw_strip, write_sides

FACTS = {"model": "tiny", "adapter": "runs/<b>coins</b>/adapter"}


@pytest.fixture(scope="module")
def clips() -> list[VideoClip]:
    return rendered_clips(3, seed=5, num_frames=3, size=64)


def measured(clips: list[VideoClip], num_lost: int, name: str) -> VideoEvaluation:
    """Everything is found but `num_lost` objects of the second clip."""

    def follow(video: Any, phrases: Any, frame_rate: Any) -> Iterator[FrameResult]:
        (place,) = (place for place, clip in enumerate(clips) if clip.video is video)
        truth = clips[place].truth
        assert truth is not None
        masklets: tuple[Masklet, ...] = truth.masklets[num_lost if place == 1 else 0 :]
        yield from (frame_result(masklets, frame) for frame in range(3))

    return evaluate_videos(follow, clips, model_name=name, data_name="rendered & co", progress=False)


@pytest.fixture(scope="module")
def before(clips: list[VideoClip]) -> VideoEvaluation:
    return measured(clips, 0, "tiny")


@pytest.fixture(scope="module")
def comparison(clips: list[VideoClip], before: VideoEvaluation) -> VideoComparison:
    return compare_evaluations(before, measured(clips, 1, "tiny + adapter"), num_resamples=100)


@pytest.fixture
def files(tmp_path: Path, clips: list[VideoClip], before: VideoEvaluation) -> dict[str, ClipFiles]:
    made = {}
    for clip, record in zip(clips, before.clips, strict=True):
        sides = (Side("before", record.found.masklets), Side("after", record.found.masklets))
        folder = tmp_path / "clips" / clip.name
        write_sides(open_video(clip.video, frame_rate=4), sides, folder / "before_after.mp4")
        made[clip.name] = ClipFiles(folder, draw_strip(open_video(clip.video), sides))
    return made


class Page(HTMLParser):
    """What a browser would ask for, and the rows of the tables."""

    def __init__(self, path: Path):
        super().__init__()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "poster")]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def test_the_report_says_what_was_measured(
    tmp_path: Path, clips: list[VideoClip], comparison: VideoComparison, files: dict[str, ClipFiles]
) -> None:
    path = write_video_report(
        tmp_path, comparison, files, against_links=comparison, notes=["One pass serves both."], facts=FACTS
    )
    page = Page(path)
    delta = comparison.metrics["pHOTA"]
    assert f"pHOTA went from 100.0 to {100 * delta.after:.1f} ({100 * delta.delta:+.1f}" in headline(comparison)
    assert headline(comparison) in page.text and "One pass serves both." in page.text
    assert "runs/<b>coins</b>/adapter" in page.text and "rendered & co" in page.text
    assert f"0 of the questions got better, {len(comparison.regressions)} got worse" in page.text
    for title in ("What the tracker adds", "linked detections", "id switches", "seconds per frame"):
        assert title in page.text
    worst = comparison.pairs[0]
    questions = [row for row in page.rows if row and row[-1] and "clips-5-" in " ".join(row)]
    assert questions[0][:3] == [worst.phrase, "worse", worst.video]
    assert sum("worse" in row for row in questions) == len(comparison.regressions)
    assert page.text.index("clips-5-0001clips/") < page.text.index("clips-5-0000clips/")  # the worst clip comes first


def test_nothing_is_fetched_and_links_lead_to_the_videos(
    tmp_path: Path, comparison: VideoComparison, files: dict[str, ClipFiles]
) -> None:
    page = Page(write_video_report(tmp_path, comparison, files, facts=FACTS))
    kinds = [address.partition(",")[0] for address in page.addresses]
    assert kinds.count("data:video/mp4;base64") == 3 and kinds.count("data:image/jpeg;base64") == 3
    links = [address for address in page.addresses if address.endswith(".mp4")]
    assert len(links) == 3 and all((tmp_path / link).is_file() for link in links)
    assert all(address.startswith(("#", "data:", "clips/")) for address in page.addresses)


def test_large_videos_lie_beside_the_report(
    tmp_path: Path, comparison: VideoComparison, files: dict[str, ClipFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(one.folder / "before_after.mp4").stat().st_size for one in files.values()]
    monkeypatch.setattr(video_report, "_MAX_EMBEDDED_BYTES", max(sizes) + 10)
    monkeypatch.setattr(video_report, "MAX_CLIPS", 2)
    page = Page(write_video_report(tmp_path, comparison, files, facts=FACTS))
    assert sum(address.startswith("data:video") for address in page.addresses) == 1
    assert sum(address.endswith(".mp4") for address in page.addresses) == 2
    assert "1 more clip in the folder clips" in page.text


def test_without_labels_only_counts_are_told(
    tmp_path: Path, clips: list[VideoClip], before: VideoEvaluation, files: dict[str, ClipFiles]
) -> None:
    records = tuple(replace(clip, truth=None) for clip in before.clips)
    plain = replace(before, clips=records, metrics={}, pairs=())
    comparison = compare_evaluations(plain, plain)
    page = Page(write_video_report(tmp_path, comparison, files, titles=("linked", "tracker"), facts=FACTS))
    count = sum(len(clip.found.masklets) for clip in before.clips)
    assert f"{count} masklets before, {count} after" in page.text
    assert "unknown without labels" in page.text and "cgF1" not in page.text and "Labels count" not in page.text
    assert "masklets linked" in page.text


def test_clips_without_files_are_refused(tmp_path: Path, comparison: VideoComparison) -> None:
    with pytest.raises(ValueError, match="3 clips without files"):
        write_video_report(tmp_path, comparison, {}, facts=FACTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.browser
def test_chromium_shows_the_report_and_plays_its_videos(
    tmp_path: Path, comparison: VideoComparison, files: dict[str, ClipFiles], browser: Any
) -> None:
    path = write_video_report(tmp_path, comparison, files, against_links=comparison, facts=FACTS)
    for width in (1180, 400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, to=complaints: to.append(message.text))
        page.on("request", lambda request, to=requests: to.append(request.url))
        page.goto(path.as_uri())
        played = page.evaluate(
            """async () => {
              const video = document.querySelector("video");
              video.loop = false;
              await video.play();
              await new Promise(done => { video.onended = done; });
              return {width: video.videoWidth, seconds: video.currentTime};
            }"""
        )
        assert played["width"] == 648 and played["seconds"] == pytest.approx(0.75, abs=0.1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        images = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(images) == 3 and min(images) > 0
        assert complaints == [] and all(url.startswith(("data:", path.as_uri())) for url in requests)
        page.close()
