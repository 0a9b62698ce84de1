"""SA-Co video metrics: cgF1 on masklets, HOTA per phrase (pHOTA), TETA, average precision, J&F, and how well identities
are kept.

A masklet is one object over time. A (video, phrase) pair plays the part that an (image, phrase) pair plays in
`pair_metrics`: its candidates and true objects are masklets, and their IoU is taken over all frames at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from workbench.formats.rle import mask_of
from workbench.mask_quality import mask_quality
from workbench.pair_metrics import PairCounts, aggregate, pair_counts, rle_iou
from workbench.ranking import average_precision
from workbench.video_association import HotaSums, MaskletOverlap, hota_sums, hota_values, sum_of, teta_sums, teta_values

_SCORE_THRESHOLD = 0.5
_IOU_TYPES: tuple[Literal["bbox", "mask"], ...] = ("bbox", "mask")
_LEVELS = {"50_95": slice(None), "50": slice(0, 1), "75": slice(5, 6)}


@dataclass(frozen=True, eq=False)
class _Video:
    """Candidates and true objects of one video, compared as boxes or as masks.

    Args:
        overlap: areas over the frames, D candidates and G objects.
        scores: (D,) scores of the candidates.
        found_class, true_class: (D,), (G,) category of each.
        found, true: the entries of the files, in the same order.
    """

    overlap: MaskletOverlap
    scores: np.ndarray
    found_class: np.ndarray
    true_class: np.ndarray
    found: list[Mapping[str, Any]]
    true: list[Mapping[str, Any]]

    def pair(self, category: int, is_kept: np.ndarray | None = None) -> MaskletOverlap:
        """Those of one category; `is_kept` (D,) leaves out candidates."""
        is_found = self.found_class == category
        return self.overlap.select(is_found if is_kept is None else is_found & is_kept, self.true_class == category)


@dataclass(frozen=True, eq=False)
class VideoPairStatistics:
    """What the mask metrics need of one (video, phrase) pair; a bootstrap weighs these instead of measuring again.

    Args:
        video_id, category_id: the pair.
        counts: masklets found, false and missed.
        hota: additive parts of HOTA.
        quality: (G, 2) J and F of each true masklet, 0 for one without masklet.
    """

    video_id: int
    category_id: int
    counts: PairCounts
    hota: HotaSums
    quality: np.ndarray


def saco_video_statistics(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> list[VideoPairStatistics]:
    """The additive parts of the mask metrics, pair by pair. Arguments and errors as `saco_video_metrics`."""
    videos = _videos(ground_truth, predictions, "mask")
    return [
        VideoPairStatistics(
            video_id=video_id,
            category_id=category,
            counts=_counts(videos[video_id], category),
            hota=_hota(videos[video_id], category),
            quality=_quality(videos[video_id], category),
        )
        for video_id, category in _pairs(ground_truth, videos)
    ]


def saco_video_metrics(ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """All video metrics of the SA-Co evaluator for file contents, and J&F, identity switches and returns besides.

    Args:
        ground_truth: `videos` (id, length), `annotations` (one per true masklet: video_id, category_id, segmentations
            and bboxes with one entry or null per frame), `categories`, and `video_np_pairs`, which also names the
            phrases that are absent. True masklets with `iscrowd` are left out.
        predictions: one entry per masklet: video_id, category_id, score, segmentations (compressed RLE, null where
            absent), and bboxes (xywh in pixels, zeros where absent; derived from the masks when not given).
            Categories that the ground truth does not have are left out.

    Returns:
        Name -> value. `video_{bbox|mask}_...`: fractions, except `video_mask_teta` to `..._cls_pr` (per cent) and the
        numbers `..._id_switches`, `..._id_returns` (times that an object came back after eight frames or more),
        `..._id_returns_seen` (with a masklet before and after) and `..._id_returns_kept` (with the same one).
        `..._demo_ilmcc_50` and `_75` are NaN where F1 is 0, and the `demo` values for cgF1 and MCC are NaN without
        `video_np_pairs`: both as in the evaluator. J&F is the mean over all true masklets and the frames on which
        either side is there, 0 for an object without masklet. Without any prediction all values but `..._id_returns`
        are 0.

    Raises:
        ValueError: no object and no pair, a masklet of an unknown video, one without masks, or one with another
            number of frames than its video.
    """
    values: dict[str, float] = {}
    for iou_type in _IOU_TYPES:
        videos = _videos(ground_truth, predictions, iou_type)
        pairs = _pairs(ground_truth, videos)
        values |= _demo_values(videos, pairs, iou_type, has_absent="video_np_pairs" in ground_truth)
        values |= _association_values(videos, pairs, iou_type)
        values |= _precision_values(videos, pairs, iou_type)
        if iou_type == "mask":
            values |= _teta(ground_truth, videos) | _segmentation_values(videos, pairs)
    if predictions:
        return values
    return {name: value if name.endswith("_id_returns") else 0.0 for name, value in values.items()}


def saco_video_pair_metrics(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """The same for every (video, phrase) pair by itself: counts, F1, and HOTA where there is an object or a masklet.

    Returns:
        One row per pair with `video_id`, `category_id`, `{bbox|mask}_{TP|FP|FN|F1}_{50_95|50|75}` (F1 is 1 where
        nothing is true and nothing is found) and `{bbox|mask}_{HOTA|DetA|...}`. Arguments and errors as
        `saco_video_metrics`.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for iou_type in _IOU_TYPES:
        videos = _videos(ground_truth, predictions, iou_type)
        for video_id, category in _pairs(ground_truth, videos):
            video = videos[video_id]
            row = rows.setdefault((video_id, category), {"video_id": video_id, "category_id": category})
            if (video.found_class == category).any() or (video.true_class == category).any():
                sums = hota_values([_hota(video, category)])
                row |= {f"{iou_type}_{name}": value for name, value in sums.items()}
            row |= {f"{iou_type}_{name}": value for name, value in _count_values(_counts(video, category)).items()}
    return list(rows.values())


# ------------------------------------------------------------------------------------------------------------- groups
def _counts(video: _Video, category: int) -> PairCounts:
    return pair_counts(video.pair(category, video.scores >= _SCORE_THRESHOLD).masklet_iou)


def _hota(video: _Video, category: int) -> HotaSums:
    """A score of exactly 0.5 counts here as too low."""
    return hota_sums(video.pair(category, video.scores > _SCORE_THRESHOLD))


def _count_values(counts: PairCounts) -> dict[str, float]:
    all_three = 2 * counts.tp + counts.fp + counts.fn
    f1 = np.divide(2 * counts.tp, all_three, out=np.ones(len(counts.tp)), where=all_three > 0)
    columns = {"TP": counts.tp, "FP": counts.fp, "FN": counts.fn, "F1": f1}
    return {f"{name}_{level}": float(c[at].mean()) for level, at in _LEVELS.items() for name, c in columns.items()}


def _demo_values(
    videos: Mapping[int, _Video], pairs: list[tuple[int, int]], iou_type: str, *, has_absent: bool
) -> dict[str, float]:
    """cgF1, MCC and F1; the MCC at one threshold is their quotient, as the evaluator reports it."""
    rates = aggregate([_counts(videos[video_id], category) for video_id, category in pairs])
    values: dict[str, float] = {}
    for level, ending in (("50_95", ""), ("50", "@0.5"), ("75", "@0.75")):
        cgf1, f1 = rates[f"cgF1{ending}"], rates[f"positive_micro_F1{ending}"]
        mcc = rates["IL_MCC"] if not ending else cgf1 / f1 if f1 else np.nan
        if not has_absent:
            cgf1 = mcc = np.nan
        parts = {"cgf1_micro": cgf1, "ilmcc": mcc, "positive_micro_f1": f1}
        values |= {f"video_{iou_type}_demo_{name}_{level}": float(value) for name, value in parts.items()}
    return values


def _association_values(videos: Mapping[int, _Video], pairs: list[tuple[int, int]], iou_type: str) -> dict[str, float]:
    """HOTA with every pair as a sequence of its own."""
    sums = [_hota(videos[video_id], category) for video_id, category in pairs]
    values = {f"video_{iou_type}_all_phrase_{name}": value for name, value in hota_values(sums).items()}
    total = sum_of(sums)
    returns, seen, kept = total.returns.tolist()
    values |= {f"video_{iou_type}_id_switches": float(total.switches[0]), f"video_{iou_type}_id_returns": returns}
    return values | {f"video_{iou_type}_id_returns_seen": seen, f"video_{iou_type}_id_returns_kept": kept}


def _precision_values(videos: Mapping[int, _Video], pairs: list[tuple[int, int]], iou_type: str) -> dict[str, float]:
    """AP with every pair as an image: once with the phrase as its class, once with a single class for all."""
    scores = [videos[video_id].scores[videos[video_id].found_class == category] for video_id, category in pairs]
    ious = [videos[video_id].pair(category).masklet_iou for video_id, category in pairs]
    per_class = average_precision([str(category) for _, category in pairs], scores, ious)
    single = average_precision(["masklet"] * len(pairs), scores, ious)
    return {
        f"video_{iou_type}_mAP_50_95": per_class["AP"],
        f"video_{iou_type}_phrase_ap_50_95": single["AP"],
        f"video_{iou_type}_phrase_ap_50": single["AP50"],
        f"video_{iou_type}_phrase_ap_75": single["AP75"],
    }


def _teta(ground_truth: Mapping[str, Any], videos: Mapping[int, _Video]) -> dict[str, float]:
    labelled = {int(category) for video in videos.values() for category in video.true_class}
    classes = [category["id"] for category in ground_truth["categories"] if category["id"] in labelled]
    sums = []
    for video in videos.values():
        is_kept = video.scores >= _SCORE_THRESHOLD
        overlap = video.overlap.select(is_kept, np.arange(len(video.true)))
        sums.append(teta_sums(overlap, video.found_class[is_kept], video.true_class, classes))
    return {f"video_mask_{name}": value for name, value in teta_values(sums).items()}


def _segmentation_values(videos: Mapping[int, _Video], pairs: list[tuple[int, int]]) -> dict[str, float]:
    """J, F and J&F of each true masklet with the one assigned to it by `pair_counts`."""
    rows = np.concatenate([_quality(videos[video_id], category) for video_id, category in pairs])
    region, boundary = rows.mean(axis=0) if len(rows) else (np.nan, np.nan)
    names = ("J", "F", "JF")
    values = region, boundary, (region + boundary) / 2
    return {f"video_mask_{name}": float(value) for name, value in zip(names, values, strict=True)}


def _quality(video: _Video, category: int) -> np.ndarray:
    """(G, 2) J and F of the true masklets of a pair, 0 for one without masklet."""
    found = np.flatnonzero((video.found_class == category) & (video.scores >= _SCORE_THRESHOLD))
    true = np.flatnonzero(video.true_class == category)
    iou = video.overlap.select(found, true).masklet_iou
    rows = np.zeros((len(true), 2))
    for d, g in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[d, g] > 0:
            rows[g] = _masklet_quality(video.found[found[d]], video.true[true[g]])
    return rows


def _masklet_quality(found: Mapping[str, Any], true: Mapping[str, Any]) -> tuple[float, float]:
    """Mean J and mean F over the frames on which either of the two is there."""
    rows = []
    for rle, true_rle in zip(found["segmentations"], true["segmentations"], strict=True):
        if rle is None and true_rle is None:
            continue
        size = (rle or true_rle)["size"]
        mask, truth = (np.zeros(size, dtype=bool) if one is None else mask_of(one) for one in (rle, true_rle))
        if mask.any() or truth.any():
            quality = mask_quality(mask, truth)
            rows.append((quality.region, quality.boundary))
    region, boundary = np.mean(rows, axis=0)
    return float(region), float(boundary)


# ------------------------------------------------------------------------------------------------------------ reading
def _pairs(ground_truth: Mapping[str, Any], videos: Mapping[int, _Video]) -> list[tuple[int, int]]:
    """All (video, category) pairs: those that the file names, then those seen on a masklet."""
    named = [(pair["video_id"], pair["category_id"]) for pair in ground_truth.get("video_np_pairs", [])]
    seen = [
        (video_id, int(category))
        for video_id, video in videos.items()
        for category in (*video.true_class, *video.found_class)
    ]
    pairs = list(dict.fromkeys(named + seen))
    if not pairs:
        raise ValueError("0 (video, phrase) pairs were found; expected annotations or video_np_pairs in the file")
    return pairs


def _videos(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], iou_type: Literal["bbox", "mask"]
) -> dict[int, _Video]:
    """Video id -> its masklets, checked and compared."""
    categories = {category["id"] for category in ground_truth["categories"]}
    lengths = {video["id"]: video["length"] for video in ground_truth["videos"]}
    true = _by_video((a for a in ground_truth["annotations"] if not a.get("iscrowd")), lengths, "annotation")
    found = _by_video((p for p in predictions if p["category_id"] in categories), lengths, "prediction")
    compare = _box_overlap if iou_type == "bbox" else mask_overlap
    return {
        video_id: _Video(
            overlap=compare(found[video_id], true[video_id], length),
            scores=np.array([entry["score"] for entry in found[video_id]], dtype=np.float64),
            found_class=np.array([entry["category_id"] for entry in found[video_id]], dtype=np.int64),
            true_class=np.array([entry["category_id"] for entry in true[video_id]], dtype=np.int64),
            found=found[video_id],
            true=true[video_id],
        )
        for video_id, length in lengths.items()
    }


def _by_video(
    entries: Iterable[Mapping[str, Any]], lengths: Mapping[int, int], kind: str
) -> dict[int, list[Mapping[str, Any]]]:
    grouped: dict[int, list[Mapping[str, Any]]] = {video_id: [] for video_id in lengths}
    for entry in entries:
        video_id, masks = entry["video_id"], entry.get("segmentations")
        if video_id not in lengths:
            raise ValueError(
                f"the {kind} names video_id {video_id}, expected one of {sorted(lengths)[:10]}; check that it belongs "
                "to this ground truth"
            )
        if masks is None or len(masks) != lengths[video_id]:
            raise ValueError(
                f"the {kind} for video {video_id} has {'no' if masks is None else len(masks)} segmentations, expected "
                f"{lengths[video_id]}, one or null per frame"
            )
        grouped[video_id].append(entry)
    return grouped


def mask_overlap(found: Sequence[Mapping[str, Any]], true: Sequence[Mapping[str, Any]], length: int) -> MaskletOverlap:
    """Areas of masklets whose `segmentations` hold a compressed RLE, or null, for each of `length` frames."""
    found_area, true_area = _mask_areas(found, length), _mask_areas(true, length)
    shared = np.zeros((length, len(found), len(true)))
    for frame in range(length):
        rows, columns = (np.flatnonzero(area[frame]).tolist() for area in (found_area, true_area))
        rles = [found[row]["segmentations"][frame] for row in rows]
        true_rles = [true[column]["segmentations"][frame] for column in columns]
        share = rle_iou(rles, true_rles, is_crowd=True)  # of the candidate
        shared[frame][np.ix_(rows, columns)] = np.rint(share * found_area[frame, rows, None])
    return MaskletOverlap(shared, found_area, true_area)


def _mask_areas(entries: Sequence[Mapping[str, Any]], length: int) -> np.ndarray:
    """(T, N) pixels of each mask, 0 where it is null."""
    from faster_coco_eval.core import mask as coco_mask

    areas = np.zeros((length, len(entries)))
    for number, entry in enumerate(entries):
        there = [frame for frame, rle in enumerate(entry["segmentations"]) if rle is not None]
        if there:
            areas[there, number] = coco_mask.area([dict(entry["segmentations"][frame]) for frame in there])
    return areas


def _box_overlap(found: list[Mapping[str, Any]], true: list[Mapping[str, Any]], length: int) -> MaskletOverlap:
    found_boxes, true_boxes = _boxes(found, length)[:, :, None], _boxes(true, length)[:, None]
    ends = np.minimum(found_boxes[..., :2] + found_boxes[..., 2:], true_boxes[..., :2] + true_boxes[..., 2:])
    sides = np.maximum(ends - np.maximum(found_boxes[..., :2], true_boxes[..., :2]), 0.0)
    areas = [boxes[..., 2:].prod(axis=-1) for boxes in (found_boxes[:, :, 0], true_boxes[:, 0])]
    return MaskletOverlap(sides.prod(axis=-1), *areas)


def _boxes(entries: list[Mapping[str, Any]], length: int) -> np.ndarray:
    """(T, N, 4) left, top, width, height in pixels; zeros where absent."""
    from faster_coco_eval.core import mask as coco_mask

    boxes = np.zeros((length, len(entries), 4))
    for number, entry in enumerate(entries):
        for frame, rle in enumerate(entry["segmentations"]):
            if entry.get("bboxes") is not None:
                box = entry["bboxes"][frame]
            else:
                box = None if rle is None else coco_mask.toBbox(dict(rle))
            if box is not None:
                boxes[frame, number] = box
    return boxes
