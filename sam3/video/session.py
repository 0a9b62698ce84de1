"""One video that is worked on: prompts in, masklets out.

A session plays the video through the `FrameLoop`, forward and backward, as often as is asked, and does nothing twice.
Kept of the past: memories of the tracker in a ring, a few numbers per masklet, and masks as run lengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F

from sam3.interactive import refuse_outside
from sam3.model import Sam3
from sam3.prompts import Click, ObjectPrompt, Prompt
from sam3.rle import Rle
from sam3.video.following import Play
from sam3.video.frame_loop import EncodedFrame, FrameLoop, Search, Seen
from sam3.video.masklets import MaskletLife, release, remove_masklet
from sam3.video.results import FrameResult, Masklet, masklets_of, without_overlap
from sam3.video.source import BrokenFrameError, FrameSource, whole
from sam3.video_config import VideoConfig

if TYPE_CHECKING:
    import supervision

Direction = Literal["forward", "backward", "both"]


@dataclass
class _Front:
    """How far something was played, from its origin in both directions.

    Attributes:
        done: first and last frame that were computed.
        shown: first and last frame that were handed out; None before any was.
    """

    done: tuple[int, int]
    shown: tuple[int, int] | None = None
    origin: int = field(init=False)

    def __post_init__(self) -> None:
        self.origin = self.done[0]

    def is_ahead(self, play: Play) -> bool:
        """Whether a frame is still to be computed in the direction of time."""
        return play.frame < self.done[0] if play.is_backward else play.frame > self.done[1]

    def is_due(self, frame: int) -> bool:
        """Whether a frame was computed, but never handed out."""
        is_new = self.shown is None or not self.shown[0] <= frame <= self.shown[1]
        return self.done[0] <= frame <= self.done[1] and is_new

    def advance(self, frame: int) -> None:
        self.done = min(self.done[0], frame), max(self.done[1], frame)

    def show(self, frame: int) -> None:
        if self.is_due(frame):
            first, last = self.shown or (frame, frame)
            self.shown = min(first, frame), max(last, frame)

    def next(self, *, is_backward: bool) -> int:
        """The next frame to hand out."""
        if self.shown is None:
            return self.origin
        return self.shown[0] - 1 if is_backward else self.shown[1] + 1


@dataclass(frozen=True, eq=False)
class _Pending:
    """What was seen in a frame and not handed out; `waits` while new masklets may turn out to be false alarms."""

    frame: int
    seen: tuple[Seen, ...]
    waits: bool


class VideoSession:
    """A video with its prompts and what was found so far; made by `VideoPredictor.open`. Use it in a `with` block.

    Attributes:
        source: the frames.
        broken_frames: numbers of frames that could not be read and were passed over.
        newest_id: of the masklet that was found or shown last; None before the first.
    """

    def __init__(
        self,
        model: Sam3,
        source: FrameSource,
        config: VideoConfig,
        *,
        image_size: int,
        tracker_context: Callable[[], AbstractContextManager[object]] | None = None,
        objects_at_once: int = 16,
    ):
        self.source = source
        self.broken_frames: list[int] = []
        self._config = config
        self._loop = FrameLoop(
            model,
            config,
            source.size,
            image_size=image_size,
            tracker_context=tracker_context,
            objects_at_once=objects_at_once,
        )
        self._by_hand = Search(None)
        self._searches: list[tuple[Search, _Front]] = []
        self._corrected: dict[int, _Front] = {}  # masklets that a user has shown, and how far they were followed since
        self._masks: dict[int, dict[int, tuple[Rle, float]]] = {}  # frame -> id -> mask, score
        self._encoded: EncodedFrame | None = None
        self._hidden: set[int] = set()  # masklets that nobody wants, followed so that they are not found anew
        self._is_playing = False

    @property
    def newest_id(self) -> int | None:
        return self._loop.next_id - 1 if self._loop.next_id else None

    # ------------------------------------------------------------------------------------------------- what is wanted
    @torch.inference_mode()
    def add(
        self,
        what: str | Prompt | Click | ObjectPrompt | Sequence[Click],
        frame: int = 0,
        *,
        masklet_id: int | None = None,
    ) -> FrameResult:
        """Searches a concept from a frame on, or shows one object by hand; several may be added.

        Args:
            what: a phrase, or a `Prompt` with exemplars in pixels of this frame: every instance of it will be found.
                Clicks, or an `ObjectPrompt` with a box or a mask: one object will be followed.
            frame: that the exemplars, clicks, box or mask lie on, and in which the search begins. On other frames, a
                phrase is asked without its exemplars, and masklets found by exemplars alone are followed.
            masklet_id: the object that clicks correct; by default they show a new one, which becomes `newest_id`.

        Returns:
            What the frame shows with it. What was found may still turn out to be a false alarm later.

        Raises:
            ValueError: an empty phrase, one that is searched already, a prompt outside the frame, a `masklet_id` that
                does not exist or came with a phrase, a `frame` that is no number, or the video is just being played.
            IndexError: the video has no such frame.
            VideoError: the frame cannot be read.
        """
        self._refuse_while_playing("add")
        frame = self.source.checked(frame)
        wanted = Prompt(what) if isinstance(what, str) else ObjectPrompt([what]) if isinstance(what, Click) else what
        if isinstance(wanted, Prompt):
            if masklet_id is not None:
                raise ValueError(
                    f"received masklet_id={masklet_id} with a phrase; only clicks, boxes and masks correct one masklet"
                )
            self._search(wanted, frame)
        elif isinstance(wanted, ObjectPrompt | Sequence):
            if isinstance(wanted, Sequence) and any(isinstance(one, str | Prompt) for one in wanted):
                raise ValueError(
                    f"received {len(wanted)} phrases or prompts at once; expected one, call add for each of them"
                )
            one = wanted if isinstance(wanted, ObjectPrompt) else ObjectPrompt(wanted)
            self._show(one, frame, masklet_id)
        else:
            raise ValueError(f"received {type(what).__name__}; expected a phrase, a Prompt, clicks or an ObjectPrompt")
        return self.result(frame)

    def remove(self, what: int | str) -> None:
        """Leaves a masklet, or a phrase with all its masklets, out of all frames.

        A masklet of a phrase is still followed, or the detector would find the object again and give it another number.

        Raises:
            ValueError: there is no such masklet or phrase, or the video is just being played.
        """
        self._refuse_while_playing("remove")
        if isinstance(what, str):
            found = [pair for pair in self._searches if pair[0].phrase == what]
            if not found:
                raise ValueError(f"{what!r} is not searched; searched are {self._phrases()}")
            self._searches.remove(found[0])
            gone = found[0][0].cycle.ids
        else:
            search, gone = self._search_of(what), ()
            if search is self._by_hand:
                search.cycle, gone = remove_masklet(search.cycle, what), (what,)
            self._hidden.add(what)
        self._loop.following.stop(gone)
        for one in gone:
            self._corrected.pop(one, None)

    def _search(self, prompt: Prompt, frame: int) -> None:
        prompt.on_input(self.source.size, 1)  # refuses exemplars outside
        if prompt.phrase is not None and prompt.phrase in self._phrases():
            raise ValueError(
                f"the phrase {prompt.phrase!r} is searched already; remove({prompt.phrase!r}) first to ask it anew"
            )
        search = Search(prompt, frame)
        seen = self._loop.step(self._encode(frame), [search], [], Play(frame, self.source.num_frames))
        self._searches.append((search, _Front((frame, frame))))
        self._keep(frame, seen)

    def _show(self, prompt: ObjectPrompt, frame: int, masklet_id: int | None) -> None:
        refuse_outside(prompt, self.source.size)
        search = self._by_hand if masklet_id is None else self._search_of(masklet_id)
        if masklet_id is not None and prompt.mask is None and prompt.mask_logits is None:
            known = self._masks.get(frame, {}).get(masklet_id)
            prompt = prompt if known is None else replace(prompt, mask=known[0].mask())
        seen = self._loop.show(self._encode(frame), search, prompt, masklet_id)
        self._corrected[seen.ids[0]] = _Front((frame, frame))
        self._hidden.discard(seen.ids[0])
        self._keep(frame, [seen])

    def _encode(self, frame: int) -> EncodedFrame:
        """The frame for both halves of the model; that of the last prompt is kept for the next one."""
        if self._encoded is None or self._encoded.frame != frame:
            self._encoded = self._loop.encode(frame, self.source.frame(frame))
        return self._encoded

    # ------------------------------------------------------------------------------------------------------- the pass
    def propagate(
        self, direction: Direction = "forward", *, start: int | None = None, num_frames: int | None = None
    ) -> Iterator[FrameResult]:
        """Plays the video and yields what each frame shows, in playing order.

        Results of a search are held back for `VideoConfig.hotstart_frames`, so that false alarms do not show. Close the
        iterator, or leave the loop, to stop at any frame: nothing is lost, and the next call goes on. A frame that
        cannot be read is passed over with a warning and noted in `broken_frames`. Frames that were done before come
        from store. What a user has shown in a frame is not computed again there.

        Args:
            direction: "both" plays to the end, then back from the start to the first frame.
            start: by default the first prompt, or where the last call stopped. Frames on the way to it that were not
                played yet are computed first, so that memory has no gaps, and not yielded.
            num_frames: at most so many frames in each direction, the first included. All of them are handed out, those
                too whose masklets are still on trial.

        Raises:
            ValueError: nothing was added yet, or numbers and words that make no sense.
            IndexError: the video has no frame `start`.
            VideoError: frames of different sizes; all that came before is in `masklets`.
        """
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"received direction {direction!r}; expected 'forward', 'backward' or 'both'")
        if num_frames is not None and (num_frames := whole(num_frames, "num_frames")) < 1:
            raise ValueError(f"received num_frames={num_frames}; expected at least 1")
        if not self._fronts():
            raise ValueError("nothing is searched or shown yet; call add with a phrase, clicks, a box or a mask first")
        self._refuse_while_playing("propagate")
        start = None if start is None else self.source.checked(start)
        return self._propagate(direction, start, num_frames)

    def _propagate(self, direction: Direction, start: int | None, num_frames: int | None) -> Iterator[FrameResult]:
        self._refuse_while_playing("propagate")  # another iterator may have begun since this one was made
        if not self._fronts():
            return
        first = self._next(is_backward=False) if start is None else start
        if direction != "backward":
            yield from self._pass(first, num_frames, is_backward=False)
        if direction != "forward":
            behind = self._next(is_backward=True) if start is None else start - (direction == "both")
            if direction == "both" and behind >= first:
                behind = first - 1  # the others were handed out on the way forward
            yield from self._pass(behind, num_frames, is_backward=True)

    def _next(self, *, is_backward: bool) -> int:
        """Where a pass begins: where something is left to be done, or else at the first prompt."""
        fronts, length = self._fronts(), self.source.num_frames
        left = [self._readable(front.next(is_backward=is_backward), is_backward=is_backward) for front in fronts]
        left = [frame for frame in left if frame >= 0 and (length is None or frame < length)]
        places = left or [front.origin for front in fronts]
        return max(places) if is_backward else min(places)

    def _readable(self, frame: int, *, is_backward: bool) -> int:
        """The frame, or the next one in playing order that is not known to be broken."""
        while frame in self.broken_frames:
            frame += -1 if is_backward else 1
        return frame

    def _pass(self, start: int, num_frames: int | None, *, is_backward: bool) -> Iterator[FrameResult]:
        """One direction. Whatever ends it, all that was computed is kept."""
        reached = [front.done[0] - 1 if is_backward else front.done[1] + 1 for front in self._fronts()]
        begin = max(start, *reached) if is_backward else min(start, *reached)
        num_skipped = abs(start - begin)
        pending: tuple[_Pending, ...] = ()
        self._is_playing, self._encoded = True, None
        try:
            times = self._times(begin, num_frames and num_frames + num_skipped, is_backward=is_backward)
            for number, play in enumerate(times):
                done = self._advance(play)
                if done is None:
                    continue
                if number < num_skipped:
                    self._keep(play.frame, done.seen)
                    continue
                is_held = done.waits or bool(pending)
                ready, pending = release((*pending, done), self._config, is_last=not is_held)
                for item in ready:
                    yield self._handed_out(item)
            while pending:
                item, pending = pending[0], pending[1:]
                yield self._handed_out(item)
        finally:
            for item in pending:
                self._keep(item.frame, item.seen)
            self._is_playing = False

    def _times(self, start: int, num_frames: int | None, *, is_backward: bool) -> Iterator[Play]:
        """The moments of a pass, to the end of the video or until there are enough."""
        fronts, frame, count = self._fronts(), start, 0
        turn = max(front.done[1] for front in fronts) if is_backward else min(front.done[0] for front in fronts)
        while frame >= 0 and count != num_frames and frame < (self.source.num_frames or frame + 1):
            yield Play(frame, self.source.num_frames, is_backward, turn)
            frame, count = frame - 1 if is_backward else frame + 1, count + 1

    @torch.inference_mode()
    def _advance(self, play: Play) -> _Pending | None:
        """Does a frame for all that has not been there yet; None for a frame that cannot be read."""
        searches = [(search, front) for search, front in self._searches if front.is_ahead(play)]
        corrected = {one: front for one, front in self._corrected.items() if front.is_ahead(play)}
        if play.frame in self.broken_frames:
            return None
        if not searches and not corrected:
            return _Pending(play.frame, (), self._is_due(play.frame))
        try:
            pixels = self.source.frame(play.frame)
        except BrokenFrameError as error:
            warnings.warn(f"{error}; the frame is passed over", stacklevel=2)
            self.broken_frames.append(play.frame)
            return None
        except IndexError:
            if self.source.num_frames == play.frame:  # the stream has ended
                return None
            raise
        encoded = self._loop.encode(play.frame, pixels, with_detector=bool(searches))
        seen = self._loop.step(encoded, [search for search, _ in searches], corrected, play)
        for front in (*(front for _, front in searches), *corrected.values()):
            front.advance(play.frame)
        return _Pending(play.frame, tuple(seen), self._is_due(play.frame))

    def _is_due(self, frame: int) -> bool:
        """Whether masklets of a frame that was never handed out may yet turn out to be false alarms."""
        return any(front.is_due(frame) for _, front in self._searches)

    # -------------------------------------------------------------------------------------------------------- results
    def result(self, frame: int) -> FrameResult:
        """What is known of a frame; nothing, if it was not played yet.

        Masks of one search never overlap: a pixel belongs to what a user has shown, else to the highest score.

        Raises:
            ValueError: `frame` is no whole number.
            IndexError: the video has no such frame.
        """
        frame = self.source.checked(frame)
        stored = self._masks.get(frame, {})
        known: dict[int, tuple[Rle, float, MaskletLife, Search]] = {}
        for search in self._all_searches():
            lives = {life.id: life for life in search.cycle.alive if life.id in stored and life.id not in self._hidden}
            order = {one: 2.0 if one in self._corrected else stored[one][1] for one in lives}
            rles = without_overlap({one: stored[one][0] for one in lives}, order)
            known |= {one: (rle, stored[one][1], lives[one], search) for one, rle in rles.items()}
        ids = sorted(known)
        rles_in_order = tuple(known[one][0] for one in ids)
        return FrameResult(
            frame=frame,
            image_size=self.source.size,
            ids=np.array(ids, dtype=np.int64),
            phrases=tuple(known[one][3].phrase for one in ids),
            rles=rles_in_order,
            boxes_xyxy_px=np.array([rle.box_xyxy_px for rle in rles_in_order], dtype=np.float32).reshape(-1, 4),
            scores=np.array([known[one][1] for one in ids], dtype=np.float32),
            detection_scores=np.array([known[one][2].score for one in ids], dtype=np.float32),
            presence_scores=np.array([known[one][3].presence[one] for one in ids], dtype=np.float32),
        )

    def masklets(self) -> list[Masklet]:
        """The objects of all frames played so far, in the order of their ids; those never visible are left out."""
        lives = {life.id: life for search in self._all_searches() for life in search.cycle.alive}
        masklets = masklets_of(self.result(frame) for frame in self._masks)
        return [replace(one, masklet_detection_score=lives[one.id].detection_score) for one in masklets]

    def to_detections(self, frame: int) -> supervision.Detections:
        """What is known of a frame as `supervision.Detections`, with the masklets' ids as `tracker_id`."""
        return self.result(frame).to_detections()

    def close(self) -> None:
        """Lets go of the video file; the results stay."""
        self.source.close()

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handed_out(self, item: _Pending) -> FrameResult:
        self._keep(item.frame, item.seen)
        for front in self._fronts():
            front.show(item.frame)
        return self.result(item.frame)

    def _keep(self, frame: int, seen: Sequence[Seen]) -> None:
        """Stores masks at the size of the video as run lengths, one at a time, because enlarged logits are large."""
        masks = self._masks.setdefault(frame, {})
        rows = [row for part in seen for row in zip(part.ids, part.mask_logits, part.scores, strict=True)]
        for one, logits, score in rows:
            full = F.interpolate(logits[None, None], size=self.source.size, mode="bilinear", align_corners=False)[0, 0]
            mask = (full > 0).cpu().numpy()
            masks.pop(one, None)
            if mask.any():
                masks[one] = Rle.of(mask), float(score)

    # ---------------------------------------------------------------------------------------------------------- terms
    def _all_searches(self) -> list[Search]:
        return [self._by_hand, *(search for search, _ in self._searches)]

    def _fronts(self) -> list[_Front]:
        return [*(front for _, front in self._searches), *self._corrected.values()]

    def _phrases(self) -> list[str | None]:
        return [search.phrase for search, _ in self._searches]

    def _search_of(self, masklet_id: int) -> Search:
        for search in self._all_searches():
            if masklet_id in search.cycle.ids or masklet_id in search.cycle.removed_ids:
                return search
        ids = sorted(one for search in self._all_searches() for one in search.cycle.ids)
        raise ValueError(f"received masklet {masklet_id}; the session has the masklets {ids}")

    def _refuse_while_playing(self, call: str) -> None:
        if self._is_playing:
            raise ValueError(
                f"received {call} while the video is being played; close the iterator of propagate first, and call "
                "propagate again afterwards: it goes on where it stopped"
            )
