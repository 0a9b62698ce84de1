"""What a video session gives: one frame's objects, and masklets, each an object through the whole video.

Masks are kept as run lengths, so that a long video with many objects stays small; they are unpacked frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sam3.rle import Rle

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The objects seen in one frame, in the order of their ids.

    Attributes:
        frame: its number, from 0.
        image_size: (H, W) in pixels.
        ids: (N,) int64, each of one object through the whole video.
        phrases: N, what each was found for; None for exemplars alone.
        rles: N masks as run lengths.
        boxes_xyxy_px: (N, 4) float32, right and lower end exclusive.
        scores: (N,) float32, 0..1: how sure it is that the object is here, in this frame.
        detection_scores: (N,) float32, 0..1: how sure its first detection was.
        presence_scores: (N,) float32, 0..1: how sure it was then that the phrase is in the frame at all.
    """

    frame: int
    image_size: tuple[int, int]
    ids: NDArray[np.int64]
    phrases: tuple[str | None, ...]
    rles: tuple[Rle, ...]
    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    detection_scores: NDArray[np.float32]
    presence_scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check_lengths(
            f"frame {self.frame}",
            len(self.ids),
            phrases=self.phrases,
            rles=self.rles,
            boxes_xyxy_px=self.boxes_xyxy_px,
            scores=self.scores,
            detection_scores=self.detection_scores,
            presence_scores=self.presence_scores,
        )
        _check_sizes(f"frame {self.frame}", self.rles, self.image_size)
        if len(set(self.ids.tolist())) < len(self.ids):
            raise ValueError(f"frame {self.frame} has ids {self.ids.tolist()}; expected each object once")

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def of_masks(
        frame: int,
        ids: Sequence[int],
        masks: NDArray[np.bool_],
        *,
        scores: Sequence[float] | NDArray[np.float32],
        phrases: Sequence[str | None],
        detection_scores: Sequence[float] | NDArray[np.float32] | None = None,
        presence_scores: Sequence[float] | NDArray[np.float32] | None = None,
    ) -> FrameResult:
        """The result of (N,H,W) bool masks; boxes are taken from them, empty masks are left out, ids are put in order.

        Detection and presence scores are 1 where they are left out.

        Example:
            >>> masks = np.zeros((2, 8, 8), dtype=bool)
            >>> masks[0, 2:4, 1:6] = True
            >>> found = FrameResult.of_masks(7, [3, 4], masks, scores=[0.9, 0.8], phrases=["cat", "cat"])
            >>> found.ids.tolist(), found.boxes_xyxy_px.tolist()
            ([3], [[1.0, 2.0, 6.0, 4.0]])
        """
        ones = np.ones(len(ids))
        order = [index for index in np.argsort(np.asarray(ids, dtype=np.int64), kind="stable") if masks[index].any()]
        rles = tuple(Rle.of(masks[index]) for index in order)

        def kept(values: Sequence[float] | NDArray[np.float32] | None) -> NDArray[np.float32]:
            return np.asarray(ones if values is None else values, dtype=np.float32)[order]

        return FrameResult(
            frame=frame,
            image_size=(masks.shape[1], masks.shape[2]),
            ids=np.asarray(ids, dtype=np.int64)[order],
            phrases=tuple(phrases[index] for index in order),
            rles=rles,
            boxes_xyxy_px=_boxes_of(rles),
            scores=kept(scores),
            detection_scores=kept(detection_scores),
            presence_scores=kept(presence_scores),
        )

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool, unpacked anew each time."""
        return np.stack([rle.mask() for rle in self.rles]) if self.rles else np.zeros((0, *self.image_size), bool)

    def to_detections(self) -> supervision.Detections:
        """The same as `supervision.Detections`: ids as `tracker_id`, phrases under `data["class_name"]`, class ids in
        the alphabetical order of the frame's phrases.
        """
        import supervision

        names = np.array([phrase or "visual" for phrase in self.phrases], dtype=object)
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px,
            mask=self.masks,
            confidence=self.scores,
            class_id=np.unique(names.astype(str), return_inverse=True)[1].astype(int),
            tracker_id=self.ids,
            data={"class_name": names},
        )


@dataclass(frozen=True, eq=False)
class Masklet:
    """One object through a video: its mask in every frame in which it is seen.

    Attributes:
        id: of the object, the same in every frame.
        phrase: what it was found for; None for exemplars alone.
        image_size: (H, W) in pixels.
        frames: (N,) int64 numbers of the frames in which it is seen, rising.
        rles: N masks as run lengths.
        boxes_xyxy_px: (N, 4) float32, right and lower end exclusive.
        scores: (N,) float32, 0..1: how sure it is that the object is there, frame by frame.
        detection_score: 0..1: how sure its first detection was.
        presence_score: 0..1: how sure it was then that the phrase is in the frame at all.
        masklet_detection_score: the paper's, over its whole life: frames in which the detector saw it too, minus frames
            in which it did not. 0 where no detector looked.

    Example:
        >>> mask = np.zeros((1, 8, 8), dtype=bool)
        >>> mask[0, 2:4, 1:6] = True
        >>> seen = [FrameResult.of_masks(f, [5], mask, scores=[0.9], phrases=["cat"]) for f in (0, 2)]
        >>> (masklet,) = masklets_of(seen)
        >>> masklet.frames.tolist(), [int(masklet.mask(f).sum()) for f in (0, 1, 2)]
        ([0, 2], [10, 0, 10])
    """

    id: int
    phrase: str | None
    image_size: tuple[int, int]
    frames: NDArray[np.int64]
    rles: tuple[Rle, ...]
    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    detection_score: float = 1.0
    presence_score: float = 1.0
    masklet_detection_score: int = 0

    def __post_init__(self) -> None:
        name = f"masklet {self.id}"
        _check_lengths(name, len(self.frames), rles=self.rles, boxes_xyxy_px=self.boxes_xyxy_px, scores=self.scores)
        _check_sizes(name, self.rles, self.image_size)
        if (np.diff(self.frames) <= 0).any():
            raise ValueError(f"{name} has frames {self.frames.tolist()[:20]}; expected each once, in rising order")

    def __len__(self) -> int:
        return len(self.frames)

    def rle(self, frame: int) -> Rle | None:
        """The mask of one frame as run lengths; None where the object is not seen."""
        place = self._place(frame)
        return None if place is None else self.rles[place]

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """(H, W) bool; all False where the object is not seen."""
        rle = self.rle(frame)
        return np.zeros(self.image_size, dtype=bool) if rle is None else rle.mask()

    def to_detections(self, frame: int) -> supervision.Detections:
        """One frame as `supervision.Detections` with the id as `tracker_id`; empty where the object is not seen."""
        return frame_result([self], frame).to_detections()

    def _place(self, frame: int) -> int | None:
        place = int(np.searchsorted(self.frames, frame))
        return place if place < len(self.frames) and self.frames[place] == frame else None


def frame_result(masklets: Sequence[Masklet], frame: int) -> FrameResult:
    """What masklets of one video show in one frame.

    Raises:
        ValueError: no masklet is given, their sizes differ, or two have the same id.
    """
    if not masklets:
        raise ValueError("received no masklet; expected at least one, because the size of the frame is taken from it")
    seen = sorted(
        ((masklet, place) for masklet in masklets if (place := masklet._place(frame)) is not None),
        key=lambda pair: pair[0].id,
    )
    return FrameResult(
        frame=frame,
        image_size=masklets[0].image_size,
        ids=np.array([masklet.id for masklet, _ in seen], dtype=np.int64),
        phrases=tuple(masklet.phrase for masklet, _ in seen),
        rles=tuple(masklet.rles[place] for masklet, place in seen),
        boxes_xyxy_px=np.array([m.boxes_xyxy_px[place] for m, place in seen], dtype=np.float32).reshape(-1, 4),
        scores=np.array([masklet.scores[place] for masklet, place in seen], dtype=np.float32),
        detection_scores=np.array([masklet.detection_score for masklet, _ in seen], dtype=np.float32),
        presence_scores=np.array([masklet.presence_score for masklet, _ in seen], dtype=np.float32),
    )


def masklets_of(results: Iterable[FrameResult]) -> list[Masklet]:
    """The objects of a video from the results of its frames, in any order of the frames.

    Returns:
        One masklet per id, ids rising. Phrase, detection and presence score are those of its first frame.

    Raises:
        ValueError: two results of one frame, or frames of different sizes.
    """
    seen: dict[int, list[tuple[FrameResult, int]]] = {}
    for result in sorted(results, key=lambda result: result.frame):
        for row, id_ in enumerate(result.ids.tolist()):
            seen.setdefault(id_, []).append((result, row))
    masklets = []
    for id_, rows in sorted(seen.items()):
        first, row = rows[0]
        masklets.append(
            Masklet(
                id=id_,
                phrase=first.phrases[row],
                image_size=first.image_size,
                frames=np.array([result.frame for result, _ in rows], dtype=np.int64),
                rles=tuple(result.rles[row] for result, row in rows),
                boxes_xyxy_px=np.stack([result.boxes_xyxy_px[row] for result, row in rows]),
                scores=np.array([result.scores[row] for result, row in rows], dtype=np.float32),
                detection_score=float(first.detection_scores[row]),
                presence_score=float(first.presence_scores[row]),
            )
        )
    return masklets


def without_overlap(rles: Mapping[int, Rle], scores: Mapping[int, float]) -> dict[int, Rle]:
    """Masks of one frame by id, cut so that none overlap: a shared pixel goes to the highest score, then to the first.

    Args:
        rles: id -> mask, all of one size.
        scores: id -> any scale.

    Returns:
        Those that keep a pixel, in their order.

    Example:
        >>> left, right = Rle.of(np.array([[1, 1, 0]], dtype=bool)), Rle.of(np.array([[0, 1, 1]], dtype=bool))
        >>> apart = without_overlap({3: left, 5: right}, {3: 0.2, 5: 0.9})
        >>> {one: rle.mask().astype(int).tolist() for one, rle in apart.items()}
        {3: [[1, 0, 0]], 5: [[0, 1, 1]]}
    """
    boxes = np.array([rle.box_xyxy_px for rle in rles.values()]).reshape(-1, 4)
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    touches = ((high > low).all(-1) & ~np.eye(len(boxes), dtype=bool)).any(1)
    shared = [one for one, is_shared in zip(rles, touches, strict=True) if is_shared]
    taken: NDArray[np.bool_] | None = None
    kept = dict(rles)
    for one in sorted(shared, key=lambda one: -scores[one]):  # stable: of equal scores the first wins
        mask = rles[one].mask()
        free = mask if taken is None else mask & ~taken
        taken = mask if taken is None else taken | mask
        if not free.any():
            del kept[one]
        elif free is not mask:
            kept[one] = Rle.of(free)
    return kept


def masklet_of_rles(id_: int, phrase: str | None, rles: Sequence[Rle | None], *, score: float = 1.0) -> Masklet:
    """A masklet from its mask in every frame of a video, such as a labelled one: None or an empty mask is not seen.

    Raises:
        ValueError: it is seen in no frame.
    """
    seen = [(frame, rle) for frame, rle in enumerate(rles) if rle is not None and rle.area]
    if not seen:
        raise ValueError(f"masklet {id_} is seen in none of {len(rles)} frames; expected at least one. Leave it out.")
    masks = tuple(rle for _, rle in seen)
    return Masklet(
        id=id_,
        phrase=phrase,
        image_size=masks[0].size,
        frames=np.array([frame for frame, _ in seen], dtype=np.int64),
        rles=masks,
        boxes_xyxy_px=_boxes_of(masks),
        scores=np.full(len(seen), score, dtype=np.float32),
        detection_score=score,
    )


def _boxes_of(rles: Sequence[Rle]) -> NDArray[np.float32]:
    return np.array([rle.box_xyxy_px for rle in rles], dtype=np.float32).reshape(-1, 4)


def _check_lengths(name: str, wanted: int, **values: Sequence[object] | NDArray[np.float32]) -> None:
    wrong = {field: len(value) for field, value in values.items() if len(value) != wanted}
    if wrong:
        raise ValueError(f"{name} has {wrong} for {wanted} entries; expected one each")


def _check_sizes(name: str, rles: Sequence[Rle], image_size: tuple[int, int]) -> None:
    wrong = {rle.size for rle in rles} - {tuple(image_size)}
    if wrong:
        raise ValueError(
            f"{name} has masks of {sorted(wrong)}, its frames are {image_size} (height, width); resize one"
        )
