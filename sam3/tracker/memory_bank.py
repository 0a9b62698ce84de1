"""What is remembered of earlier frames, and which of it is looked at in a new frame.

A `MemoryBank` holds one `MemoryEntry` per frame for K objects that are tracked together; `recall` chooses from it.
Conditioning frames are those where a person or the detector said what the object is. Paper: the tracker's memory bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

MAX_CONDITIONING_FRAMES = 4
MAX_POINTERS = 16
MIN_QUALITY = 0.01


@dataclass(frozen=True)
class MemoryEntry:
    """Memory of K objects in one frame.

    Attributes:
        maps: (K, M, h, w); in bfloat16 unless they are made for training.
        pointers: (K, C) what each object is, as one vector.
        object_score_logits: (K,) is it visible. iou_scores: (K,) how well its mask is expected to fit.
        is_conditioning: somebody said in this frame what the objects are.
    """

    maps: Tensor
    pointers: Tensor
    object_score_logits: Tensor
    iou_scores: Tensor
    is_conditioning: bool

    @cached_property
    def quality(self) -> float:
        """Mean visibility times mean expected fit, 0..1; frames of low quality are not remembered."""
        logits = self.object_score_logits.detach().float()
        visibility = torch.where(logits > 0, 2 * logits.sigmoid() - 1, 0.0)
        return float(visibility.mean() * self.iou_scores.detach().float().mean())

    def __len__(self) -> int:
        return len(self.pointers)

    def __getitem__(self, objects: Tensor | slice) -> MemoryEntry:
        """The memory of some of the objects."""
        return MemoryEntry(
            self.maps[objects],
            self.pointers[objects],
            self.object_score_logits[objects],
            self.iou_scores[objects],
            self.is_conditioning,
        )

    @staticmethod
    def joined(entries: Sequence[MemoryEntry]) -> MemoryEntry:
        """The memory of one frame, of the objects of several entries in order."""
        return MemoryEntry(
            torch.cat([entry.maps for entry in entries]),
            torch.cat([entry.pointers for entry in entries]),
            torch.cat([entry.object_score_logits for entry in entries]),
            torch.cat([entry.iou_scores for entry in entries]),
            entries[0].is_conditioning,
        )

    def detached(self) -> MemoryEntry:
        """The same without the way back to what it was made from."""
        return replace(self, maps=self.maps.detach(), pointers=self.pointers.detach())

    def to(self, device: torch.device | str) -> MemoryEntry:
        """The same on another device."""
        return replace(
            self,
            maps=self.maps.to(device),
            pointers=self.pointers.to(device),
            object_score_logits=self.object_score_logits.to(device),
            iou_scores=self.iou_scores.to(device),
        )


@dataclass(frozen=True)
class FrameChoice:
    """The frames that are looked at.

    Attributes:
        conditioning: frames whose maps are used as conditioning.
        recent: (age, frame) of other maps; age 1 is the newest place, places may stay empty.
        pointers: (frame, distance) of object pointers.
        span: distances run to this.
    """

    conditioning: tuple[int, ...]
    recent: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]
    span: int


@dataclass(frozen=True)
class Recollection:
    """What a frame is shown of the past of K objects.

    Attributes:
        maps: of each chosen frame (K, M, h, w).
        ages: of each map; 0 for conditioning frames, else 1 (newest), 2, ...
        pointers: of each chosen frame (K, C).
        distances: of each pointer, in frames or ranks.
        span: distances are divided by this.
    """

    maps: tuple[Tensor, ...]
    ages: tuple[int, ...]
    pointers: tuple[Tensor, ...]
    distances: tuple[int, ...]
    span: int

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, objects: slice) -> Recollection:
        """What some of the objects are shown."""
        return replace(
            self,
            maps=tuple(maps[objects] for maps in self.maps),
            pointers=tuple(pointers[objects] for pointers in self.pointers),
        )


def choose_frames(
    frame: int,
    conditioning: Sequence[int],
    qualities: Mapping[int, float],
    *,
    num_frames: int | None = None,
    is_backward: bool = False,
    num_memory_frames: int = 7,
    by_quality: bool = True,
) -> FrameChoice:
    """Chooses what a frame remembers.

    Args:
        frame: the new frame.
        conditioning: conditioning frames, in the order they came to be. At most four are used, near ones first.
        qualities: quality of every other remembered frame.
        num_frames: length of the video, when it is known.
        is_backward: whether time runs backward.
        num_memory_frames: one more than how many other maps are used.
        by_quality: use the nearest frames of sufficient quality, the neighbour in any case, and measure distances in
            ranks; otherwise the nearest frames whatever their quality.

    Example:
        >>> choose_frames(5, [0], {1: 0.5, 2: 0.0, 3: 0.4, 4: 0.6}, num_frames=9).recent
        ((1, 4), (2, 3), (3, 1))
    """
    step = -1 if is_backward else 1
    chosen, left = _closest(conditioning, frame)
    num_pointers = min(num_frames or MAX_POINTERS, MAX_POINTERS)
    if by_quality:
        places = _good_frames(frame, qualities, num_frames, step, num_pointers - 1)
        pointer_places = places[: len(places) - 1]  # as published, the oldest gives no pointer
    else:
        places = [frame - step * age for age in range(1, max(num_memory_frames, num_pointers))]
        pointer_places = places
    stored = {*qualities, *left}
    pointers = [(t, abs(frame - t)) for t in chosen if step * (frame - t) >= 0]  # never from what is still to come
    pointers += [(t, rank) for rank, t in enumerate(pointer_places[: num_pointers - 1], start=1) if t in stored]
    return FrameChoice(
        conditioning=tuple(chosen),
        recent=tuple((age, t) for age, t in enumerate(places[: num_memory_frames - 1], start=1) if t in stored),
        pointers=tuple(pointers),
        span=max(num_pointers - 1, 1),
    )


def _closest(conditioning: Sequence[int], frame: int) -> tuple[list[int], list[int]]:
    """The conditioning frames to use, and the others: the nearest on either side, then the nearest of all."""
    if len(conditioning) <= MAX_CONDITIONING_FRAMES:
        return list(conditioning), []
    before = max((t for t in conditioning if t < frame), default=None)
    after = min((t for t in conditioning if t >= frame), default=None)
    sides = [t for t in (before, after) if t is not None]
    others = sorted((t for t in conditioning if t not in sides), key=lambda t: abs(t - frame))
    chosen = (sides + others)[:MAX_CONDITIONING_FRAMES]
    return chosen, [t for t in conditioning if t not in chosen]


def _good_frames(
    frame: int, qualities: Mapping[int, float], num_frames: int | None, step: int, limit: int
) -> list[int]:
    """The nearest frames of sufficient quality, newest first, and the neighbour. As published, frame 0 is left out."""
    neighbour = frame - step
    if neighbour < 0 or (num_frames is not None and step < 0 and neighbour >= num_frames):
        return []
    past = sorted(
        (t for t in qualities if step * (frame - t) > 0 and (step < 0 or t > 0)), key=lambda t: abs(frame - t)
    )
    good = [t for t in past if qualities[t] > MIN_QUALITY][:limit]
    return good if neighbour in good else [neighbour, *good]


class MemoryBank:
    """The memory of K objects that are tracked together, frame by frame.

    Args:
        num_memory_frames: of the tracker's config.
        by_quality: see `choose_frames`.
    """

    def __init__(self, num_memory_frames: int = 7, *, by_quality: bool = True):
        self.num_memory_frames = num_memory_frames
        self.by_quality = by_quality
        self.entries: dict[int, MemoryEntry] = {}

    def store(self, frame: int, entry: MemoryEntry) -> None:
        """Remembers a frame, in place of what was remembered of it."""
        self.entries[frame] = entry

    def choose(self, frame: int, *, num_frames: int | None = None, is_backward: bool = False) -> FrameChoice:
        """The frames that `recall` takes."""
        return choose_frames(
            frame,
            [t for t, entry in self.entries.items() if entry.is_conditioning],
            {t: entry.quality for t, entry in self.entries.items() if not entry.is_conditioning},
            num_frames=num_frames,
            is_backward=is_backward,
            num_memory_frames=self.num_memory_frames,
            by_quality=self.by_quality,
        )

    def recall(self, frame: int, *, num_frames: int | None = None, is_backward: bool = False) -> Recollection:
        """What `frame` is shown.

        Raises:
            ValueError: no conditioning frame is remembered.
        """
        choice = self.choose(frame, num_frames=num_frames, is_backward=is_backward)
        if not choice.conditioning:
            raise ValueError(
                f"the memory of {len(self.entries)} frames has no conditioning frame to track from; prompt the objects "
                "in a frame first, and store its memory"
            )
        frames = [(t, 0) for t in choice.conditioning] + [(t, age) for age, t in choice.recent]
        return Recollection(
            maps=tuple(self.entries[t].maps for t, _ in frames),
            ages=tuple(age for _, age in frames),
            pointers=tuple(self.entries[t].pointers for t, _ in choice.pointers),
            distances=tuple(distance for _, distance in choice.pointers),
            span=choice.span,
        )

    def trim(
        self, frame: int, *, num_frames: int | None = None, is_backward: bool = False, turn: int | None = None
    ) -> None:
        """Forgets what no later frame can recall.

        Args:
            frame: the last one seen. is_backward: the direction in which time goes on.
            num_frames: length of the video, when it is known.
            turn: the frame from which time may yet go the other way; by default it will not.
        """
        kept = self._recallable(frame, num_frames, -1 if is_backward else 1)
        if turn is not None:
            kept |= self._recallable(turn, num_frames, 1 if is_backward else -1)
        self.entries = {t: entry for t, entry in self.entries.items() if t in kept}

    def _recallable(self, frame: int, num_frames: int | None, step: int) -> set[int]:
        """The frames that may be recalled when time goes on from `frame`."""
        conditioning = [t for t, entry in self.entries.items() if entry.is_conditioning]
        passed = sorted((t for t in conditioning if step * (frame - t) >= 0), key=lambda t: abs(frame - t))
        kept = {frame, *passed[:MAX_CONDITIONING_FRAMES], *(t for t in conditioning if step * (frame - t) < 0)}
        if not self.by_quality:
            return kept | set(range(frame - step * (MAX_POINTERS - 1), frame + step, step))
        others = {t: entry.quality for t, entry in self.entries.items() if not entry.is_conditioning}
        return kept | set(_good_frames(frame + step, others, num_frames, step, MAX_POINTERS - 1))

    def keep(self, objects: Tensor | slice) -> None:
        """Forgets all but some of the objects."""
        self.entries = {t: entry[objects] for t, entry in self.entries.items()}
