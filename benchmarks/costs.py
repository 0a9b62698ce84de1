"""Is the cost told before an adaptation what it then costs? Estimates against real runs, each in a process of its own.

python benchmarks/costs.py --out benchmarks/results/costs.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import typer
from peak import peak_bytes

from sam3.checkpoint import load_sam3
from sam3.config import DetectorConfig, ImageEncoderConfig, Sam3Config, TextEncoderConfig, TransformerConfig
from sam3.files import write_text
from sam3.model import Sam3
from workbench.adapters import Plan, PlanName, add_adapter
from workbench.costs import estimate
from workbench.domains.shifted import domain_set
from workbench.examples import ExampleSet
from workbench.finetune import FinetuneConfig, finetune
from workbench.guard import GuardConfig, replay_set

# Between tiny and the released size: 28 million parameters, 448 x 448 input.
MEDIUM = Sam3Config(
    ImageEncoderConfig(
        image_size=448,
        width=256,
        num_layers=8,
        num_heads=8,
        mlp_width=1024,
        window_size=8,
        global_layers=(3, 7),
        position_grid=16,
        pyramid_scales=(4.0, 2.0, 1.0),
        has_tracker_pyramid=False,
    ),
    TextEncoderConfig(width=128, num_layers=4, num_heads=4, mlp_width=512, unused_projection_width=0),
    DetectorConfig(
        width=192,
        num_queries=100,
        exemplar_encoder=TransformerConfig(2, 8, 768),
        fusion_encoder=TransformerConfig(4, 8, 768),
        decoder=TransformerConfig(4, 8, 768),
        mask_stages=2,
    ),
)


@dataclass(frozen=True)
class Case:
    """One adaptation: `images` pictures per step, of ten."""

    model: str
    plan: PlanName
    images: int
    steps: int

    def __str__(self) -> str:
        return f"{self.model}, {self.plan}, {self.images} pictures a step"

    def load(self) -> tuple[Sam3, ExampleSet, FinetuneConfig, ExampleSet]:
        torch.manual_seed(0)
        model = load_sam3("tiny") if self.model == "tiny" else Sam3(MEDIUM).eval()
        examples = domain_set("roads", 10, seed=0, size=model.config.image_encoder.image_size)
        config = FinetuneConfig(steps=self.steps, images=self.images)
        return model, examples, config, replay_set(GuardConfig().replay, Plan(self.plan))


CASES = (
    Case("tiny", "decoder", 2, 60),
    Case("tiny", "decoder", 8, 60),
    Case("tiny", "lora", 6, 60),
    Case("medium", "decoder", 4, 30),
)


def estimated(case: Case) -> dict[str, float]:
    """What `estimate` says, and how long it takes to say it."""
    model, examples, config, replay = case.load()
    start = time.perf_counter()
    cost = estimate(model, Plan(case.plan), examples, config, replay.examples)
    return {"seconds": cost.seconds, "gb": cost.peak_bytes / 1e9, "took_seconds": time.perf_counter() - start}


def measured(case: Case) -> dict[str, float]:
    """What the run really takes; the memory is the highest the process ever had."""
    model, examples, config, replay = case.load()
    phrases = tuple(dict.fromkeys(c.phrase for _, c in examples.pairs() if c.status == "positive"))
    adapter = add_adapter(model, Plan(case.plan), phrases)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        finetune(model, adapter, examples, out, config, replay=replay, progress=False)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "gb": peak_bytes() / 1e9, "cpu_seconds": time.process_time()}


def in_new_process(function: Callable[[Case], dict[str, float]], case: Case) -> dict[str, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, case).result()


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every run, in place of 30 or 60.")] = None,
    only: Annotated[int | None, typer.Option(min=1, max=len(CASES), help="Only the case with this number.")] = None,
) -> None:
    """Compare estimated with measured time and memory of four adaptations."""
    chosen = CASES if only is None else CASES[only - 1 : only]
    rows: list[dict[str, Any]] = []
    typer.echo(f"{'':<36}{'seconds':>9}{'told':>9}{'off by':>8}{'GB':>9}{'told':>9}{'off by':>8}")
    for case in (case if steps is None else replace(case, steps=steps) for case in chosen):
        load = os.getloadavg()[0]
        told, found = in_new_process(estimated, case), in_new_process(measured, case)
        off = {key: told[key] / found[key] - 1 for key in ("seconds", "gb")}
        rows.append({"case": str(case), "steps": case.steps, "told": told, "found": found, "off": off, "load": load})
        typer.echo(
            f"{case!s:<36}{found['seconds']:>9.1f}{told['seconds']:>9.1f}{off['seconds']:>8.0%}"
            f"{found['gb']:>9.2f}{told['gb']:>9.2f}{off['gb']:>8.0%}"
        )
    if out is not None:
        write_text(out, json.dumps({"threads": torch.get_num_threads(), "cases": rows}, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
