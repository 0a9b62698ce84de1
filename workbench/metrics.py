"""The SA-Co metrics of the files they are defined on. JSON content comes in, labels of one or several annotators and
predictions; counts per pair and the 26 values of the image evaluator go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from workbench.pair_metrics import PairCounts, aggregate, box_iou, pair_counts, rle_iou


def saco_pair_counts(
    ground_truths: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    iou_type: Literal["segm", "bbox"] = "segm",
    score_threshold: float = 0.5,
    *,
    crowds: Literal["dropped", "ignored"] = "dropped",
) -> dict[int, PairCounts]:
    """Counts of every evaluated pair of a SA-Co image file; with several annotators, against the one that agrees best.

    Args:
        ground_truths: one file content per annotator; an entry of `images` is an (image, phrase) pair.
        predictions: `image_id`, `category_id`, `score` and `segmentation` (compressed RLE) or `bbox` (xywh, fractions).
        iou_type: "segm" compares masks, "bbox" compares the box fields.
        score_threshold: candidates with at least this score count.
        crowds: "dropped" as the SA-Co evaluator does, so that a candidate on a crowd region is false; "ignored" as
            COCO does, so that it counts neither way.

    Returns:
        Pair id -> counts, for the pairs that no annotator marks as not exhaustive.

    Raises:
        ValueError: no annotator, unknown `iou_type`, no evaluated pair, or an entry without the field that is compared.
    """
    field = {"segm": "segmentation", "bbox": "bbox"}.get(iou_type)
    if field is None or not ground_truths:
        received = f"iou_type {iou_type!r} and {len(ground_truths)} annotators"
        raise ValueError(f"got {received}; expected 'segm' or 'bbox' and at least one annotator")
    ids = _evaluated_ids(ground_truths)
    categories = {category["id"] for category in ground_truths[0]["categories"]}
    kept = [p for p in predictions if p["score"] >= score_threshold and p["category_id"] in categories]
    candidates = _by_pair(kept, field, "prediction")
    best: dict[int, PairCounts] = {}
    for truth in ground_truths:
        objects, regions = (
            _by_pair([a for a in truth["annotations"] if bool(a.get("iscrowd", 0)) == is_crowd], field, "annotation")
            for is_crowd in (False, True)
        )
        known = {image["id"] for image in truth["images"]}
        for pair_id in (pair_id for pair_id in ids if pair_id in known):
            found, region = candidates.get(pair_id, []), regions.get(pair_id, [])
            on_crowds = _overlaps(found, region, iou_type, is_crowd=True) if crowds == "ignored" else None
            counts = pair_counts(_overlaps(found, objects.get(pair_id, []), iou_type), on_crowds)
            if pair_id not in best or _agrees_more(counts, best[pair_id]):
                best[pair_id] = counts
    return best


def saco_image_metrics(
    ground_truths: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    iou_type: Literal["segm", "bbox"] = "segm",
    score_threshold: float = 0.5,
) -> dict[str, float]:
    """The 26 values of the SA-Co image evaluator for file contents; arguments and errors as `saco_pair_counts`.

    Returns:
        Name -> fraction (multiply by 100 for the paper's style).
    """
    return aggregate(list(saco_pair_counts(ground_truths, predictions, iou_type, score_threshold).values()))


def saco_crowd_metrics(
    ground_truths: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    iou_type: Literal["segm", "bbox"] = "segm",
    score_threshold: float = 0.5,
) -> dict[str, float]:
    """The same 26 values with crowd regions treated as COCO does; they are no SA-Co numbers and carry other names.

    A candidate on a crowd region is ignored unless it hits an object, and a pair whose only label is a crowd region
    takes no part in the image-level values. Without crowds the values are those of `saco_image_metrics`.

    Returns:
        Name with the ending `_crowds_ignored` -> fraction.
    """
    counts = saco_pair_counts(ground_truths, predictions, iou_type, score_threshold, crowds="ignored")
    return {f"{name}_crowds_ignored": value for name, value in aggregate(list(counts.values())).items()}


def _evaluated_ids(ground_truths: Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of the pairs of the first annotator that nobody marks as not exhaustive."""
    entries = [image for truth in ground_truths for image in truth["images"]]
    excluded = {image["id"] for image in entries if not image.get("is_instance_exhaustive", 1)}
    ids = [image["id"] for image in ground_truths[0]["images"] if image["id"] not in excluded]
    if not ids:
        raise ValueError(
            f"{len(excluded)} pairs were given and none is marked is_instance_exhaustive by every annotator; expected "
            "at least one, because only exhaustively labelled pairs can be scored"
        )
    return ids


def _overlaps(found: list[Any], true: list[Any], iou_type: str, *, is_crowd: bool = False) -> np.ndarray:
    if iou_type == "segm":
        return rle_iou(found, true, is_crowd=is_crowd)
    return box_iou(np.array(found), np.array(true), is_crowd=is_crowd)


def _by_pair(entries: Sequence[Mapping[str, Any]], field: str, kind: str) -> dict[int, list[Any]]:
    grouped: dict[int, list[Any]] = {}
    for entry in entries:
        if entry.get(field) is None:
            raise ValueError(
                f"the {kind} for image_id {entry['image_id']} has the fields {sorted(entry)}, expected {field!r} among "
                "them; add it or compare with the other iou_type"
            )
        grouped.setdefault(entry["image_id"], []).append(entry[field])
    return grouped


def _agrees_more(counts: PairCounts, best: PairCounts) -> bool:
    if counts.is_silent_and_absent or best.is_silent_and_absent:
        return not best.is_silent_and_absent
    return bool(counts.local_f1.mean() > best.local_f1.mean())
