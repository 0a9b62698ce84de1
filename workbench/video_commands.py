"""The commands that follow objects through videos: `workbench track` and `compare-video`; `__main__.py` adds them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.command_options import AdapterFolder, Debug, Device, Model, load_model

if TYPE_CHECKING:
    from workbench.video_clips import VideoClip
    from workbench.video_job import ComparedVideos

Phrases = Annotated[
    list[str] | None,
    typer.Option("--phrase", "--phrases", metavar="TEXT", help="What to follow; can be repeated."),
]
FrameRate = Annotated[float | None, typer.Option(help="Frames per second of pictures.")]


def track(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of pictures, or a folder of these.")],
    out: Annotated[Path, typer.Option(help="Folder for the overlays and masks.")],
    phrases: Phrases = None,
    model: Model = "tiny",
    adapter: AdapterFolder = None,
    frame_rate: FrameRate = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Follow everything that a phrase names through a video.

    Writes the video with the objects painted on it, their masks as indexed PNGs, and a SA-Co VEval file, which is
    COCO-video (YouTube-VIS) JSON with the phrases that were not found besides. Without phrases, those of the adapter
    are followed.

    \b
    Example:
      workbench track street.mp4 --phrase car --phrase "red bus" --out runs/street
    """
    from workbench.video_clips import plain_clips
    from workbench.video_job import track_videos

    loaded, its_adapter = load_model(model, adapter, device)
    clips = plain_clips(video, phrases or (its_adapter.phrases if its_adapter else ()), frame_rate=frame_rate)
    names = {"model": Path(model).name, "adapter": str(adapter or ""), "data": video.name}
    found = track_videos(clips, out, model=loaded, adapter=its_adapter, names=names)
    for clip in found.clips:
        for phrase in clip.found.phrases:
            masklets = [masklet for masklet in clip.found.masklets if masklet.phrase == phrase]
            frames = len({frame for masklet in masklets for frame in masklet.frames.tolist()})
            many = f"{len(masklets)} found, in {frames} of {clip.found.num_frames} frames"
            typer.echo(f"{clip.found.name}, {phrase}: {many}")
    typer.echo(f"{found.seconds_per_frame:.3f} s per frame. Videos and masks are in {out}")


def compare_video(
    out: Annotated[Path, typer.Option(help="Folder for the report, the measurements and the videos.")],
    adapter: Annotated[
        Path | None,
        typer.Argument(help="The folder `adapter` that `workbench adapt` wrote; none: linking vs. tracker."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A video file, a folder of pictures, or a folder of these.")
    ] = None,
    phrases: Phrases = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels of --video: SA-Co VEval or YouTube-VIS JSON, or folders of indexed PNGs."),
    ] = None,
    rendered: Annotated[int | None, typer.Option(min=1, metavar="N", help="Render N labelled clips instead.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Of each rendered clip.")] = 16,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the rendered clips; the tiny tracker learnt from those of seed 0.")
    ] = 0,
    links: Annotated[bool, typer.Option(help="Also measure detections that are linked without a tracker.")] = True,
    model: Model = "tiny",
    frame_rate: FrameRate = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Compare what a model follows through videos before and after adaptation.

    The same clips with the adapter off and on, side by side; with labels, every metric with the interval of its change.
    An adapter that changes the image encoder is kept away from the tracker. Without an adapter, detections that are
    linked frame by frame are compared with the tracker.

    \b
    Examples:
      workbench compare-video runs/coins/adapter --video coins.mp4 --out runs/coins/video
      workbench compare-video runs/cars/adapter --labels veval.json --video frames --out runs/cars/video
      workbench compare-video --rendered 8 --out runs/tracker
    """
    from workbench.video_job import compare_videos

    _check_source(video, labels, rendered, phrases)
    loaded, its_adapter = load_model(model, adapter, device)
    if rendered is None and labels is None:
        phrases = phrases or list(its_adapter.phrases if its_adapter else ())
    clips, data = _clips(video, phrases or [], labels, rendered, frames, seed, frame_rate)
    names = {"model": Path(model).name, "data": data, **({"adapter": str(adapter)} if adapter else {})}
    done = compare_videos(clips, out, model=loaded, adapter=its_adapter, names=names, with_links=links)
    _show(done)
    typer.echo(f"Report: {done.report}")


def _check_source(video: Path | None, labels: Path | None, rendered: int | None, phrases: list[str] | None) -> None:
    if (video is None) == (rendered is None) or (labels is not None and video is None):
        raise ValueError(
            "expected either --video (with --labels, or with --phrase), or --rendered with a number of clips; received "
            f"--video {video}, --labels {labels}, --rendered {rendered}"
        )
    if phrases and (labels is not None or rendered is not None):
        raise ValueError("labelled clips are asked for the phrases of their labels; leave out --phrase")


def _clips(
    video: Path | None,
    phrases: list[str],
    labels: Path | None,
    rendered: int | None,
    frames: int,
    seed: int,
    frame_rate: float | None,
) -> tuple[list[VideoClip], str]:
    """The clips and what they are called."""
    from workbench.video_clips import labelled_clips, plain_clips, rendered_clips

    if video is None:
        return rendered_clips(rendered or 0, seed, num_frames=frames), f"rendered clips, seed {seed}"
    if labels is not None:
        return labelled_clips(labels, video, frame_rate=frame_rate), labels.name
    return plain_clips(video, phrases, frame_rate=frame_rate), video.name


def _show(done: ComparedVideos) -> None:
    """A table for people; what the linked detections reach stands beside it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from workbench.report_style import counted
    from workbench.video_compare import interval_text
    from workbench.video_statistics import VIDEO_METRICS

    comparison, linked = done.comparison, done.against_links
    typer.echo(
        f"{comparison.before['model']} against {comparison.after['model']}: {counted(comparison.num_clips, 'clip')}"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("metric", *done.titles, "change", "95 % interval", *(["linked"] if linked else [])):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name, delta in comparison.metrics.items():
        metric = VIDEO_METRICS[name]
        cells = [metric.text(delta.before), metric.text(delta.after), metric.text(delta.delta, has_sign=True)]
        others = [metric.text(linked.metrics[name].before if name in linked.metrics else math.nan)] if linked else []
        table.add_row(name, *cells, interval_text(name, delta), *others)
    Console().print(table, highlight=False)
    if linked:
        typer.echo("linked: the adapted model without its tracker, detections linked frame by frame.")
    typer.echo(comparison.summary)
