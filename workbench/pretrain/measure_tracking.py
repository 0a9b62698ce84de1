"""How well a model takes clicks and follows, on rendered clips with seeds of their own, and the pre-training around it.

Everything is measured on the way that a session goes: hints in the first frame, then memory alone, chosen by quality.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from sam3.checkpoint import load_sam3, save
from sam3.config import Sam3Config, TrackerConfig
from sam3.model import Sam3
from sam3.predictor import ImagePredictor, VideoPredictor
from sam3.tracker.memory_bank import MemoryBank
from sam3.tracker.tracker import FrameFeatures, Tracker, TrackerOutput
from workbench.domains.clips import Clip, render_clip
from workbench.evaluate import write_json
from workbench.mask_quality import mask_quality
from workbench.pretrain.clip_pool import encode_frames
from workbench.pretrain.run import join_processes
from workbench.pretrain.tracking import (
    TrackerRun,
    tracked_parts,
    with_new_tracker,
    with_only_tracker_trained,
)
from workbench.pretrain.tracking_losses import memory_of
from workbench.pretrain.tracking_recipe import TrackingConfig
from workbench.pretrain.windows import MIN_FIRST_PX, clicks_of
from workbench.video_association import ABSENCE_FRAMES
from workbench.video_baseline import LinkedDetections
from workbench.video_clips import VideoClip
from workbench.video_evaluate import Follow, evaluate_videos, follower

HELD_OUT_SEED = 990_011
_FRAMES_BEFORE = 8  # of an absence, in which an object must have been followed
SCORE_SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
Shown = Literal["click", "mask"]


@dataclass(frozen=True)
class Absence:
    """Frames in which an object that was seen before is completely hidden, and those after it in which it is back.

    Attributes:
        before: the last frames in which it was visible before that, eight at most.
        hidden: first and last frame, both included.
        back: frames in which it is visible again, up to the next absence.
        is_inside: it was hidden by something, and had not left the picture.
    """

    before: tuple[int, ...]
    hidden: tuple[int, int]
    back: tuple[int, ...]
    is_inside: bool


def absences(masks: NDArray[np.bool_], min_frames: int = ABSENCE_FRAMES) -> list[Absence]:
    """The long absences of an object (F, H, W) after which it comes back."""
    is_seen = np.asarray(masks.any((1, 2)))
    changes = np.flatnonzero(np.diff(is_seen.astype(int)))
    starts = [int(t) + 1 for t in changes if is_seen[t]]
    found = []
    for start in starts:
        end = next((t for t in range(start, len(masks)) if is_seen[t]), None)
        if end is None or end - start < min_frames:
            continue
        stop = next((t for t in range(end, len(masks)) if not is_seen[t]), len(masks))
        last = masks[start - 1]
        touches = last[0].any() or last[-1].any() or last[:, 0].any() or last[:, -1].any()
        before = tuple(np.flatnonzero(is_seen[:start])[-_FRAMES_BEFORE:].tolist())
        found.append(Absence(before, (start, end - 1), tuple(range(end, stop)), not touches))
    return found


@torch.no_grad()
def tracker_frames(model: Sam3, frames: NDArray[np.uint8]) -> FrameFeatures:
    """What the tracker keeps of frames (F, H, W, 3) of the model's input size."""
    pyramid, tracker = tracked_parts(model)
    batches = [encode_frames(model.image_encoder, part) for part in np.array_split(frames, -(-len(frames) // 8))]
    return tracker.prepare_from(pyramid, torch.cat(batches))


@torch.no_grad()
def follow(tracker: Tracker, frames: FrameFeatures, first: TrackerOutput, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (K, F, H, W) of K objects in all frames, followed as a session does from what the first frame shows."""
    outputs, num_frames = [first], len(frames.coarse)
    bank = MemoryBank(tracker.config.num_memory_frames, by_quality=True)
    bank.store(0, memory_of(tracker, frames[0], first, is_conditioning=True))
    for time in range(1, num_frames):
        memory = bank.recall(time, num_frames=num_frames)
        outputs.append(tracker.step(frames[time], memory=memory, with_memory=False))
        bank.store(time, memory_of(tracker, frames[time], outputs[-1], is_conditioning=False))
    return np.stack([_masks(output, size) for output in outputs], axis=1)


@torch.no_grad()
def shown(
    tracker: Tracker, frame: FrameFeatures, masks: NDArray[np.bool_], kind: Shown, rng: np.random.Generator
) -> TrackerOutput:
    """What a frame shows of objects (K, H, W) that are told by one click each, or by their masks."""
    if kind == "mask":
        return tracker.adopt(frame, torch.from_numpy(masks).to(frame.coarse.device), with_memory=False)
    return tracker.step(frame, hints=clicks_of(rng, masks), with_memory=False)


def _masks(output: TrackerOutput, size: tuple[int, int]) -> NDArray[np.bool_]:
    logits = F.interpolate(output.mask_logits[:, None], size=size, mode="bilinear", align_corners=False)
    return (logits.squeeze(1) > 0).cpu().numpy()


def held_out_clips(num_clips: int, num_frames: int, size: int, seed: int) -> Iterator[tuple[Clip, list[int]]]:
    """Clips that no training sees, with the numbers of up to three objects that are there in the first frame."""
    for index in range(num_clips):
        clip = render_clip(np.random.default_rng([seed, index]), num_frames=num_frames, size=size)
        areas = np.bincount(clip.instance_maps[0].ravel(), minlength=len(clip.objects) + 1)
        numbers = [number for number in range(1, len(areas)) if areas[number] >= MIN_FIRST_PX]
        if numbers:
            yield clip, numbers[:3]


def follow_table(model: Sam3, num_clips: int, num_frames: int, seed: int = HELD_OUT_SEED) -> dict[str, Any]:
    """J&F of objects that are told in the first frame by a click or by their masks, and of leaving that mask in place.

    Later frames in which an object is rightly not found count as 1.

    Returns:
        "clips", "frames", "objects"; and for "click" and "mask" the means "first" (J&F of the first frame), "later"
        (J&F of all others), "seen" (J of those in which the object is visible), "visibility" (share of later frames in
        which it was right whether the object is visible), and "stays" (J&F of the first frame's mask in all others).
    """
    tracker = model.require_tracker()
    rows: dict[Shown, list[dict[str, float]]] = {kind: [] for kind in get_args(Shown)}
    clips = held_out_clips(num_clips, num_frames, model.config.image_encoder.image_size, seed)
    for index, (clip, numbers) in enumerate(tqdm(clips, total=num_clips, desc="follow", mininterval=5)):
        frames = tracker_frames(model, clip.frames)
        truth = np.stack([clip.masks(number) for number in numbers])
        for kind, measured in rows.items():
            first = shown(tracker, frames[0], truth[:, 0], kind, np.random.default_rng([seed, index, 1]))
            found = follow(tracker, frames, first, truth.shape[2:])
            measured += [_quality(answer, true) for answer, true in zip(found, truth, strict=True)]
    return {
        "clips": num_clips,
        "frames": num_frames,
        "objects": len(rows["click"]),
        **{k: _mean(v) for k, v in rows.items()},
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    known = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    return {name: round(float(np.mean(values)), 4) if values else np.nan for name, values in known.items()}


def _quality(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Measures of one object over a clip (F, H, W)."""
    each = [mask_quality(a, b) for a, b in zip(found, truth, strict=True)]
    stays = [mask_quality(found[0], b) for b in truth[1:]]
    is_visible = np.asarray(truth.any((1, 2)))
    return {
        "first": each[0].mean,
        "later": float(np.mean([q.mean for q in each[1:]])),
        "seen": float(np.mean([q.region for q, v in zip(each[1:], is_visible[1:], strict=True) if v] or [np.nan])),
        "visibility": float((found.any((1, 2)) == is_visible)[1:].mean()),
        "stays": float(np.mean([q.mean for q in stays])),
    }


def survival_table(
    model: Sam3, num_cases: int, num_frames: int = 32, seed: int = HELD_OUT_SEED + 1
) -> dict[str, dict[str, float]]:
    """How often an object that was away for at least eight frames is found again.

    It is followed up to there when the median overlap (J) of the last eight frames before is at least one half, and
    found again when that of the frames in which it is back is.

    Returns:
        For objects that were "hidden" (`num_cases` of them or a few more) and for those that had "left" the picture:
        "cases"; for "click", for "mask", and for leaving the true first mask where it is, "stays", the share that was
        found again; and for "click" and "mask" with "_followed" the share that was followed up to there, with
        "_kept" the share of these that was found again, NaN without any.
    """
    tracker = model.require_tracker()
    results: dict[str, list[dict[str, float]]] = {"hidden": [], "left": []}
    bar = tqdm(total=num_cases, desc="survival", mininterval=5)
    index, size = 0, model.config.image_encoder.image_size
    while len(results["hidden"]) < num_cases:
        clip = render_clip(np.random.default_rng([seed, index]), num_frames=num_frames, size=size)
        away = {number: absences(clip.masks(number)) for number in range(1, len(clip.objects) + 1)}
        away = {n: found for n, found in away.items() if found and clip.masks(n)[0].sum() >= MIN_FIRST_PX}
        frames = tracker_frames(model, clip.frames) if away else None
        for number, found in away.items():
            assert frames is not None
            truth = clip.masks(number)
            tracks = {"stays": np.broadcast_to(truth[0], truth.shape)}
            for kind in get_args(Shown):
                rng = np.random.default_rng([seed, index, number])
                first = shown(tracker, frames[0], truth[None, 0], kind, rng)
                tracks[kind] = follow(tracker, frames, first, truth.shape[1:])[0]
            for absence in found:
                case = {kind: float(overlaps(track, truth, absence.back)) for kind, track in tracks.items()}
                for kind in get_args(Shown):
                    was_followed = overlaps(tracks[kind], truth, absence.before)
                    case[f"{kind}_followed"] = float(was_followed)
                    case[f"{kind}_kept"] = case[kind] if was_followed else np.nan
                results["hidden" if absence.is_inside else "left"].append(case)
                bar.update(absence.is_inside)
        index += 1
    return {name: {"cases": len(cases), **_mean(cases)} for name, cases in results.items() if cases}


def overlaps(found: NDArray[np.bool_], truth: NDArray[np.bool_], frames: Sequence[int]) -> bool:
    """Whether the median overlap of masks (F, H, W) in some frames is at least one half."""
    return bool(np.median([mask_quality(found[time], truth[time]).region for time in frames]) >= 0.5)


def return_table(model: Sam3, num_clips: int, num_frames: int = 32, seed: int = HELD_OUT_SEED + 2) -> dict[str, Any]:
    """Whether an object keeps its masklet when it comes back after eight frames or more.

    Clips with such an object are asked for it by a phrase: by the tracker, and by detections linked frame by frame.

    Returns:
        "clips", and "returns", how often an object comes back; and for "linked" and "tracker", "seen": how many of
        these have a masklet before and after at an IoU of one half, and "kept": how many of these have the same one.
    """
    clips = list(islice(_clips_of_returns(num_frames, model.config.image_encoder.image_size, seed), num_clips))
    ways: dict[str, Follow] = {
        "linked": LinkedDetections(ImagePredictor(model)),
        "tracker": follower(VideoPredictor(model)),
    }
    table: dict[str, Any] = {"clips": num_clips}
    for name, way in ways.items():
        found = evaluate_videos(way, clips, model_name=name, data_name="returns").statistics()
        returns, seen, kept = (int(sum(pair.hota.returns[part] for pair in found.pairs)) for part in range(3))
        table |= {"returns": returns, name: {"seen": seen, "kept": kept}}
    return table


def _clips_of_returns(num_frames: int, size: int, seed: int) -> Iterator[VideoClip]:
    """Clips in which an object comes back, with the first phrase that is true of it."""
    for index in count():
        clip = render_clip(np.random.default_rng([seed, index]), num_frames=num_frames, size=size)
        returning = [one for number, one in enumerate(clip.objects, start=1) if absences(clip.masks(number))]
        phrase = next((phrase for phrase in clip.phrases if any(map(phrase.matches, returning))), None)
        if phrase is not None:
            labels = clip.to_labels(f"returns-{index:04d}")
            asked = tuple(masklet for masklet in labels.masklets if masklet.phrase == phrase.text)
            truth = replace(labels, masklets=asked, phrases=(phrase.text,))
            yield VideoClip(labels.name, clip.frames, truth.phrases, truth)


def tracking_table(
    model: Sam3, *, num_clips: int = 40, num_frames: int = 24, num_cases: int = 30, num_return_clips: int = 40
) -> dict[str, Any]:
    """All three tables for a model as it is saved."""
    return {
        "follow": follow_table(model, num_clips, num_frames),
        "survival": survival_table(model, num_cases),
        "returns": return_table(model, num_return_clips),
    }


@torch.no_grad()
def shift_object_score(model: Sam3, shift: float) -> None:
    """Makes the tracker surer (or less sure, below 0) that what it follows is visible, by so much of its logit."""
    last = model.require_tracker().mask_decoder.object_mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    last.bias.add_(shift)


def score_shift_table(model: Sam3, num_clips: int, num_frames: int = 24) -> dict[float, float]:
    """J&F of later frames by the shift of the object score, on clips that are for choosing it only.

    Training weighs frames in which an object is hidden up, so that they are learnt at all; how sure is sure enough is
    settled here. The model is left as it was.
    """
    table = {}
    for shift in SCORE_SHIFTS:
        shift_object_score(model, shift)
        found = follow_table(model, num_clips, num_frames, HELD_OUT_SEED - 2)
        shift_object_score(model, -shift)
        table[shift] = (found["click"]["later"] + found["mask"]["later"]) / 2
    return table


def best_shift(table: Mapping[float, float]) -> float:
    """The shift that follows best; of equal ones the smallest."""
    return max(table, key=lambda shift: (table[shift], -abs(shift)))


def validate(model: Sam3) -> dict[str, float]:
    """J&F on six short clips, for the learning curve."""
    table = follow_table(model, 6, 12, HELD_OUT_SEED - 1)
    return {f"{kind} {name}": table[kind][name] for kind in get_args(Shown) for name in ("first", "later", "stays")}


def pretrain_tracker(
    out: str | Path,
    config: TrackingConfig | None = None,
    *,
    start: str | Path = "tiny",
    go_on: bool = False,
    tracker: TrackerConfig | None = None,
    device: str | torch.device | None = None,
    num_clips: int = 40,
    num_cases: int = 30,
    num_return_clips: int = 40,
    num_shift_clips: int = 12,
) -> Path:
    """Teaches an image model to take clicks and to follow; all its other weights stay as they are.

    Writes `model.safetensors` (fp16), `tracking.json`, `log.jsonl`, `state.pt` and the pool of clips. A run found in
    the folder is continued. Started by `torchrun`, the processes share the work.

    Args:
        out: folder of the run.
        config: the recipe.
        start: the image model, whatever `load_sam3` takes; a tracker that it has is replaced by a new one.
        go_on: keep that tracker; the usual recipe is then `TrackingConfig.last_stage`.
        tracker: its sizes; default those of `Sam3Config.tiny()`.
        device: default CUDA when there is one, else the CPU.
        num_clips, num_cases, num_return_clips: of the final measurement, see `follow_table`, `survival_table` and
            `return_table`.
        num_shift_clips: on which the threshold of the object score is settled, see `score_shift_table`.

    Returns:
        Path of the weights.

    Raises:
        ValueError: `go_on` with a model that has no tracker, or nothing to measure on.
    """
    measured = {"num_clips": num_clips, "num_cases": num_cases, "num_return_clips": num_return_clips}
    if min(*measured.values(), num_shift_clips) < 1:
        raise ValueError(f"received {measured | {'num_shift_clips': num_shift_clips}}; expected at least 1 of each")
    out, usual = Path(out), TrackingConfig()
    config = config or (usual.last_stage() if go_on else usual)
    image_model = load_sam3(start)
    if go_on:
        image_model.require_tracker()
        whole = with_only_tracker_trained(image_model)
    else:
        sizes = tracker or Sam3Config.tiny().tracker
        assert sizes is not None
        whole = with_new_tracker(image_model, sizes, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    run = TrackerRun(out, config, whole, join_processes(device))
    model, path = run.train(validate), out / "model.safetensors"
    if run.rank == 0:
        _finish(model, path, config, image_model.load_report.metadata, num_shift_clips, measured)
    if dist.is_initialized():
        dist.barrier()
    return path


def _finish(
    model: Sam3,
    path: Path,
    config: TrackingConfig,
    metadata: Mapping[str, str],
    num_shift_clips: int,
    measured: Mapping[str, int],
) -> None:
    """Settles the object score, saves the weights and measures them; `measured` as `tracking_table` takes it."""
    shifts = score_shift_table(model, num_shift_clips)
    shift = best_shift(shifts)
    shift_object_score(model, shift)
    save(model, path, dtype=torch.float16, metadata={**metadata, "tracker_recipe": json.dumps(asdict(config))})
    table = tracking_table(model.half().float(), **measured) | {
        "recipe": asdict(config),
        "score_shift": shift,
        "score_shifts": {str(one): round(value, 4) for one, value in shifts.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for part in tracked_parts(model) for p in part.parameters()),
    }
    write_json(path.with_name("tracking.json"), table)
