"""A long video: does a session stay as small and as fast as it was after the first hundred frames?

    python benchmarks/video_memory.py --out benchmarks/results/video_memory.json

The frames are drawn one by one, when they are asked for: discs that move over a ground with grain. The tiny model looks
for them and follows those that it finds. No masklet is on trial, so that none is removed. The masks of all frames
stay with the session, as run lengths.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import torch
import typer
from peak import peak_bytes

from sam3.checkpoint import load_sam3
from sam3.files import write_text
from sam3.model import Sam3
from sam3.predictor import VideoPredictor
from sam3.video_config import VideoConfig

PHRASE = "red circle"
HEIGHT, WIDTH, RADIUS = 240, 320, 22


@dataclass(frozen=True)
class Mark:
    """Where a session stands after `frame` frames.

    Attributes:
        frame: how many.
        seconds: on the clock, median of the frames since the last mark. cpu_seconds: the same of this process alone.
        rss_mb: memory of the process now. peak_mb: the most it ever had.
        objects: masks in the last frame.
        results_mb: run lengths of all frames so far.
    """

    frame: int
    seconds: float
    cpu_seconds: float
    rss_mb: float
    peak_mb: float
    objects: int
    results_mb: float


def drawn_frames(num_frames: int, num_objects: int) -> Iterator[np.ndarray]:
    """Frames (H,W,3) uint8 RGB of red discs side by side, each on a round of its own."""
    rng = np.random.default_rng(0)
    columns = (np.arange(num_objects) + 0.5) * WIDTH / num_objects
    centres = np.stack([columns, rng.uniform(60, HEIGHT - 60, num_objects)], axis=1)
    starts, speeds = rng.uniform(0, 2 * math.pi, num_objects), rng.uniform(0.02, 0.08, num_objects)
    ground = rng.integers(150, 190, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    y_px, x_px = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(num_frames):
        frame = ground.copy()
        angles = starts + speeds * number
        for x, y in centres + np.stack([5 * np.cos(angles), 35 * np.sin(angles)], axis=1):
            frame[(x_px - x) ** 2 + (y_px - y) ** 2 < RADIUS**2] = (205, 30, 35)
        yield frame


def follow(model: Sam3, num_frames: int, num_objects: int, every: int) -> Iterator[Mark]:
    """Plays the video, and gives a mark every so many frames."""
    config = VideoConfig(hotstart_frames=0, max_masklets=num_objects)
    process, size, times, cpu_times = psutil.Process(), 0, list[float](), list[float]()
    with VideoPredictor(model, config).open(drawn_frames(num_frames, num_objects)) as session:
        session.add(PHRASE)
        start, cpu_start = time.perf_counter(), time.process_time()
        for count, result in enumerate(session.propagate(), start=1):
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
            size += sum(len(rle.counts) for rle in result.rles)
            if count % every == 0:
                took = median(times[-every:]), median(cpu_times[-every:])
                yield Mark(count, *took, process.memory_info().rss / 1e6, peak_bytes() / 1e6, len(result), size / 1e6)
            start, cpu_start = time.perf_counter(), time.process_time()


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    frames: Annotated[int, typer.Option(min=4, help="Length of the video.")] = 400,
    objects: Annotated[int, typer.Option(min=1, help="Discs in it.")] = 5,
) -> None:
    """Memory and time per frame of one session, at four places of a long video."""
    load = os.getloadavg()[0]
    model = load_sam3("tiny")
    typer.echo(f"{'frame':>6}{'s/frame':>9}{'CPU s':>9}{'MB now':>9}{'MB peak':>9}{'objects':>9}{'MB of results':>15}")
    marks = []
    for mark in follow(model, frames, objects, frames // 4):
        marks.append(mark)
        typer.echo(
            f"{mark.frame:>6}{mark.seconds:>9.3f}{mark.cpu_seconds:>9.3f}{mark.rss_mb:>9.1f}{mark.peak_mb:>9.1f}"
            f"{mark.objects:>9}{mark.results_mb:>15.2f}"
        )
    growth = {name: getattr(marks[-1], name) / getattr(marks[0], name) for name in ("peak_mb", "cpu_seconds")}
    typer.echo(f"peak x {growth['peak_mb']:.3f}, CPU time x {growth['cpu_seconds']:.2f} since frame {marks[0].frame}")
    if out is not None:
        content = {"load": load, "threads": torch.get_num_threads()}
        write_text(out, json.dumps({**content, "growth": growth, "marks": [asdict(m) for m in marks]}, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
