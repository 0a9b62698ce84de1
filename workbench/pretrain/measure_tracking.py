"""How well a model takes clicks and follows, on rendered clips with seeds of their own, and the pre-training around it.

Everything is measured on the way that a session goes: hints in the first frame, then memory alone, chosen by quality.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from sam3.checkpoint import load_sam3, save
from sam3.config import Sam3Config
from sam3.files import write_text
from sam3.image_encoder import ImageEncoder
from sam3.model import Sam3
from sam3.tracker.memory_bank import MemoryBank
from sam3.tracker.tracker import FrameFeatures, Tracker, TrackerOutput
from workbench.domains.clips import Clip, render_clip
from workbench.mask_quality import mask_quality
from workbench.pretrain.clip_pool import encode_frames
from workbench.pretrain.tracking import TrackerRun, TrackingConfig, tracked_parts, with_new_tracker
from workbench.pretrain.tracking_losses import memory_of
from workbench.pretrain.windows import MIN_FIRST_PX, clicks_of

HELD_OUT_SEED = 990_011
MIN_HIDDEN_FRAMES = 8
Shown = Literal["click", "mask"]


@dataclass(frozen=True)
class Absence:
    """Frames in which an object that was seen before is completely hidden, and those after it in which it is back.

    Attributes:
        hidden: first and last frame, both included.
        back: frames in which it is visible again, up to the next absence.
        is_inside: it was hidden by something, and had not left the picture.
    """

    hidden: tuple[int, int]
    back: tuple[int, ...]
    is_inside: bool


def absences(masks: NDArray[np.bool_], min_frames: int = MIN_HIDDEN_FRAMES) -> list[Absence]:
    """The long absences of an object (F, H, W) after which it comes back."""
    is_seen = masks.any((1, 2))
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
        found.append(Absence((start, end - 1), tuple(range(end, stop)), not touches))
    return found


@torch.no_grad()
def tracker_frames(model: Sam3, frames: NDArray[np.uint8]) -> FrameFeatures:
    """What the tracker keeps of frames (F, H, W, 3) of the model's input size."""
    pyramid, tracker = tracked_parts(model)
    batches = [encode_frames(model.image_encoder, part) for part in np.array_split(frames, -(-len(frames) // 8))]
    return tracker.prepare([torch.cat([level(x) for x in batches]) for level in pyramid])


@torch.no_grad()
def follow(tracker: Tracker, frames: FrameFeatures, first: TrackerOutput, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (K, F, H, W) of K objects in all frames from what the first one shows of them, as a session follows them."""
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
        return tracker.adopt(frame, torch.from_numpy(masks), with_memory=False)
    return tracker.step(frame, hints=clicks_of(rng, masks), with_memory=False)


def _masks(output: TrackerOutput, size: tuple[int, int]) -> NDArray[np.bool_]:
    logits = F.interpolate(output.mask_logits[:, None], size=size, mode="bilinear", align_corners=False)
    return (logits.squeeze(1) > 0).numpy()


def held_out_clips(num_clips: int, num_frames: int, seed: int = HELD_OUT_SEED) -> Iterator[tuple[Clip, list[int]]]:
    """Clips that no training sees, with the numbers of up to three objects that are there in the first frame."""
    for index in range(num_clips):
        clip = render_clip(np.random.default_rng([seed, index]), num_frames=num_frames)
        areas = np.bincount(clip.instance_maps[0].ravel(), minlength=len(clip.objects) + 1)
        numbers = [number for number in range(1, len(areas)) if areas[number] >= MIN_FIRST_PX]
        if numbers:
            yield clip, numbers[:3]


def follow_table(model: Sam3, num_clips: int, num_frames: int, seed: int = HELD_OUT_SEED) -> dict[str, Any]:
    """J&F of objects that are told in the first frame by a click or by their masks, and of leaving that mask where it is.

    Later frames in which an object is rightly not found count as 1.

    Returns:
        "objects"; and for "click" and "mask" the means "first" (J&F of the first frame), "later" (J&F of all others),
        "seen" (J of those in which the object is visible), "visibility" (share of later frames in which it was right
        whether the object is visible), and "stays" (J&F of the first frame's mask in all others).
    """
    tracker, rows = model.require_tracker(), {"click": [], "mask": []}  # type: ignore[var-annotated]
    for index, (clip, numbers) in enumerate(
        tqdm(held_out_clips(num_clips, num_frames, seed), total=num_clips, desc="follow", mininterval=5)
    ):
        frames = tracker_frames(model, clip.frames)
        truth = np.stack([clip.masks(number) for number in numbers])
        for kind, found_rows in rows.items():
            rng = np.random.default_rng([seed, index, 1])
            first = shown(tracker, frames[0], truth[:, 0], kind, rng)  # type: ignore[arg-type]
            found = follow(tracker, frames, first, truth.shape[2:])
            found_rows += [_quality(answer, true) for answer, true in zip(found, truth, strict=True)]
    return {
        "clips": num_clips,
        "frames": num_frames,
        "objects": len(rows["click"]),
        **{
            kind: {name: round(float(np.nanmean([row[name] for row in found])), 4) for name in found[0]}
            for kind, found in rows.items()
        },
    }


def _quality(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Measures of one object over a clip (F, H, W)."""
    each = [mask_quality(a, b) for a, b in zip(found, truth, strict=True)]
    stays = [mask_quality(found[0], b) for b in truth[1:]]
    is_visible = truth.any((1, 2))
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
    """How often an object that was hidden for at least eight frames is found again.

    It is found again when the median overlap (J) of the frames in which it is back is at least one half.

    Returns:
        For objects that were "hidden" and for those that had "left" the picture: "cases", and the shares for "click",
        "mask" and for leaving the first frame's mask where it is, "stays".
    """
    tracker = model.require_tracker()
    results: dict[str, list[dict[str, float]]] = {"hidden": [], "left": []}
    index = 0
    bar = tqdm(total=num_cases, desc="survival", mininterval=5)
    while len(results["hidden"]) < num_cases:
        clip = render_clip(np.random.default_rng([seed, index]), num_frames=num_frames)
        index += 1
        cases = [
            (number, absence)
            for number in range(1, len(clip.objects) + 1)
            if (clip.instance_maps[0] == number).sum() >= MIN_FIRST_PX
            for absence in absences(clip.masks(number))
        ]
        if not cases:
            continue
        frames = tracker_frames(model, clip.frames)
        for number, absence in cases:
            truth = clip.masks(number)
            case = {"stays": _is_found(np.broadcast_to(truth[0], truth.shape), truth, absence)}
            for kind in ("click", "mask"):
                rng = np.random.default_rng([seed, index, number])
                first = shown(tracker, frames[0], truth[None, 0], kind, rng)  # type: ignore[arg-type]
                case[kind] = _is_found(follow(tracker, frames, first, truth.shape[1:])[0], truth, absence)
            results["hidden" if absence.is_inside else "left"].append(case)
            bar.update(absence.is_inside)
    return {
        name: {"cases": len(cases), **{k: round(float(np.mean([c[k] for c in cases])), 4) for k in cases[0]}}
        for name, cases in results.items()
        if cases
    }


def _is_found(found: NDArray[np.bool_], truth: NDArray[np.bool_], absence: Absence) -> float:
    overlaps = [mask_quality(found[t], truth[t]).region for t in absence.back]
    return float(np.median(overlaps) >= 0.5)
