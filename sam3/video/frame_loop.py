"""One frame of a video, as in the paper's figure: encode, detect, propagate, associate, update, remember.

In: a frame, the concepts that are searched, and objects that a user has shown. Out: what the frame shows of every
object; the searches have lived on, and the tracker remembers. Paper: section on video.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam3.detector.text_encoder import TextFeatures
from sam3.image_encoder import ImageFeatures, to_pixel_values
from sam3.interactive import hints_of
from sam3.masks import mend_masks, suppress_covered
from sam3.model import Sam3
from sam3.prompts import ObjectPrompt, Prompt
from sam3.tracker.prompt_encoder import Hints
from sam3.tracker.tracker import FrameFeatures
from sam3.video.association import CarriedMasks, Detections, associate, keep_detections
from sam3.video.following import CarriedObjects, Following, Play
from sam3.video.masklets import FrameDecisions, LifeCycle, add_masklet, confirm_masklet, live, suppress
from sam3.video_config import VideoConfig


@dataclass
class Search:
    """A concept that is searched in every frame; without a prompt, the objects that were shown by hand.

    Attributes:
        prompt: what to look for. frame: that its exemplars lie on.
        cycle: the masklets found for it.
        presence: id of each masklet -> how sure it was, when it was born, that the frame holds the concept at all.
    """

    prompt: Prompt | None
    frame: int = 0
    cycle: LifeCycle = field(default_factory=LifeCycle)
    presence: dict[int, float] = field(default_factory=dict)

    @property
    def phrase(self) -> str | None:
        return None if self.prompt is None else self.prompt.phrase

    def question(self, frame: int) -> Prompt | None:
        """What to ask of a frame: exemplars only of the frame they lie on; None if that leaves nothing."""
        if self.prompt is None or frame == self.frame or not self.prompt.has_exemplars:
            return self.prompt
        return None if self.phrase is None else Prompt(self.phrase)


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """A frame as the two halves of the model see it."""

    frame: int
    detector: ImageFeatures | None  # None where only the tracker looks
    tracker: FrameFeatures


@dataclass(frozen=True, eq=False)
class Seen:
    """What a frame shows of N objects between which every pixel is to be divided.

    Attributes:
        ids: N masklets.
        mask_logits: (N, h, w) on the grid of the model; those of suppressed masklets are nowhere above 0.
        scores: (N,) how sure it is that each object is in this frame, 0..1.
    """

    ids: tuple[int, ...]
    mask_logits: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """What the detector found of a concept in a frame, and how sure it is that the frame holds it at all, 0..1."""

    detections: Detections
    presence_score: float


class FrameLoop:
    """Does one frame after the other, in any order.

    Args:
        model: with a tracker.
        config: the rules for masklets.
        frame_size: (H, W) of the frames in pixels.
        image_size: side of the model's input.
        tracker_context: see `VideoPredictor`.
        objects_at_once: see `Following`.
    """

    def __init__(
        self,
        model: Sam3,
        config: VideoConfig,
        frame_size: tuple[int, int],
        *,
        image_size: int,
        tracker_context: Callable[[], AbstractContextManager[object]] | None = None,
        objects_at_once: int = 16,
    ):
        self.next_id = 0
        self.following = Following(model.require_tracker(), objects_at_once=objects_at_once)
        self._model, self._config = model, config
        self._frame_size, self._image_size = frame_size, image_size
        self._tracker_context = tracker_context
        self._encoded_text: tuple[tuple[str, ...], TextFeatures] | None = None

    def encode(self, frame: int, pixels: NDArray[np.uint8], *, with_detector: bool = True) -> EncodedFrame:
        """Features of a frame (H,W,3) uint8 RGB, from one pass through the image encoder, unless the tracker has a
        context of its own and the detector is wanted too."""
        model, encoder, context = self._model, self._model.image_encoder, self._tracker_context
        values = to_pixel_values(pixels, self._image_size)[None].to(model.device, model.dtype)
        with nullcontext() if context is None else context():
            trunk = encoder.trunk(values)
            tracked = model.tracker_features(trunk)
        if not with_detector:
            return EncodedFrame(frame, None, tracked)
        return EncodedFrame(frame, encoder.features(trunk) if context is None else encoder(values), tracked)

    def step(
        self, encoded: EncodedFrame, searches: Sequence[Search], shown_ids: Collection[int], play: Play
    ) -> list[Seen]:
        """Does a frame.

        Args:
            encoded: the frame.
            searches: the detector looks for these, and their masklets live on.
            shown_ids: masklets that a user has shown or corrected, to be followed whatever the detector says.
            play: where time stands.

        Returns:
            One entry for each search and for each other masklet. Masklets that have just been removed are still in it.
        """
        before, next_id = [search.cycle for search in searches], self.next_id
        try:
            return self._step(encoded, searches, shown_ids, play)
        except BaseException:  # all of a frame or nothing: the masklets must be those that are followed
            for search, cycle in zip(searches, before, strict=True):
                self.following.stop(set(search.cycle.ids) - set(cycle.ids))
                search.cycle = cycle
            self.next_id = next_id
            raise

    def _step(
        self, encoded: EncodedFrame, searches: Sequence[Search], shown_ids: Collection[int], play: Play
    ) -> list[Seen]:
        detections = self._detect(encoded, searches)
        searched = [one for search in searches for one in search.cycle.ids]
        carried = self.following.carry(encoded.tracker, {*searched, *shown_ids}, play)
        mended = self._mended(carried, encoded)
        remembered, prompts = mended.mask_logits.clone(), dict[int, Tensor]()
        seen: list[Seen] = []
        newborn: list[tuple[list[int], Tensor]] = []
        for search, found in zip(searches, detections, strict=True):
            own, decisions = self._live(search, found, _rows_of(mended, search.cycle.ids), play)
            rows = [mended.ids.index(one) for one in own.ids]
            remembered[rows] = suppress_covered(own.mask_logits, self._config.min_front_share)
            entry = Seen(own.ids, own.mask_logits, own.object_score_logits.sigmoid())
            if found is not None:
                prompts |= {one: found.detections.mask_logits[row] for one, row in decisions.recondition}
                born = found.detections[torch.tensor([row for _, row in decisions.born], dtype=torch.long)]
                ids = [one for one, _ in decisions.born]
                if ids:
                    newborn.append((ids, born.mask_logits))
                entry = self._with_newborn(entry, ids, born)
            seen.append(_without(entry, {*decisions.lost_ids, *self._told(entry.ids, play)}))
        if carried is not None:
            quirk = self._config.reference_quirks
            self.following.remember(encoded.tracker, carried, remembered, play, prompts=prompts, keeps_own_masks=quirk)
        for ids, mask_logits in newborn:
            self.following.start(encoded.tracker, ids, mask_logits, play)
        for search in searches:
            self.following.stop(search.cycle.removed_ids)
        alone = _rows_of(mended, {*shown_ids} - {*searched, *self._told(shown_ids, play)})
        scores = alone.object_score_logits.sigmoid()
        return [*seen, *(Seen((one,), alone.mask_logits[i, None], scores[i, None]) for i, one in enumerate(alone.ids))]

    def show(self, encoded: EncodedFrame, search: Search, prompt: ObjectPrompt, masklet_id: int | None) -> Seen:
        """Starts a masklet that a user shows, or corrects one; in its search only when the tracker has taken it.

        Args:
            encoded: the frame that the prompt lies on.
            search: that the masklet belongs to.
            prompt: a mask alone is taken for the truth; clicks and boxes, with or without a mask, are answered.
            masklet_id: the masklet to correct; None for a new one.
        """
        cycle = replace(search.cycle, next_id=self.next_id)
        if masklet_id is None:
            masklet_id, cycle = add_masklet(cycle, encoded.frame, self._config)
        else:
            cycle = confirm_masklet(cycle, masklet_id)
        if prompt.mask is not None and not prompt.clicks and prompt.box_xyxy_px is None:
            told: Hints | Tensor = torch.as_tensor(prompt.mask, device=self._model.device)[None]
        else:
            told = hints_of([prompt], self._frame_size, encoded.tracker)
        output = self.following.show(encoded.tracker, masklet_id, told, encoded.frame)
        search.cycle, self.next_id = cycle, cycle.next_id
        search.presence.setdefault(masklet_id, 1.0)
        mask_logits = mend_masks(output.mask_logits, self._max_speck(encoded))
        return Seen((masklet_id,), mask_logits, output.object_score_logits.sigmoid())

    def _told(self, ids: Collection[int], play: Play) -> set[int]:
        """Those that a user has shown in this very frame: what was said there stands."""
        return {one for one in ids if self.following.is_hinted(one, play.frame)}

    def _live(
        self, search: Search, found: Found | None, own: CarriedMasks, play: Play
    ) -> tuple[CarriedMasks, FrameDecisions]:
        """One frame in the life of the masklets of a search: their masks, some of them suppressed, and what to do."""
        detections = None if found is None else found.detections
        association = associate(detections, own, self._config)
        cycle = replace(search.cycle, next_id=self.next_id)
        decisions, search.cycle = live(
            cycle, association, detections, own, play.frame, self._config, is_backward=play.is_backward
        )
        self.next_id = search.cycle.next_id
        search.presence |= {one: found.presence_score for one, _ in decisions.born if found is not None}
        return suppress(own, decisions.suppressed_ids), decisions

    def _detect(self, encoded: EncodedFrame, searches: Sequence[Search]) -> list[Found | None]:
        """What the detector finds for each search; None where nothing is to be asked."""
        questions = [search.question(encoded.frame) for search in searches]
        asked = [q.on_input(self._frame_size, self._image_size) for q in questions if q is not None]
        if not asked:
            return [None] * len(searches)
        if encoded.detector is None:
            raise ValueError(f"frame {encoded.frame} was encoded for the tracker alone; encode it with_detector")
        limit = self._config.min_detection_score
        output = self._model.detect(
            encoded.detector,
            [asked],
            text=self._text(tuple(one.text for one in asked)),
            mask_pairs=lambda scores: (scores > limit).any(1).nonzero().squeeze(1),
        )
        found = []
        for pair in range(len(asked)):
            scores = output.scores[pair]
            sure = (scores > limit).nonzero().squeeze(1)
            masks = output.masks_of(torch.full_like(sure, pair), sure).float()
            detections = keep_detections(Detections(scores[sure], masks), self._config)
            found.append(Found(detections, float(output.presence_logits[pair].float().sigmoid())))
        answers = iter(found)
        return [None if question is None else next(answers) for question in questions]

    def _text(self, phrases: tuple[str, ...]) -> TextFeatures:
        """Features of the phrases, encoded once as long as they stay the same."""
        if self._encoded_text is None or self._encoded_text[0] != phrases:
            self._encoded_text = phrases, self._model.encode_text(phrases)
        return self._encoded_text[1]

    def _mended(self, carried: CarriedObjects | None, encoded: EncodedFrame) -> CarriedMasks:
        """The carried masks without small holes and specks."""
        fine = encoded.tracker.fine
        if carried is None:
            return CarriedMasks((), fine.new_zeros(0, *fine.shape[-2:]), fine.new_zeros(0))
        logits = mend_masks(carried.output.mask_logits, self._max_speck(encoded))
        return CarriedMasks(carried.ids, logits, carried.output.object_score_logits.float())

    def _with_newborn(self, seen: Seen, ids: Sequence[int], born: Detections) -> Seen:
        grid = (born.mask_logits.shape[-2], born.mask_logits.shape[-1])
        mask_logits = mend_masks(born.mask_logits, self._config.max_speck_area(grid))
        if not seen.ids:
            return Seen(tuple(ids), mask_logits, born.scores)
        return Seen(
            (*seen.ids, *ids), torch.cat([seen.mask_logits, mask_logits]), torch.cat([seen.scores, born.scores])
        )

    def _max_speck(self, encoded: EncodedFrame) -> int:
        fine = encoded.tracker.fine
        return self._config.max_speck_area((fine.shape[-2], fine.shape[-1]))


def _rows_of(carried: CarriedMasks, ids: Collection[int]) -> CarriedMasks:
    """The masks of some of the masklets; those that are not carried are passed over."""
    rows = [row for row, one in enumerate(carried.ids) if one in ids]
    return CarriedMasks(
        tuple(carried.ids[row] for row in rows), carried.mask_logits[rows], carried.object_score_logits[rows]
    )


def _without(seen: Seen, ids: Collection[int]) -> Seen:
    rows = [row for row, one in enumerate(seen.ids) if one not in ids]
    return Seen(tuple(seen.ids[row] for row in rows), seen.mask_logits[rows], seen.scores[rows])
