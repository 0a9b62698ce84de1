"""The jobs behind `workbench compare-video` and `workbench track`: clips and a model in, measurements, videos and a
report out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3.model import Sam3
from sam3.predictor import ImagePredictor, VideoPredictor
from sam3.video_config import VideoConfig
from workbench.adapters import Adapter
from workbench.evaluate import write_json
from workbench.video_baseline import LinkedDetections
from workbench.video_clips import VideoClip
from workbench.video_compare import VideoComparison, compare_evaluations
from workbench.video_evaluate import Follow, VideoEvaluation, evaluate_videos, follower
from workbench.video_files import VideoLabels, write_mask_pngs, write_videos
from workbench.video_overlay import write_overlay
from workbench.video_predictor import tracker_notes, video_predictor_for
from workbench.video_report import ClipFiles, write_video_report
from workbench.video_sides import Side, draw_strip, player_data, with_same_numbers, write_sides

MAX_INDEXED = 255  # objects that indexed PNGs can hold


@dataclass(frozen=True, eq=False)
class ComparedVideos:
    """What `compare_videos` found and wrote.

    Args:
        comparison: before and after.
        against_links: after, compared with linked detections of the same model; None when these were not asked for,
            or are what stands before.
        titles: what before and after are called.
        report: the HTML file.
    """

    comparison: VideoComparison
    against_links: VideoComparison | None
    titles: tuple[str, str]
    report: Path


def compare_videos(
    clips: Sequence[VideoClip],
    out: str | Path,
    *,
    model: Sam3,
    adapter: Adapter | None = None,
    names: Mapping[str, str],
    config: VideoConfig | None = None,
    with_links: bool = True,
    progress: bool = True,
) -> ComparedVideos:
    """Follows the same phrases through the same clips twice and writes what changed.

    With an adapter: switched off, then on, and with linked detections in place of the tracker. Without: with linked
    detections, then with the tracker.

    Args:
        clips: all labelled or none.
        out: folder for `report.html`, `comparison.json`, `before.json`, `after.json`, `links.json`, and a folder of
            videos for every clip.
        model: with a tracker; carries the adapter.
        adapter: of that model.
        names: "model", "adapter" (where there is one) and "data", for reports.
        config: thresholds of following.
        with_links: measure linked detections too, where they are not what stands before.
        progress: show progress bars.

    Raises:
        ValueError: the model has no tracker, or the clips cannot be read.
    """
    model.require_tracker()
    folder = Path(out)

    def measured(follow: Follow, name: str, adapter_name: str = "") -> VideoEvaluation:
        return evaluate_videos(
            follow, clips, model_name=name, data_name=names["data"], adapter_name=adapter_name, progress=progress
        )

    links = LinkedDetections(ImagePredictor(model), config)
    linked: VideoEvaluation | None = None
    if adapter is None:
        titles = side_titles = ("linked detections", "tracker")
        notes: tuple[str, ...] = ()
        before = measured(links, f"{names['model']}, linked detections")
        after = measured(follower(VideoPredictor(model, config=config)), f"{names['model']}, tracker")
    else:
        titles, side_titles = ("before", "after"), ("before", f"after: {adapter.plan.name} adapter")
        notes = tracker_notes(adapter)
        adapted = f"{names['model']} + {names['adapter']}"
        with adapter.disabled():
            before = measured(follower(VideoPredictor(model, config=config)), names["model"])
        after = measured(follower(video_predictor_for(adapter, config)), adapted, names["adapter"])
        if with_links:
            linked = measured(links, f"{adapted}, linked detections", names["adapter"])
    comparison = compare_evaluations(before, after)
    against_links = None if linked is None else compare_evaluations(linked, after)
    for name, evaluation in (("before", before), ("after", after), ("links", linked)):
        if evaluation is not None:
            evaluation.save(folder / f"{name}.json")
    comparison.save(folder / "comparison.json")
    files = _write_clips(clips, before, after, side_titles, folder / "clips")
    facts = {key: value for key, value in names.items() if value} | {"clips": str(len(clips))}
    report = write_video_report(
        folder, comparison, files, titles=titles, against_links=against_links, notes=notes, facts=facts
    )
    return ComparedVideos(comparison, against_links, titles, report)


def _write_clips(
    clips: Sequence[VideoClip],
    before: VideoEvaluation,
    after: VideoEvaluation,
    titles: tuple[str, str],
    folder: Path,
) -> dict[str, ClipFiles]:
    """Side by side, plain, and as data for a page: one folder per clip."""
    files = {}
    for number, (clip, old, new) in enumerate(zip(clips, before.clips, after.clips, strict=True), start=1):
        place = folder / _folder_name(number, clip.name)
        first = Side(titles[0], old.found.masklets)
        sides = (first, with_same_numbers(first, Side(titles[1], new.found.masklets), old.found.num_frames))
        with clip.open() as source:
            write_sides(source, sides, place / "before_after.mp4")
            write_overlay(source, [], place / "video.mp4")
            write_json(place / "masklets.json", player_data(source, sides, "video.mp4"))
            files[clip.name] = ClipFiles(place, draw_strip(source, sides))
    return files


def track_videos(
    clips: Sequence[VideoClip],
    out: str | Path,
    *,
    model: Sam3,
    adapter: Adapter | None = None,
    names: Mapping[str, str],
    config: VideoConfig | None = None,
    progress: bool = True,
) -> VideoEvaluation:
    """Follows phrases through clips and writes what was found.

    Args:
        out: folder for `masklets.json` (SA-Co VEval), and for every clip a folder with `overlay.mp4`, `video.mp4`,
            `masklets.json` for a page that draws them itself, and `masks`, indexed PNGs (for up to 255 objects).
        clips, model, adapter, names, config, progress: as `compare_videos`.

    Returns:
        What was found in each clip.
    """
    model.require_tracker()
    folder = Path(out)
    predictor = VideoPredictor(model, config=config) if adapter is None else video_predictor_for(adapter, config)
    found = evaluate_videos(
        follower(predictor),
        clips,
        model_name=names["model"],
        adapter_name=names.get("adapter", ""),
        data_name=names["data"],
        progress=progress,
    )
    labels: list[VideoLabels] = []
    for number, (clip, record) in enumerate(zip(clips, found.clips, strict=True), start=1):
        place, masklets = folder / _folder_name(number, clip.name), record.found.masklets
        labels.append(record.found)
        with clip.open() as source:
            write_overlay(source, masklets, place / "overlay.mp4")
            write_overlay(source, [], place / "video.mp4")
            write_json(place / "masklets.json", player_data(source, [Side(names["model"], masklets)], "video.mp4"))
        if len(masklets) <= MAX_INDEXED:
            write_mask_pngs(record.found, place / "masks")
    write_videos(labels, folder / "masklets.json")
    return found


def _folder_name(number: int, name: str) -> str:
    words = re.sub(r"[^\w.-]+", "_", name).strip("_.")[:60]
    return f"{number:03d}_{words}"
