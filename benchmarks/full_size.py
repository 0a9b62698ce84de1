"""The released size on a laptop: time and memory of an adaptation of 860 million parameters, without a GPU.

    python benchmarks/full_size.py --out benchmarks/results/full_size.json

Neither time nor memory depends on what the weights are, so they are random and nothing is downloaded. Every plan runs
in a process of its own, through the same `finetune` as any other adaptation. Its first steps meet every picture once
and keep its features; the further ones show what a step costs from then on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import typer
from peak import peak_bytes

from sam3.config import Sam3Config
from sam3.files import write_text
from sam3.model import Sam3
from workbench.adapters import Plan, add_adapter
from workbench.batches import bytes_per_view
from workbench.domains.shifted import domain_set
from workbench.finetune import FinetuneConfig, finetune

PLANS = ["tokens", "decoder"]


@dataclass(frozen=True)
class Result:
    """What one plan took.

    Attributes:
        parameters: of the model.
        trainable: numbers of the adapter.
        view_mb: kept features of one view.
        seconds_per_view: to compute them.
        seconds_per_step: with kept features.
        cpu_seconds_per_view, cpu_seconds_per_step: the same of this process alone, whatever else the machine did.
        peak_gb: the most memory the process held.
    """

    plan: str
    parameters: int
    trainable: int
    view_mb: float
    seconds_per_view: float
    seconds_per_step: float
    cpu_seconds_per_view: float
    cpu_seconds_per_step: float
    peak_gb: float


@dataclass(frozen=True)
class Job:
    """The adaptation that is asked about, as a recipe would describe it."""

    pictures: int
    views: int
    steps: int
    images: int
    phrases: int

    def minutes(self, result: Result) -> float:
        seconds = self.pictures * self.views * result.seconds_per_view + self.steps * result.seconds_per_step
        return seconds / 60

    def gb(self, result: Result, measured_views: int) -> float:
        return result.peak_gb + (self.pictures * self.views - measured_views) * result.view_mb / 1000


def measure(plan: str, size: str, pictures: int, steps: int, images: int, phrases: int, recompute: bool) -> Result:
    """Adapts a model with random weights for one round through the pictures and `steps` more steps."""
    torch.manual_seed(0)
    model = Sam3(getattr(Sam3Config, size)()).eval()
    examples = domain_set("roads", pictures, seed=0, size=model.config.image_encoder.image_size)
    names = tuple(dict.fromkeys(c.phrase for _, c in examples.pairs() if c.status == "positive"))
    adapter = add_adapter(model, Plan(plan), names)
    num_first = -(-pictures // images)
    config = FinetuneConfig(
        steps=num_first + steps,
        images=images,
        images_at_once=1,
        recompute=recompute,
        phrases=phrases,
        views=1,
        checkpoint_every=10_000,
        cache_gb=max(4.0, pictures * 0.12),
    )
    ends = [(time.perf_counter(), time.process_time())]
    with tempfile.TemporaryDirectory() as out:
        finetune(
            model,
            adapter,
            examples,
            out,
            config,
            progress=False,
            on_step=lambda _: ends.append((time.perf_counter(), time.process_time())),
        )
    (per_view, per_step), (cpu_per_view, cpu_per_step) = (
        parts(clock, num_first, pictures) for clock in zip(*ends, strict=True)
    )
    return Result(
        plan=plan,
        parameters=sum(p.numel() for p in model.parameters()) - adapter.num_trainable,
        trainable=adapter.num_trainable,
        view_mb=bytes_per_view(model) / 1e6,
        seconds_per_view=per_view,
        seconds_per_step=per_step,
        cpu_seconds_per_view=cpu_per_view,
        cpu_seconds_per_step=cpu_per_step,
        peak_gb=peak_bytes() / 1e9,
    )


def parts(ends: Sequence[float], num_first: int, pictures: int) -> tuple[float, float]:
    """What keeping the features of a picture took, and a step, from when each step ended; the first steps did both."""
    took = [end - start for start, end in zip(ends[:-1], ends[1:], strict=True)]
    per_step = mean(took[num_first:])
    return max(sum(took[:num_first]) - num_first * per_step, 0.0) / pictures, per_step


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    size: Annotated[str, typer.Option(help="sam3, or tiny to try this program.")] = "sam3",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures whose features are computed.")] = 10,
    measured_steps: Annotated[int, typer.Option(min=1, help="Steps to time once all features are kept.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the adaptation asked about.")] = 60,
    views: Annotated[int, typer.Option(min=1, help="Views of each of its ten pictures.")] = 2,
    images: Annotated[int, typer.Option(min=1, help="Pictures per step.")] = 1,
    phrases: Annotated[int, typer.Option(min=1, help="Phrases asked of a picture.")] = 2,
    plan: Annotated[list[str], typer.Option(help="Plan to measure; can be repeated.")] = PLANS,
    recompute: Annotated[bool, typer.Option(help="Compute layers again in the backward pass.")] = True,
) -> None:
    """Measure plans (tokens and decoder unless told otherwise), and tell what a ten-picture adaptation takes."""
    if size not in ("sam3", "tiny"):
        raise typer.BadParameter(f"received {size!r}; expected sam3 or tiny", param_hint="--size")
    images = min(images, pictures)
    job = Job(10, views, steps, images, phrases)
    threads, rows = torch.get_num_threads(), []
    typer.echo(
        f"{size}, float32, {threads} threads, {pictures} pictures, {images} per step, {phrases} phrases each, layers "
        f"{'computed again' if recompute else 'kept'}"
    )
    typer.echo(
        f"{'plan':<10}{'trained':>11}{'MB/view':>9}{'s/view':>8}{'s/step':>8}{'CPU s':>8}{'GB':>7}"
        f"   {job.pictures} pictures, {job.views} views, {job.steps} steps"
    )
    for name in plan:
        load = os.getloadavg()[0]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(measure, name, size, pictures, measured_steps, images, phrases, recompute).result()
        whole: dict[str, Any] = {"minutes": job.minutes(result), "gb": job.gb(result, pictures)}
        rows.append({**asdict(result), "whole": whole, "load": load})
        typer.echo(
            f"{name:<10}{result.trainable:>11,}{result.view_mb:>9.1f}{result.seconds_per_view:>8.2f}"
            f"{result.seconds_per_step:>8.2f}{result.cpu_seconds_per_step:>8.2f}{result.peak_gb:>7.2f}"
            f"   {whole['minutes']:.0f} min, {whole['gb']:.1f} GB"
        )
    if out is not None:
        content = {
            "size": size,
            "threads": threads,
            "pictures": pictures,
            "recompute": recompute,
            "job": asdict(job),
            "plans": rows,
        }
        write_text(out, json.dumps(content, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
