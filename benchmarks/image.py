"""Phrases asked of pictures: our predictor beside transformers' `Sam3Model`, with the same random weights.

    python benchmarks/image.py --out benchmarks/results/image.json
    python benchmarks/image.py --size sam3 --task phrase --task phrases8 --repeats 1     # the released size, 12 GB
    python benchmarks/image.py --side int8 --side ours --side theirs                     # numbers of eight bits
    python benchmarks/image.py --device cuda --size sam3 --side bf16-compiled --side bf16 --side theirs-bf16

Every side lives in a process of its own and does each task in turns with the others, so that what else the machine
does falls on all. All begin with pixels of a picture and end with masks of its size for the objects found. Theirs keeps
the picture's features for further phrases, as its documentation advises. What a loop of its plain calls takes, one for
each phrase, is the time of the task `phrase` times their number.

Random weights find nothing, so hooks in each detector set its scores: a few queries of every prompt pass. Nothing else
is replaced. transformers' own processor needs torchvision, so of what it does only the enlarging of masks is counted;
its exemplars need it too, and are measured only where it is installed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
import typer
from peak import peak_bytes
from random_models import SCORE, SIZES, forced_logits, write_weights

from sam3.checkpoint import load_sam3
from sam3.detector.tokenizer import Tokenizer
from sam3.files import write_text
from sam3.image_encoder import to_pixel_values
from sam3.predictor import ImagePredictor
from sam3.prompts import Prompt

WORDS = ["red circle", "blue star", "green ring", "yellow square", "black word", "white key", "grey coin", "pink cell"]
BOX = (40.0, 60.0, 200.0, 180.0)


@dataclass(frozen=True)
class Task:
    """Pictures and what is asked of each; `keeps` asks of the picture that was encoded before."""

    pictures: int = 1
    phrases: int = 1
    boxes: int = 0
    keeps: bool = False

    def words(self) -> list[str]:
        return [f"{WORDS[number % len(WORDS)]} {number // len(WORDS) or ''}".strip() for number in range(self.phrases)]


TASKS = {
    "phrase": Task(),
    "further": Task(keeps=True),
    "phrases8": Task(phrases=8),
    "phrases32": Task(phrases=32),
    "pictures4": Task(pictures=4),
    "exemplars": Task(boxes=2),
}


@dataclass(frozen=True)
class Setting:
    """What every side is given.

    Attributes:
        folder: weights, in the layout of transformers.
        num_found: objects found by every prompt.
        side: of the pictures in pixels. threads: of each process. device: of each model.
    """

    folder: str
    num_found: int
    side: int
    threads: int
    device: str


@dataclass(frozen=True)
class Cost:
    """What one task took.

    Attributes:
        seconds: on the clock. cpu_seconds: of this process alone.
        num_masks: that came out.
        peak_gb: the most memory the process has held so far, on a GPU that of tensors there.
        stages: seconds in each part of the model.
    """

    seconds: float
    cpu_seconds: float
    num_masks: int
    peak_gb: float
    stages: dict[str, float]


Answer = Callable[[Task, Sequence[np.ndarray]], int]


# --------------------------------------------------------------------------------------------------------------- sides
def ours(setting: Setting, **how: Any) -> tuple[Answer, dict[str, list[torch.nn.Module]]]:
    model = load_sam3(setting.folder, device=setting.device, **how)
    detector, encoder = model.detector, model.image_encoder

    def present(_: Any, __: Any, layers: Any) -> Any:
        return [replace(layer, presence_logits=torch.full_like(layer.presence_logits, 30.0)) for layer in layers]

    detector.decoder.register_forward_hook(present)
    detector.scoring.register_forward_hook(lambda _, __, logits: forced_logits(logits, setting.num_found))
    predictor = ImagePredictor(model)

    def answer(task: Task, pictures: Sequence[np.ndarray]) -> int:
        if not task.keeps:
            predictor.set_images(pictures)
        prompts = [Prompt(word, [BOX] * task.boxes, [1] * task.boxes) for word in task.words()]
        return sum(
            len(found.masks) for answers in predictor.predict_batch([prompts] * len(pictures)) for found in answers
        )

    return answer, {
        "vision transformer": list(encoder.blocks),
        "pyramid": list(encoder.pyramid),
        "text encoder": [detector.text_encoder],
        "exemplar encoder": [detector.exemplar_encoder],
        "fusion encoder": [detector.fusion_encoder],
        "decoder": [detector.decoder],
        "mask head": [detector.mask_head],
    }


def theirs(setting: Setting, dtype: torch.dtype = torch.float32) -> tuple[Answer, dict[str, list[torch.nn.Module]]]:
    from transformers import Sam3Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = Sam3Model.from_pretrained(setting.folder).eval().to(setting.device, dtype)
    size = model.config.vision_config.backbone_config.image_size
    tokenizer = Tokenizer(model.config.text_config.max_position_embeddings)
    kept: list[Any] = []

    def answer(task: Task, pictures: Sequence[np.ndarray]) -> int:
        if not task.keeps:
            pixels = torch.stack([to_pixel_values(p, size) for p in pictures])
            kept[:] = [model.get_vision_features(pixels.to(setting.device, dtype))]
        count = 0
        for word in task.words():
            tokens = tokenizer([word] * len(pictures)).to(setting.device)
            more: dict[str, Any] = {}
            if task.boxes:
                x0, y0, x1, y1 = (value / setting.side for value in BOX)
                box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]).expand(1, task.boxes, -1)
                more = {
                    "input_boxes": box.to(setting.device, dtype),
                    "input_boxes_labels": torch.ones(1, task.boxes, dtype=torch.long, device=setting.device),
                }
            mask = (torch.arange(tokens.shape[1], device=tokens.device) <= tokens.argmax(1)[:, None]).long()
            output = model(vision_embeds=kept[0], input_ids=tokens, attention_mask=mask, **more)
            scores = forced_logits(output.pred_logits, setting.num_found).sigmoid()
            for picture, masks, score in zip(pictures, output.pred_masks, scores, strict=True):
                chosen = masks[score > SCORE - 0.1][:, None]
                full = F.interpolate(chosen, size=picture.shape[:2], mode="bilinear", align_corners=False)
                count += len((full[:, 0] > 0).cpu().numpy())
        return count

    return answer, {
        "vision transformer": list(model.vision_encoder.backbone.layers),
        "pyramid": [model.vision_encoder.neck],
        "text encoder": [model.text_encoder],
        "exemplar encoder": [model.geometry_encoder],
        "fusion encoder": [model.detr_encoder],
        "decoder": [model.detr_decoder],
        "mask head": [model.mask_decoder],
    }


SIDES: dict[str, Callable[[Setting], tuple[Answer, dict[str, list[torch.nn.Module]]]]] = {
    "ours": ours,
    "int8": partial(ours, precision="int8"),
    "bf16": partial(ours, precision="bf16"),
    "compiled": partial(ours, compile=True),
    "bf16-compiled": partial(ours, precision="bf16", compile=True),
    "theirs": theirs,
    "theirs-bf16": partial(theirs, dtype=torch.bfloat16),
}


# ----------------------------------------------------------------------------------------------------------- measuring
@contextmanager
def timed(stages: dict[str, list[torch.nn.Module]]) -> Iterator[dict[str, float]]:
    """Adds up the seconds that the modules of each stage run."""
    spent, handles = dict.fromkeys(stages, 0.0), []

    def watch(name: str, module: torch.nn.Module) -> None:
        begun: list[float] = []
        handles.append(module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())))

        def done(*_: Any) -> None:
            spent[name] += time.perf_counter() - begun.pop()

        handles.append(module.register_forward_hook(done))

    for name, modules in stages.items():
        for module in modules:
            watch(name, module)
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def serve(name: str, setting: Setting, connection: Connection) -> None:
    """Does every task received and answers what it took."""
    torch.set_num_threads(setting.threads)
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        answer, stages = SIDES[name](setting)
        connection.send(None)
        while (task := connection.recv()) is not None:
            pictures = [
                rng.integers(0, 256, (setting.side, setting.side, 3), dtype=np.uint8) for _ in range(task.pictures)
            ]
            with timed({} if setting.device != "cpu" else stages) as spent:  # elsewhere work is only queued
                start, cpu_start = time.perf_counter(), time.process_time()
                num_masks = answer(task, pictures)  # ends with arrays, so a GPU has nothing left to do
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            connection.send(Cost(seconds, cpu_seconds, num_masks, peak_gb(setting.device), dict(spent)))


def peak_gb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_bytes() / 1e9


def compare(
    setting: Setting, tasks: Sequence[Task], sides: Sequence[str], repeats: int, warm: int
) -> list[dict[str, list[Cost]]]:
    """What each task takes on every side; they take turns."""
    context = multiprocessing.get_context("spawn")
    lines, processes = {}, []
    for name in sides:
        lines[name], far = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, setting, far), daemon=True))
        processes[-1].start()
        far.close()
        lines[name].recv()
    results = []
    for task in tasks:
        able = [name for name in sides if not name.startswith("theirs") or not task.boxes or find_spec("torchvision")]
        costs: dict[str, list[Cost]] = {name: [] for name in able}
        for turn in range(warm + repeats):
            for name in able:
                line = lines[name]
                line.send(task)
                cost = line.recv()
                expected = setting.num_found * task.pictures * task.phrases
                if cost.num_masks != expected:
                    raise RuntimeError(f"{name}: {cost.num_masks} masks came out; expected {expected}")
                if turn >= warm:
                    costs[name].append(cost)
        results.append(costs)
    for line, process in zip(lines.values(), processes, strict=True):
        line.send(None)
        process.join()
    return results


def summary(costs: Sequence[Cost]) -> dict[str, Any]:
    """Medians, and the highest memory."""
    return {
        "seconds": median(cost.seconds for cost in costs),
        "cpu_seconds": median(cost.cpu_seconds for cost in costs),
        "peak_gb": max(cost.peak_gb for cost in costs),
        "stages": {name: median(cost.stages[name] for cost in costs) for name in costs[0].stages},
    }


def ratio(costs: Sequence[Cost], others: Sequence[Cost], clock: str) -> float:
    """Time over that of another side, turn by turn: the median."""
    return median(getattr(own, clock) / getattr(other, clock) for own, other in zip(costs, others, strict=True))


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    size: Annotated[str, typer.Option(help="small (to try this program), tiny, reduced, or sam3 (12 GB).")] = "tiny",
    task: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(TASKS)}; can be repeated.")] = None,
    side: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SIDES)}; can be repeated.")] = None,
    found: Annotated[int, typer.Option(min=0, help="Objects found by every prompt.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each task is done.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda; ratios are of CPU time or of time on the clock.")] = "cpu",
) -> None:
    """Time and memory of tasks with pictures, side by side."""
    for option, given, known in (
        ("--size", [size], SIZES),
        ("--task", task or [], TASKS),
        ("--side", side or [], SIDES),
    ):
        if wrong := [name for name in given if name not in known]:
            raise typer.BadParameter(f"received {wrong[0]!r}; expected {', '.join(known)}", param_hint=option)
    names, sides = task or list(TASKS), side or ["ours", "theirs"]
    load, config = os.getloadavg()[0], SIZES[size].without_tracker()
    with tempfile.TemporaryDirectory() as folder:
        write_weights(config, folder)
        setting = Setting(folder, found, max(480, config.image_encoder.image_size), threads, device)
        warm = 0 if size == "sam3" else 2
        results = compare(setting, [TASKS[name] for name in names], sides, repeats, warm)
    rows, clock = [], "cpu_seconds" if device == "cpu" else "seconds"
    typer.echo(
        f"{'':<11}" + "".join(f"{name:>12} s{'CPU s':>9}{'GB':>7}" for name in sides) + f"   time / that of {sides[-1]}"
    )
    for name, costs in zip(names, results, strict=True):
        row = {which: summary(side_costs) for which, side_costs in costs.items()}
        last = costs.get(sides[-1])
        ratios = {which: ratio(costs[which], last, clock) for which in sides[:-1] if last and which in costs}
        rows.append({"task": name, **asdict(TASKS[name]), "sides": row, "ratio": ratios})
        numbers = "".join(
            f"{row[s]['seconds']:>14.3f}{row[s]['cpu_seconds']:>9.3f}{row[s]['peak_gb']:>7.2f}"
            if s in row
            else " " * 30
            for s in sides
        )
        typer.echo(f"{name:<11}{numbers}   " + ", ".join(f"{value:.2f}" for value in ratios.values()))
    if out is not None:
        versions = {"torch": torch.__version__, "transformers": version("transformers"), "machine": platform.machine()}
        facts = {"size": size, "threads": threads, "device": device, "repeats": repeats, "load": load, **versions}
        write_text(out, json.dumps({**facts, "tasks": rows}, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
