"""The tracker's part of a session: which objects are followed, and what is remembered of each.

Objects that start on the same frame share a memory until only some of them are re-conditioned; all are one batch in
each step. In: features of a frame, masks or hints. Out: what the frame shows of every object. Paper: "tracker" of
Fig. 3, for many objects at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3.masks import divide_pixels
from sam3.tracker.memory import MEMORY_MASK_STRIDE
from sam3.tracker.memory_bank import MemoryBank, MemoryEntry, Recollection
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import MEMORY_CONTRAST, FrameFeatures, Tracker, TrackerOutput

_CORRECTED_SPAN = 16  # frames around a correction on which the detector's prompts for the object are forgotten


@dataclass(frozen=True)
class Play:
    """Where time stands.

    Attributes:
        frame: its number.
        num_frames: length of the video, when it is known.
        is_backward: whether time runs backward.
        turn: the frame from which it may yet run the other way.
    """

    frame: int
    num_frames: int | None = None
    is_backward: bool = False
    turn: int | None = None


@dataclass(frozen=True, eq=False)
class CarriedObjects:
    """What the tracker makes of K objects in a frame: row i of `output` is the object `ids[i]`."""

    ids: tuple[int, ...]
    output: TrackerOutput


@dataclass
class _Group:
    """Objects that share a memory: row i of every entry of `bank` is the object `ids[i]`."""

    ids: tuple[int, ...]
    bank: MemoryBank
    hinted_frames: set[int]  # where a user said what the object is


class Following:
    """The objects that are followed.

    Args:
        tracker: of the model.
        objects_at_once: in one pass through memory and decoder; bounds the memory of a step.
    """

    def __init__(self, tracker: Tracker, *, objects_at_once: int = 16):
        if objects_at_once < 1:
            raise ValueError(f"received objects_at_once={objects_at_once}; expected at least 1")
        self.tracker = tracker
        self.objects_at_once = objects_at_once
        self._groups: list[_Group] = []

    @property
    def ids(self) -> tuple[int, ...]:
        """The objects, group by group."""
        return tuple(one for group in self._groups for one in group.ids)

    def is_hinted(self, masklet_id: int, frame: int) -> bool:
        """Whether a user has shown the object in this frame."""
        return any(masklet_id in group.ids and frame in group.hinted_frames for group in self._groups)

    def carry(self, features: FrameFeatures, ids: Collection[int], play: Play) -> CarriedObjects | None:
        """What a frame shows of some of the objects, by memory alone; None if there are none of them.

        Groups are carried whole: the answer may hold more objects than asked for.
        """
        groups = [group for group in self._groups if not set(ids).isdisjoint(group.ids)]
        if not groups:
            return None
        memories = {
            number: group.bank.recall(play.frame, num_frames=play.num_frames, is_backward=play.is_backward)
            for number, group in enumerate(groups)
        }
        outputs: dict[int, list[TrackerOutput]] = {number: [] for number in memories}
        for batch in _batches(memories, self.objects_at_once):
            output = self.tracker.step(features, memory=[part for _, part in batch], with_memory=False)
            start = 0
            for number, part in batch:
                outputs[number].append(output[start : start + len(part)])
                start += len(part)
        carried = [output for number in memories for output in outputs[number]]
        return CarriedObjects(tuple(one for group in groups for one in group.ids), TrackerOutput.joined(carried))

    def remember(
        self,
        features: FrameFeatures,
        carried: CarriedObjects,
        mask_logits: Tensor,
        play: Play,
        *,
        prompts: Mapping[int, Tensor],
        keeps_own_masks: bool = False,
    ) -> None:
        """Stores what the frame showed, and forgets what no frame will ask for again.

        Args:
            features: of the frame.
            carried: from `carry`.
            mask_logits: (K, h, w) what to remember of each object; usually its mask, mended.
            play: where time stands.
            prompts: id -> mask logits (h, w) of objects that are re-conditioned: this is what they are.
            keeps_own_masks: remember re-conditioned objects by their own masks all the same, and the frame as one that
                says what they are for all objects that share their memory.
        """
        output, masks = carried.output, mask_logits
        if prompts:
            rows = torch.tensor([carried.ids.index(one) for one in prompts], device=masks.device)
            told = self._adopted(features, torch.stack(list(prompts.values())))
            scores = output.object_score_logits.index_copy(0, rows, told.object_score_logits)
            output = replace(
                output, pointers=output.pointers.index_copy(0, rows, told.pointers), object_score_logits=scores
            )
            if not keeps_own_masks:
                masks = masks.index_copy(0, rows, told.mask_logits)
                self._groups = [part for group in self._groups for part in _parted(group, prompts.keys())]
        for group in self._groups:
            if group.ids[0] not in carried.ids or play.frame in group.hinted_frames:
                continue  # what a user said there stands
            own = torch.tensor([carried.ids.index(one) for one in group.ids], device=masks.device)
            is_prompted = not prompts.keys().isdisjoint(group.ids)
            self._store(group, features, output[own], masks[own], play, is_conditioning=is_prompted, is_binary=False)

    def start(self, features: FrameFeatures, ids: Sequence[int], mask_logits: Tensor, play: Play) -> None:
        """Follows new objects (K, h, w) together from this frame on."""
        told = self._adopted(features, mask_logits)
        # Where masks overlap, the later one is in front: as in the released code, who an object is comes from its whole
        # mask, and what is remembered of its place from the visible part.
        order = torch.arange(len(ids), device=mask_logits.device)
        apart = torch.where(divide_pixels(mask_logits > 0, order), told.mask_logits, -MEMORY_CONTRAST)
        group = _Group(tuple(ids), MemoryBank(self.tracker.config.num_memory_frames), set())
        self._store(group, features, told, apart, play, is_conditioning=True, is_binary=True)
        self._groups.append(group)

    def show(self, features: FrameFeatures, masklet_id: int, prompt: Hints | Tensor, frame: int) -> TrackerOutput:
        """Tells what one object is, a new one or one that is followed: from now on it has a memory of its own.

        Args:
            features: of the frame.
            masklet_id: the object.
            prompt: hints (K = 1), or a mask (1, H, W) bool that is taken for the truth.
            frame: its number.

        Returns:
            What the frame shows of it.
        """
        if isinstance(prompt, Hints):
            output = self.tracker.step(features, hints=prompt)
        else:
            output = self.tracker.adopt(features, prompt)
        group = self._alone(masklet_id)
        group.hinted_frames.add(frame)
        group.bank.entries = {  # what was remembered since the last word of a user may be something else
            t: entry
            for t, entry in group.bank.entries.items()
            if t in group.hinted_frames or (entry.is_conditioning and abs(t - frame) > _CORRECTED_SPAN)
        }
        assert output.memory is not None
        group.bank.store(frame, output.memory)
        return output

    def stop(self, ids: Collection[int]) -> None:
        """Forgets objects; those that are not followed are passed over."""
        for group in self._groups:
            kept = [row for row, one in enumerate(group.ids) if one not in ids]
            if len(kept) < len(group.ids):
                group.ids = tuple(group.ids[row] for row in kept)
                group.bank.keep(torch.tensor(kept, dtype=torch.long))
        self._groups = [group for group in self._groups if group.ids]

    def _alone(self, masklet_id: int) -> _Group:
        """The group of one object, taken out of that which it shares with others."""
        self._groups = [part for group in self._groups for part in _parted(group, {masklet_id})]
        own = next((group for group in self._groups if group.ids == (masklet_id,)), None)
        if own is None:
            own = _Group((masklet_id,), MemoryBank(self.tracker.config.num_memory_frames), set())
            self._groups.append(own)
        return own

    def _store(
        self,
        group: _Group,
        features: FrameFeatures,
        output: TrackerOutput,
        masks: Tensor,
        play: Play,
        *,
        is_conditioning: bool,
        is_binary: bool,
    ) -> None:
        entries = []
        for rows in self._parts(len(masks)):
            large = _enlarged(masks[rows], features)
            entries.append(
                self.tracker.memorise(
                    features,
                    output[rows],
                    is_conditioning=is_conditioning,
                    is_binary=is_binary,
                    mask_logits=large,
                    is_present=(large > 0).flatten(1).any(1),
                )
            )
        group.bank.store(play.frame, MemoryEntry.joined(entries))
        group.bank.trim(play.frame, num_frames=play.num_frames, is_backward=play.is_backward, turn=play.turn)

    def _adopted(self, features: FrameFeatures, mask_logits: Tensor) -> TrackerOutput:
        """What the tracker makes of masks (N, h, w) that are taken for the truth."""
        parts = [_enlarged(mask_logits[rows], features) > 0 for rows in self._parts(len(mask_logits))]
        return TrackerOutput.joined([self.tracker.adopt(features, part, with_memory=False) for part in parts])

    def _parts(self, count: int) -> list[slice]:
        """Rows that go through a network together."""
        return [slice(first, first + self.objects_at_once) for first in range(0, count, self.objects_at_once)]


def _parted(group: _Group, told_ids: Collection[int]) -> list[_Group]:
    """The group as it is, or in two: what is said of some of its objects must not push out what others remember."""
    is_told = [one in told_ids for one in group.ids]
    if all(is_told) or not any(is_told):
        return [group]
    parts = []
    for kind in (True, False):
        rows = torch.tensor([row for row, told in enumerate(is_told) if told is kind])
        bank = MemoryBank(group.bank.num_memory_frames, by_quality=group.bank.by_quality)
        bank.entries = {frame: entry[rows] for frame, entry in group.bank.entries.items()}
        parts.append(_Group(tuple(group.ids[row] for row in rows.tolist()), bank, set(group.hinted_frames)))
    return parts


def _enlarged(mask_logits: Tensor, features: FrameFeatures) -> Tensor:
    """Mask logits (K, h, w) at the size in which they enter the memory."""
    size = features.grid[0] * MEMORY_MASK_STRIDE, features.grid[1] * MEMORY_MASK_STRIDE
    return F.interpolate(mask_logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def _batches(memories: Mapping[int, Recollection], limit: int) -> list[list[tuple[int, Recollection]]]:
    """Memories that hold equally much go together, up to `limit` objects in a batch; larger ones are cut."""
    alike: dict[tuple[int, int], list[tuple[int, Recollection]]] = {}
    for number, memory in memories.items():
        parts = [(number, memory[first : first + limit]) for first in range(0, len(memory), limit)]
        alike.setdefault((len(memory.maps), len(memory.pointers)), []).extend(parts)
    batches: list[list[tuple[int, Recollection]]] = []
    for parts in alike.values():
        batch: list[tuple[int, Recollection]] = []
        for part in parts:
            if batch and sum(len(memory) for _, memory in batch) + len(part[1]) > limit:
                batches.append(batch)
                batch = []
            batch.append(part)
        batches.append(batch)
    return batches
