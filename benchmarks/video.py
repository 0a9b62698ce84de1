"""Following objects through a video: our session beside transformers' `Sam3VideoModel`, with the same random weights.

    python benchmarks/video.py --out benchmarks/results/video.json

Both sides live in processes of their own and do the same frame in turns, so that what else the machine does falls on
both. Both read a frame, look for one phrase in it, carry N objects over by a full memory (the first frame and the six
before this one), decide, encode what to remember, and enlarge the masks to the size of the frame. Frames come one at a
time, as from a camera, and no result is held back. Times are medians from frame 32 on, growth is counted
from there; before, the memory fills up.

Random weights find nothing, so hooks in each detector set its scores: the first N queries pass with 0.6, which is
enough to start a masklet while nothing is followed and too little afterwards. Nothing else is replaced; the masks of
those queries are what both sides follow. The tracker's object score is biased, so that the objects count as visible.

Two things make our side do more. transformers looks for duplicates, holes and specks only with a package that needs a
GPU; ours always does. Its own processor needs torchvision, so of what that does only the enlarging of masks is counted.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import FunctionType, ModuleType
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import torch
import torch.nn.functional as F
import typer
from random_models import SIZES, forced_logits, write_weights

from sam3.checkpoint import load_sam3
from sam3.detector.tokenizer import Tokenizer
from sam3.files import write_text
from sam3.image_encoder import to_pixel_values
from sam3.predictor import VideoPredictor
from sam3.video_config import VideoConfig

OBJECTS = [1, 5, 20]
PHRASE = "red circle"
WARM = 32  # frames until the memory is full: sixteen before the newest frame, sixteen where the video can be turned


@dataclass(frozen=True)
class Video:
    """What both sides are given.

    Attributes:
        folder: weights, in the layout of transformers.
        frame_size: (H, W) in pixels.
        num_objects: to follow.
        threads: of each side.
    """

    folder: str
    frame_size: tuple[int, int]
    num_objects: int
    threads: int

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (H,W,3) uint8 RGB without end, each made when it is asked for."""
        rng = np.random.default_rng(0)
        while True:
            yield rng.integers(0, 256, (*self.frame_size, 3), dtype=np.uint8)


@dataclass(frozen=True)
class FrameCost:
    """What one frame took.

    Attributes:
        seconds: on the clock. cpu_seconds: of this process alone.
        num_objects: that are followed.
        rss_mb: memory of the process. held_mb: what the session holds. aside_mb: of that, what it does not need to go
            on. Measured on some frames only.
    """

    seconds: float
    cpu_seconds: float
    num_objects: int
    rss_mb: float = math.nan
    held_mb: float = math.nan
    aside_mb: float = math.nan


@dataclass(frozen=True)
class Side:
    """One way to follow objects.

    Attributes:
        next: does the next frame, and says how many objects are followed.
        held: all that it holds. aside: of that, frames that came in or masks that went out, not needed to go on.
    """

    next: Callable[[], int]
    held: Callable[[], Any]
    aside: Callable[[], Any]


# ----------------------------------------------------------------------------------------------------------- two sides
def ours(video: Video) -> Side:
    model = load_sam3(video.folder)

    def present(_: Any, __: Any, layers: Any) -> Any:
        return [replace(layer, presence_logits=torch.full_like(layer.presence_logits, 30.0)) for layer in layers]

    model.detector.decoder.register_forward_hook(present)
    model.detector.scoring.register_forward_hook(lambda _, __, logits: forced_logits(logits, video.num_objects))
    session = VideoPredictor(model, VideoConfig(hotstart_frames=0, nms_iou=1.0)).open(video.frames())

    def play() -> Iterator[int]:
        session.add(PHRASE)  # does the first frame
        for _ in session.propagate():
            yield 0 if session.newest_id is None else session.newest_id + 1

    player = play()
    return Side(lambda: next(player), lambda: session, lambda: session._masks)


def theirs(video: Video) -> Side:
    from transformers import Sam3VideoModel
    from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = Sam3VideoModel.from_pretrained(video.folder).eval()
    model.hotstart_delay, model.det_nms_thresh = 0, 1.0
    size, frames = model.config.detector_config.vision_config.backbone_config.image_size, video.frames()
    session = Sam3VideoInferenceSession(
        dtype=torch.float32, video_height=video.frame_size[0], video_width=video.frame_size[1]
    )
    prompt = session.add_prompt(PHRASE)
    tokens = Tokenizer(model.config.detector_config.text_config.max_position_embeddings)([PHRASE])
    session.prompt_input_ids[prompt] = tokens
    session.prompt_attention_masks[prompt] = (torch.arange(tokens.shape[1]) <= tokens.argmax(1)[:, None]).long()

    def scored(_: Any, __: Any, output: Any) -> Any:
        output.pred_logits = forced_logits(output.pred_logits, video.num_objects)
        output.presence_logits = torch.full_like(output.presence_logits, 30.0)
        return output

    model.detector_model.register_forward_hook(scored)

    def step() -> int:
        output = model(inference_session=session, frame=to_pixel_values(next(frames), size)[None])
        masks = torch.stack(list(output.obj_id_to_mask.values()))
        masks = F.interpolate(masks, size=video.frame_size, mode="bilinear", align_corners=False) > 0
        return len(masks)

    return Side(step, lambda: session, lambda: session.processed_frames)


# ----------------------------------------------------------------------------------------------------------- measuring
def serve(make: Callable[[Video], Side], video: Video, connection: Connection) -> None:
    """Does a frame for every True or False received, and answers what it took; True asks for the memory too."""
    torch.set_num_threads(video.threads)
    with torch.inference_mode():
        side, process = make(video), psutil.Process()
        connection.send(None)
        while (with_memory := connection.recv()) is not None:
            start, cpu_start = time.perf_counter(), time.process_time()
            num_objects = side.next()
            cost = FrameCost(time.perf_counter() - start, time.process_time() - cpu_start, num_objects)
            if with_memory:
                gc.collect()
                held, aside = held_bytes(side.held()), held_bytes(side.aside())
                cost = replace(cost, rss_mb=process.memory_info().rss / 1e6, held_mb=held / 1e6, aside_mb=aside / 1e6)
            connection.send(cost)


def held_bytes(root: Any) -> int:
    """Bytes of all tensors, arrays and texts that an object leads to, models left out."""
    seen, storages, total, left = {id(root)}, set[int](), 0, [root]
    while left:
        item = left.pop()
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                total += storage.nbytes()
        elif isinstance(item, np.ndarray):
            total += item.nbytes if item.base is None else 0
        elif isinstance(item, str | bytes):
            total += len(item)
        for part in gc.get_referents(item):
            is_code = isinstance(part, type | ModuleType | FunctionType | torch.nn.Module)
            if not is_code and id(part) not in seen:
                seen.add(id(part))
                left.append(part)
    return total


def compare(video: Video, num_frames: int) -> dict[str, list[FrameCost]]:
    """What every frame takes on each side; the two take turns."""
    context = multiprocessing.get_context("spawn")
    costs: dict[str, list[FrameCost]] = {"ours": [], "theirs": []}
    lines, processes = {}, []
    for name, make in (("ours", ours), ("theirs", theirs)):
        lines[name], far = context.Pipe()
        processes.append(context.Process(target=serve, args=(make, video, far), daemon=True))
        processes[-1].start()
        far.close()
        lines[name].recv()
    for frame in range(num_frames):
        for name, line in lines.items():
            line.send(frame in (first_timed(num_frames), num_frames - 1))
            costs[name].append(line.recv())
            if costs[name][-1].num_objects != video.num_objects:
                raise RuntimeError(f"{name}: frame {frame} has {costs[name][-1].num_objects} of {video.num_objects}")
    for line, process in zip(lines.values(), processes, strict=True):
        line.send(None)
        process.join()
    return costs


def summary(costs: list[FrameCost]) -> dict[str, float]:
    """Medians over the frames with full memory, and growth per frame since then."""
    timed = costs[first_timed(len(costs)) :]
    first, last, count = timed[0], timed[-1], len(timed) - 1
    return {
        "seconds": median(cost.seconds for cost in timed),
        "cpu_seconds": median(cost.cpu_seconds for cost in timed),
        "held_mb": last.held_mb,
        "rss_mb": last.rss_mb,
        "held_mb_per_frame": (last.held_mb - first.held_mb) / count,
        "state_mb_per_frame": (last.held_mb - last.aside_mb - first.held_mb + first.aside_mb) / count,
        "rss_mb_per_frame": (last.rss_mb - first.rss_mb) / count,
    }


def time_ratios(costs: dict[str, list[FrameCost]]) -> dict[str, float]:
    """Our time over theirs, frame by frame: the median over the frames with full memory."""
    pairs = list(zip(costs["ours"], costs["theirs"], strict=True))[first_timed(len(costs["ours"])) :]
    return {
        "seconds": median(own.seconds / other.seconds for own, other in pairs),
        "cpu_seconds": median(own.cpu_seconds / other.cpu_seconds for own, other in pairs),
    }


def first_timed(num_frames: int) -> int:
    """The frame from which on is measured."""
    return min(WARM, num_frames - 2)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    objects: Annotated[list[int], typer.Option(min=1, max=200, help="How many; can be repeated.")] = OBJECTS,
    frames: Annotated[int, typer.Option(min=3, help="Frames of each run.")] = 61,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 1,
    size: Annotated[str, typer.Option(help="small (to try this program), reduced, or sam3 (12 GB).")] = "reduced",
) -> None:
    """Time and memory of every frame, ours beside transformers'."""
    if size not in SIZES:
        raise typer.BadParameter(f"received {size!r}; expected {', '.join(SIZES)}", param_hint="--size")
    config, frame_size = SIZES[size], (1080, 1920) if size == "sam3" else (240, 427)
    rows: list[dict[str, Any]] = []
    names = "".join(f"{name:>9}{'theirs':>9}" for name in ("s/frame", "CPU s", "MB held", "MB/frame", "state"))
    typer.echo(f"{'':<11}{names}{'CPU ratio':>11}")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(config, folder)
        for count in objects:
            load = os.getloadavg()[0]
            costs = compare(Video(folder, frame_size, count, threads), frames)
            own, other = summary(costs["ours"]), summary(costs["theirs"])
            ratio = time_ratios(costs)
            every = {name: [asdict(cost) for cost in side] for name, side in costs.items()}
            rows.append({"objects": count, "load": load, "ours": own, "theirs": other, "ratio": ratio, "frames": every})
            columns = ("seconds", "cpu_seconds", "held_mb", "held_mb_per_frame", "state_mb_per_frame")
            numbers = "".join(f"{own[name]:>9.3f}{other[name]:>9.3f}" for name in columns)
            typer.echo(f"{count:>3} objects{numbers}{ratio['cpu_seconds']:>11.2f}")
    if out is not None:
        versions = {"torch": torch.__version__, "transformers": version("transformers"), "machine": platform.machine()}
        write_text(out, json.dumps({"threads": threads, "frames": frames, **versions, "runs": rows}, indent=1))
        typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(main)
