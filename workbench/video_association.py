"""Do masklets keep to their objects? HOTA, TETA, identity switches and returns, from what masklets share.

Everything starts from one `MaskletOverlap` per video. Sums are additive over videos and (video, phrase) pairs; the
quotients are taken at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

HOTA_THRESHOLDS = np.arange(0.05, 0.99, 0.05)
TETA_THRESHOLDS = np.arange(0.0, 0.99, 0.05)
CLASS_THRESHOLDS = TETA_THRESHOLDS[10:]  # 0.50, 0.55, ... 0.95

_EPS = np.finfo(np.float64).eps
_CLUSTER_IOU = 0.5  # a candidate this close to a true object belongs to its surroundings
_SWITCH_IOU = 0.5
ABSENCE_FRAMES = 8  # an object that was away for so long must be recognised again

_Sums = TypeVar("_Sums", "HotaSums", "TetaSums")


@dataclass(frozen=True, eq=False)
class MaskletOverlap:
    """Areas of D candidate masklets and G true ones on T frames, and the area that each two share.

    Args:
        shared: (T, D, G) in the unit of the areas.
        found_area: (T, D); 0 where the candidate is absent.
        true_area: (T, G); 0 where the object is absent.
    """

    shared: np.ndarray
    found_area: np.ndarray
    true_area: np.ndarray

    def select(self, found: np.ndarray, true: np.ndarray) -> MaskletOverlap:
        """The same for some of the masklets: `found` (D,) and `true` (G,) are bool, or indices."""
        return MaskletOverlap(self.shared[:, found][:, :, true], self.found_area[:, found], self.true_area[:, true])

    def on_frames(self, frames: np.ndarray) -> MaskletOverlap:
        """The same on some of the frames, given by their indices."""
        return MaskletOverlap(self.shared[frames], self.found_area[frames], self.true_area[frames])

    @property
    def frame_iou(self) -> np.ndarray:
        """(T, D, G) IoU on each frame; 0 where both are absent."""
        union = self.found_area[:, :, None] + self.true_area[:, None] - self.shared
        return np.divide(self.shared, union, out=np.zeros_like(self.shared), where=union > 0)

    @property
    def masklet_iou(self) -> np.ndarray:
        """(D, G) shared area over joint area, both summed over the frames; 1 where both are absent throughout."""
        shared = self.shared.sum(axis=0)
        union = self.found_area.sum(axis=0)[:, None] + self.true_area.sum(axis=0) - shared
        return np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


@dataclass(frozen=True, eq=False)
class _Matches:
    """One-to-one assignments on all frames, M in total, and how long each masklet is there.

    Args:
        frame, found, true, iou: (M,) frame, candidate, object, and the IoU of the two there; frames in order.
        num_found: (D,) frames with the candidate. num_true: (G,) frames with the object.
    """

    frame: np.ndarray
    found: np.ndarray
    true: np.ndarray
    iou: np.ndarray
    num_found: np.ndarray
    num_true: np.ndarray

    def counts(self, threshold: float) -> np.ndarray:
        """(D, G) frames on which each two are assigned to one another with at least this IoU."""
        is_hit = self.iou >= threshold - _EPS
        shape = len(self.num_found), len(self.num_true)
        pairs = self.found[is_hit] * shape[1] + self.true[is_hit]
        return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    def association(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(A,) hits, and over the hits the sums of association accuracy, recall and precision, per threshold."""
        counts = np.stack([self.counts(threshold) for threshold in thresholds])
        found, true = self.num_found[:, None], self.num_true
        wholes = np.maximum(found + true - counts, 1), np.maximum(true, 1), np.maximum(found, 1)
        sums = [(counts * counts / whole).sum(axis=(1, 2)) for whole in wholes]
        return counts.sum(axis=(1, 2)), sums[0], sums[1], sums[2]


def _match(overlap: MaskletOverlap) -> _Matches:
    """Best assignment on every frame, by IoU times how well two masklets agree over the whole video."""
    iou, is_found, is_true = overlap.frame_iou, overlap.found_area > 0, overlap.true_area > 0
    num_found, num_true = is_found.sum(axis=0), is_true.sum(axis=0)
    rivals = iou.sum(axis=1, keepdims=True) + iou.sum(axis=2, keepdims=True) - iou
    agreed = np.divide(iou, rivals, out=np.zeros_like(iou), where=rivals > _EPS).sum(axis=0)
    either = num_found[:, None] + num_true - agreed
    alignment = np.divide(agreed, either, out=np.zeros_like(agreed), where=either > 0)
    places = [np.zeros((3, 0), dtype=np.intp)]
    for frame in np.flatnonzero(is_found.any(axis=1) & is_true.any(axis=1)):
        candidates, objects = np.flatnonzero(is_found[frame]), np.flatnonzero(is_true[frame])
        block = np.ix_(candidates, objects)
        rows, columns = linear_sum_assignment((alignment[block] * iou[frame][block]).T, maximize=True)
        places.append(np.stack([np.full(len(rows), frame), candidates[columns], objects[rows]]))
    frame, found, true = np.concatenate(places, axis=1)
    return _Matches(frame, found, true, iou[frame, found, true], num_found, num_true)


# --------------------------------------------------------------------------------------------------------------- HOTA
@dataclass(frozen=True, eq=False)
class HotaSums:
    """Additive parts of HOTA at the 19 thresholds 0.05, 0.10, ... 0.95, all (19,).

    Args:
        tp, fn, fp: matched, missed and surplus masks over all frames.
        accuracy, recall, precision: sums over the matched masks of how well their two masklets agree over the video.
        iou: sum of the IoU of the matched masks.
        switches: (1,) times that an object goes over from one masklet to another, at IoU 0.5.
        returns: (3,) times that an object comes back after at least `ABSENCE_FRAMES` frames; those of them in which it
            has a masklet before and after, at IoU 0.5; and those in which it is the same one.
    """

    tp: np.ndarray
    fn: np.ndarray
    fp: np.ndarray
    accuracy: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    iou: np.ndarray
    switches: np.ndarray
    returns: np.ndarray


def hota_sums(overlap: MaskletOverlap) -> HotaSums:
    """Sums of one (video, phrase) pair; D or G may be 0."""
    matches = _match(overlap)
    tp, accuracy, recall, precision = matches.association(HOTA_THRESHOLDS)
    is_hit = matches.iou >= HOTA_THRESHOLDS[:, None] - _EPS
    return HotaSums(
        tp=tp,
        fn=matches.num_true.sum() - tp,
        fp=matches.num_found.sum() - tp,
        accuracy=accuracy,
        recall=recall,
        precision=precision,
        iou=(matches.iou * is_hit).sum(axis=1),
        switches=np.array([_num_switches(matches)]),
        returns=_returns(matches, overlap.true_area > 0),
    )


def hota_values(sums: Sequence[HotaSums]) -> dict[str, float]:
    """HOTA and its parts over any number of pairs.

    Args:
        sums: one entry per pair, from `hota_sums`.

    Returns:
        HOTA, DetA, AssA, DetRe, DetPr, AssRe, AssPr, LocA, OWTA; fractions, means over the thresholds. At a threshold
        without any match LocA is 1, the evaluator's convention.

    Example:
        >>> areas = np.ones((2, 1))
        >>> values = hota_values([hota_sums(MaskletOverlap(np.array([[[1.0]], [[0.0]]]), areas, areas))])
        >>> round(values["DetA"], 3), round(values["AssA"], 3)
        (0.333, 0.333)
    """
    total = sum_of(sums)
    hits = np.maximum(total.tp, 1)
    det_a = total.tp / np.maximum(total.tp + total.fn + total.fp, 1)
    det_re, det_pr = total.tp / np.maximum(total.tp + total.fn, 1), total.tp / np.maximum(total.tp + total.fp, 1)
    values = {
        "HOTA": np.sqrt(det_a * total.accuracy / hits),
        "DetA": det_a,
        "AssA": total.accuracy / hits,
        "DetRe": det_re,
        "DetPr": det_pr,
        "AssRe": total.recall / hits,
        "AssPr": total.precision / hits,
        "LocA": np.where(total.tp > 0, total.iou / hits, 1.0),
        "OWTA": np.sqrt(det_re * total.accuracy / hits),
    }
    return {name: float(value.mean()) for name, value in values.items()}


def _num_switches(matches: _Matches) -> int:
    is_hit = matches.iou >= _SWITCH_IOU - _EPS
    found, true = matches.found[is_hit], matches.true[is_hit]
    return sum(int((np.diff(found[true == number]) != 0).sum()) for number in np.unique(true))


def _returns(matches: _Matches, is_true: np.ndarray) -> np.ndarray:
    """`HotaSums.returns`; `is_true` (T, G) tells where the objects are."""
    counts = np.zeros(3)
    is_hit = matches.iou >= _SWITCH_IOU - _EPS
    for number in range(is_true.shape[1]):
        frames = np.flatnonzero(is_true[:, number])
        stays = np.split(frames, np.flatnonzero(np.diff(frames) > ABSENCE_FRAMES) + 1)
        is_own = is_hit & (matches.true == number)
        masklets = [matches.found[is_own & np.isin(matches.frame, stay)] for stay in stays]
        for before, after in pairwise(masklets):
            is_seen = len(before) > 0 and len(after) > 0
            counts += 1, is_seen, is_seen and before[-1] == after[0]
    return counts


def sum_of(sums: Sequence[_Sums]) -> _Sums:
    """The entries added up, field by field.

    Raises:
        ValueError: no entry was given.
    """
    if not sums:
        raise ValueError("0 pairs were given, expected at least one video with an object or a candidate")
    kind = type(sums[0])
    return kind(*(sum(getattr(entry, field.name) for entry in sums) for field in fields(kind)))


# --------------------------------------------------------------------------------------------------------------- TETA
@dataclass(frozen=True, eq=False)
class TetaSums:
    """Additive parts of TETA for one class.

    Args:
        tp, fn, fp: (20,) masks matched, missed, and surplus near a true object, at IoU 0.00, 0.05, ... 0.95.
        accuracy, recall, precision: (20,) sums over the matched masks, as in `HotaSums`.
        class_tp, class_fn, class_fp: (10,) matched masks of the right class, of a wrong class, and candidates of this
            class that lie elsewhere or on another class; at IoU 0.50, 0.55, ... 0.95.
    """

    tp: np.ndarray
    fn: np.ndarray
    fp: np.ndarray
    accuracy: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    class_tp: np.ndarray
    class_fn: np.ndarray
    class_fp: np.ndarray


def teta_sums(
    overlap: MaskletOverlap, found_class: np.ndarray, true_class: np.ndarray, classes: Sequence[int]
) -> dict[int, TetaSums]:
    """Sums of one video, per class: candidates near an object are judged whatever class they claim.

    Frames without an object of any class are left out, as the evaluator does: going on too long costs nothing.

    Args:
        overlap: all D candidates and all G objects of the video.
        found_class: (D,) class of each candidate.
        true_class: (G,) class of each object.
        classes: those with an object in any video, in the order of the file.

    Returns:
        Class -> sums.
    """
    overlap = overlap.on_frames(np.flatnonzero((overlap.true_area > 0).any(axis=1)))
    taken, iou = _taken_by(overlap), overlap.frame_iou
    class_fp = {number: np.zeros(len(CLASS_THRESHOLDS)) for number in classes}
    sums: dict[int, TetaSums] = {}
    for number in classes:
        own = np.flatnonzero(true_class == number)
        elsewhere = (taken >= 0) & (true_class[taken] != number) if len(true_class) else taken >= 0
        near = (iou[:, :, own] >= _CLUSTER_IOU).any(axis=2) & ~elsewhere
        stray = float(((overlap.found_area > 0) & (found_class == number) & ~near).sum())
        group = np.flatnonzero(near.any(axis=0))
        sums[number], wrong = _class_sums(overlap.select(group, own), near[:, group], found_class[group], number)
        # Without any candidate near, this replaces what other classes have added: the evaluator's way.
        class_fp[number] = class_fp[number] + stray if len(group) else np.full(len(CLASS_THRESHOLDS), stray)
        for other in class_fp.keys() & wrong.keys():
            class_fp[other] = class_fp[other] + wrong[other]
    return {number: replace(entry, class_fp=class_fp[number]) for number, entry in sums.items()}


def _class_sums(
    overlap: MaskletOverlap, near: np.ndarray, found_class: np.ndarray, number: int
) -> tuple[TetaSums, dict[int, np.ndarray]]:
    """Sums of one class without its false claims, and the matches of other classes here, which are their false claims.

    Args:
        overlap: the objects of the class, and the D candidates that are near one of them on some frame.
        near: (T, D) on which frames they are.
        found_class: (D,) what they claim to be.
        number: the class.
    """
    matches = _match(overlap)
    tp, accuracy, recall, precision = matches.association(TETA_THRESHOLDS)
    is_near_hit = (matches.iou >= TETA_THRESHOLDS[:, None] - _EPS) & near[matches.frame, matches.found]
    is_hit, claimed = matches.iou >= CLASS_THRESHOLDS[:, None] - _EPS, found_class[matches.found]
    by_class = {int(one): (is_hit & (claimed == one)).sum(axis=1) for one in np.unique(claimed)}
    right = by_class.pop(number, np.zeros(len(CLASS_THRESHOLDS)))
    sums = TetaSums(
        tp=tp,
        fn=matches.num_true.sum() - tp,
        fp=near.sum() - is_near_hit.sum(axis=1),
        accuracy=accuracy,
        recall=recall,
        precision=precision,
        class_tp=right,
        class_fn=is_hit.sum(axis=1) - right,
        class_fp=np.zeros(len(CLASS_THRESHOLDS)),
    )
    return sums, by_class


def teta_values(sums: Sequence[dict[int, TetaSums]]) -> dict[str, float]:
    """TETA and its parts over any number of videos; every class counts alike.

    Args:
        sums: one entry per video, from `teta_sums`.

    Returns:
        teta, loc_a, assoc_a, cls_a, loc_re, loc_pr, assoc_re, assoc_pr, cls_re, cls_pr in per cent (not rounded; the
        evaluator prints five significant digits).
    """
    rows = []
    for number in sums[0]:
        total = sum_of([video[number] for video in sums])
        if not (total.tp + total.fn + total.fp).any():
            continue
        hits, found, all_tp = np.maximum(total.tp, 1), total.tp + total.fp, total.class_tp
        row = {
            "loc_a": total.tp / np.maximum(found + total.fn, 1),
            "assoc_a": total.accuracy / hits,
            "cls_a": all_tp / np.maximum(all_tp + total.class_fn + total.class_fp, 1),
            "loc_re": total.tp / np.maximum(total.tp + total.fn, 1),
            "loc_pr": total.tp / np.maximum(found, 1),
            "assoc_re": total.recall / hits,
            "assoc_pr": total.precision / hits,
            "cls_re": all_tp / np.maximum(all_tp + total.class_fn, 1),
            "cls_pr": all_tp / np.maximum(all_tp + total.class_fp, 1),
        }
        rows.append([100 * values.mean() for values in row.values()])
    names = ["loc_a", "assoc_a", "cls_a", "loc_re", "loc_pr", "assoc_re", "assoc_pr", "cls_re", "cls_pr"]
    means = np.mean(rows, axis=0) if rows else np.full(len(names), np.nan)
    return {"teta": float(means[:3].mean()), **dict(zip(names, means.tolist(), strict=True))}


def _taken_by(overlap: MaskletOverlap) -> np.ndarray:
    """(T, D) the object of any class that each candidate is assigned to on each frame, -1 for none."""
    taken = np.full(overlap.found_area.shape, -1)
    group = np.flatnonzero((overlap.frame_iou >= _CLUSTER_IOU).any(axis=(0, 2)))
    matches = _match(overlap.select(group, np.arange(overlap.true_area.shape[1])))
    is_hit = matches.iou >= _CLUSTER_IOU - _EPS
    taken[matches.frame[is_hit], group[matches.found[is_hit]]] = matches.true[is_hit]
    return taken
