"""Label files in and out: COCO JSON with polygons, run lengths or boxes becomes an ExampleSet, and back without loss.
Masks travel as COCO run lengths (RLE), encoded and decoded here and nowhere else."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faster_coco_eval.core.mask as coco_rle
import numpy as np
from PIL import Image

from sam3.files import write_text
from sam3.pictures import shown_size
from workbench.examples import Concept, Example, ExampleSet, phrase_key

LARGE_SET_GIB = 4.0  # masks are held in memory as one byte per pixel and object


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """The mask as COCO compressed run lengths, ready for JSON.

    Args:
        mask: (H,W) bool.

    Returns:
        {"size": [H, W], "counts": text}.

    Example:
        >>> rle_of(np.eye(3, dtype=bool))
        {'size': [3, 3], 'counts': '013000'}
    """
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; expected (H,W). Encode one mask at a time.")
    rle = coco_rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_of(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask of COCO run lengths, compressed (text) or not (list of numbers).

    Returns:
        (H,W) bool.

    Raises:
        ValueError: no run lengths, or a number of pixels that does not fit their size.

    Example:
        >>> mask_of({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
        [[False, True], [True, False]]
    """
    try:
        size, counts = [int(side) for side in rle["size"]], rle["counts"]
        if isinstance(counts, list | tuple):
            compressed = coco_rle.frPyObjects({"size": size, "counts": list(counts)}, *size)
        else:
            compressed = {"size": size, "counts": counts}
        return coco_rle.decode(compressed).astype(bool)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"run lengths cannot be decoded ({error}); expected size [height, width] and counts that add up to it. "
            "Export the masks anew."
        ) from error


def coco_to_examples(
    annotations: str | Path,
    images: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    name: str | None = None,
) -> ExampleSet:
    """Reads a COCO annotation file.

    Args:
        annotations: JSON with `images`, `categories`, `annotations`. Segmentations may be polygons or run lengths; an
            object without one is a box. Where masks are given, boxes are taken from the masks.
        images: folder of the pictures (`file_name` is relative to it).
        phrases: category name -> phrase to search for (None drops the category); names not listed are kept as they are.
        exhaustive: whether every category was looked for in every picture, so that no annotation means absent. Files
            that list `neg_category_ids` per picture (LVIS) say it themselves; their lists count instead.
        name: of the set; the file's stem when left out.

    Returns:
        The pictures in file order; `image_id` is the file name. A phrase whose only objects in a picture are crowds
        or smaller than one pixel is "unknown" there, and so is one listed in `not_exhaustive_category_ids`.

    Raises:
        ValueError: anything that does not fit together; names the file and the entry.
    """
    source = Path(annotations)
    content = _load_json(source)
    names = _phrases_of_categories(source, content, phrases)
    reader = _Reader(source, Path(images), names, exhaustive)
    for number, entry in enumerate(content["images"]):
        reader.add_image(f"{source}: images[{number}]", entry)
    for number, entry in enumerate(content["annotations"]):
        reader.add_annotation(f"{source}: annotations[{number}]", entry)
    return reader.finish(name or source.stem)


def _load_json(source: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{source} cannot be read ({error.strerror}); expected a COCO JSON file.") from error
    except ValueError as error:
        raise ValueError(f"{source} is no valid JSON ({error}); expected a COCO file. Export it anew.") from error
    for key in ("images", "categories", "annotations"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{source}: no list of objects under {key!r}; expected a COCO file with images, categories and "
                "annotations. Choose 'COCO' (instances) as the export format."
            )
    if not content["images"]:
        raise ValueError(f"{source}: the list of images is empty; expected at least one picture.")
    return content


def _field(where: str, entry: Mapping[str, Any], key: str, check: Callable[[Any], bool], expected: str) -> Any:
    if key not in entry:
        raise ValueError(f"{where} has no {key!r}; expected {expected}. Its keys: {', '.join(map(str, entry))}.")
    if not check(entry[key]):
        raise ValueError(f"{where}: {key} is {entry[key]!r}; expected {expected}. Correct the entry.")
    return entry[key]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return _is_number(value) and value >= 1 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _phrases_of_categories(
    source: Path, content: dict[str, list[dict[str, Any]]], phrases: Mapping[str, str | None] | None
) -> dict[Any, str | None]:
    """Category id -> phrase; None for categories to leave out."""
    phrases = dict(phrases or {})
    used = [entry.get("category_id") for entry in content["annotations"]]
    groups = [entry.get("supercategory") for entry in content["categories"]]
    spelling: dict[str, str] = {}
    names: dict[Any, str | None] = {}
    seen: set[str] = set()
    for number, entry in enumerate(content["categories"]):
        where = f"{source}: categories[{number}]"
        category = _field(where, entry, "id", _is_id, "a number")
        label = _field(where, entry, "name", _is_text, "a non-empty text")
        if category in names:
            raise ValueError(f"{where}: id {category!r} occurs twice; expected one entry per category.")
        seen.add(label)
        phrase = phrases.get(label, label)
        names[category] = None if phrase is None else spelling.setdefault(phrase_key(phrase), phrase)
        is_group = label in groups and entry.get("supercategory") != label
        if category == 0 and is_group and category not in used and label not in phrases:
            names[category] = None
            warnings.warn(
                f"{where}: category 0 ({label!r}) has no annotation and only names the group of the others. "
                f"Left out; pass phrases={{{label!r}: {label!r}}} to ask for it all the same.",
                stacklevel=4,
            )
        elif names[category] is not None and not re.search(r"[^\W\d_]{2}", str(names[category])):
            warnings.warn(
                f"{where}: the name {names[category]!r} says nothing to the model. Pass phrases={{{label!r}: '...'}} "
                "with the words a person would use.",
                stacklevel=4,
            )
    if not set(phrases) <= seen:
        raise ValueError(
            f"{source}: phrases names {sorted(set(phrases) - seen)}, which are no categories of the file; expected "
            f"some of {sorted(seen)}."
        )
    if not any(names.values()):
        raise ValueError(f"{source}: no category is left; expected at least one with a phrase.")
    return names


@dataclass
class _Found:
    """What the file says about one phrase in one picture."""

    masks: list[np.ndarray] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    unusable: int = 0  # crowds, objects below one pixel
    where: str = ""


@dataclass
class _Reader:
    """Collects entries of one file; `finish` turns them into an ExampleSet."""

    source: Path
    folder: Path
    names: dict[Any, str | None]
    exhaustive: bool
    images: dict[Any, tuple[str, str, Path, int, int, Mapping[str, Any]]] = field(default_factory=dict)
    found: dict[tuple[Any, str], _Found] = field(default_factory=lambda: defaultdict(_Found))
    clipped: list[str] = field(default_factory=list)
    mask_bytes: int = 0

    def add_image(self, where: str, entry: Mapping[str, Any]) -> None:
        image = _field(where, entry, "id", _is_id, "a number")
        file_name = _field(where, entry, "file_name", _is_text, "the picture's file name")
        if image in self.images:
            raise ValueError(f"{where}: id {image!r} occurs twice; expected one entry per picture.")
        path = self.folder / file_name
        try:
            width, height = shown_size(path)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if "width" in entry or "height" in entry:
            width, height = (_field(where, entry, side, _is_length, "pixels") for side in ("width", "height"))
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            unknown = [category for category in entry.get(key) or () if category not in self.names]
            if unknown:
                raise ValueError(f"{where}: {key} names category {unknown[0]!r}, which the file does not define.")
        image_id = str(entry.get("image_id", file_name))
        self.images[image] = (where, image_id, path, int(width), int(height), entry)

    def add_annotation(self, where: str, entry: Mapping[str, Any]) -> None:
        known = "the id of one of the file's"
        image = _field(where, entry, "image_id", lambda key: _is_id(key) and key in self.images, f"{known} images")
        category = _field(
            where, entry, "category_id", lambda key: _is_id(key) and key in self.names, f"{known} categories"
        )
        phrase = self.names[category]
        if phrase is None:
            return
        _, _, _, width, height, _ = self.images[image]
        found = self.found[image, phrase]
        found.where = found.where or where
        if entry.get("iscrowd", 0):
            found.unusable += 1
            return
        if entry.get("segmentation"):
            mask = _mask_of_segmentation(where, entry["segmentation"], width, height)
            if mask.any():
                found.masks.append(mask)
                self.mask_bytes += mask.size
            else:
                found.unusable += 1
            return
        box, is_clipped = _box_of(where, entry, width, height)
        if is_clipped:
            self.clipped.append(where)
        if (box[2] - box[0]) * (box[3] - box[1]) < 1:
            found.unusable += 1
        else:
            found.boxes.append(box)

    def finish(self, name: str) -> ExampleSet:
        own_lists = any("neg_category_ids" in entry for *_, entry in self.images.values())
        mixed: list[str] = []
        examples = []
        for image, (where, image_id, path, width, height, entry) in self.images.items():
            concepts = [
                concept
                for phrase in dict.fromkeys(filter(None, self.names.values()))
                if (concept := self._concept(image, phrase, entry, own_lists, mixed)) is not None
            ]
            try:
                examples.append(Example(image_id, path, width, height, tuple(concepts)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        self._warn(mixed)
        return ExampleSet(name, tuple(examples), exhaustive=self.exhaustive and not own_lists)

    def _concept(
        self, image: Any, phrase: str, entry: Mapping[str, Any], own_lists: bool, mixed: list[str]
    ) -> Concept | None:
        categories = {category for category, own in self.names.items() if own == phrase}
        found = self.found.get((image, phrase), _Found())
        absent = entry.get("neg_category_ids") or ()
        if categories & set(entry.get("not_exhaustive_category_ids") or ()):
            return Concept(phrase, "unknown")
        if (found.masks or found.boxes) and categories & set(absent):
            raise ValueError(
                f"{found.where}: {phrase!r} is labelled although neg_category_ids of its picture says it is absent; "
                "expected one or the other. Remove the annotation or the entry in neg_category_ids."
            )
        if found.masks and not found.boxes:
            return Concept(phrase, masks=np.stack(found.masks))
        if found.boxes:
            boxes = np.array(found.boxes, np.float32)
            if found.masks:
                mixed.append(found.where)
                boxes = np.concatenate([boxes, Concept(phrase, masks=np.stack(found.masks)).boxes_xyxy_px])
            return Concept(phrase, boxes_xyxy_px=boxes)
        if found.unusable:
            return Concept(phrase, "unknown")
        is_absent = categories <= set(absent) if own_lists else self.exhaustive
        return Concept(phrase, "absent") if is_absent else None

    def _warn(self, mixed: list[str]) -> None:
        if self.clipped:
            warnings.warn(
                f"{len(self.clipped)} boxes left their picture and were clipped, first {self.clipped[0]}.", stacklevel=4
            )
        if mixed:
            warnings.warn(
                f"in {len(mixed)} cases some objects of a phrase have a mask and others a box only, first {mixed[0]}. "
                "There only the boxes are used. Outline all objects to learn masks from these pictures.",
                stacklevel=4,
            )
        if self.mask_bytes > LARGE_SET_GIB * 2**30:
            warnings.warn(
                f"{self.source}: the masks take {self.mask_bytes / 2**30:.0f} GiB of memory. Take fewer pictures or "
                "make them smaller, together with their labels.",
                stacklevel=4,
            )


def _mask_of_segmentation(where: str, segmentation: Any, width: int, height: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        try:
            mask = mask_of(segmentation)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if mask.shape != (height, width):
            raise ValueError(
                f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]}, its picture {width}x{height} (width x height); "
                "expected the same size. Check that the annotation belongs to this picture."
            )
        return mask
    low, high = -max(width, height), 2 * max(width, height)
    parts: list[Any] = segmentation if isinstance(segmentation, list) else [segmentation]
    for part in parts:
        is_polygon = isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
        if not is_polygon or not all(_is_number(value) and low <= value <= high for value in part):
            raise ValueError(
                f"{where}: a polygon of segmentation is {str(part)[:80]}; expected three or more points x, y in pixels "
                f"of the {width}x{height} picture, as [[x1, y1, x2, y2, x3, y3, ...], ...]. Correct or remove it."
            )
    return coco_rle.decode(coco_rle.merge(coco_rle.frPyObjects(segmentation, height, width))).astype(bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _box_of(where: str, entry: Mapping[str, Any], width: int, height: int) -> tuple[list[float], bool]:
    """The box as x0, y0, x1, y1 inside the picture, and whether more than rounding was cut off."""
    x, y, w, h = _field(
        where,
        entry,
        "bbox",
        lambda box: isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)),
        "[x, y, width, height] in pixels (or a segmentation)",
    )
    if w < 0 or h < 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(
            f"{where}: bbox {[x, y, w, h]} is not inside the {width}x{height} picture; expected [x, y, width, height] "
            "in pixels. Check the unit, and that the annotation belongs to this picture."
        )
    box = [max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)]
    return box, min(x, y, width - x - w, height - y - h) < -1


def examples_to_coco(examples: ExampleSet, path: str | Path, *, images: str | Path | None = None) -> Path:
    """Writes the set as a COCO file that `coco_to_examples` reads back with the same masks, boxes and statuses.

    Absent and unknown phrases are kept per picture under `neg_category_ids` and `not_exhaustive_category_ids` (LVIS).

    Args:
        examples: the set.
        path: of the JSON file to write.
        images: folder to write the pictures to (arrays as PNG, files copied); None writes the JSON only.

    Returns:
        The path of the JSON file.
    """
    ids = {phrase: number for number, phrase in enumerate(examples.phrases, start=1)}
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": phrase} for phrase, number in ids.items()]
    for number, example in enumerate(examples, start=1):
        file_name = _file_name(example, number)
        if images is not None:
            _save_picture(example, Path(images) / file_name)
        statuses: dict[str, list[int]] = {"positive": [], "absent": [], "unknown": []}
        for concept in example.concepts:
            statuses[concept.status].append(ids[concept.phrase])
            content["annotations"] += _annotations_of(concept, number, ids[concept.phrase])
        content["images"].append(
            {
                "id": number,
                "image_id": example.image_id,
                "file_name": file_name,
                "width": example.width,
                "height": example.height,
                "neg_category_ids": statuses["absent"],
                "not_exhaustive_category_ids": statuses["unknown"],
            }
        )
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    write_text(path, json.dumps(content))
    return Path(path)


def _file_name(example: Example, number: int) -> str:
    plain = re.sub(r"[^\w.-]+", "_", Path(example.image_id).stem)
    suffix = example.image.suffix if isinstance(example.image, Path) else ".png"
    return f"{number:05d}_{plain}{suffix}"


def _save_picture(example: Example, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(example.image, Path):
        shutil.copyfile(example.image, target)
    else:
        Image.fromarray(example.image).save(target)


def _annotations_of(concept: Concept, image: int, category: int) -> list[dict[str, Any]]:
    annotations = []
    for number, (x0, y0, x1, y1) in enumerate(concept.boxes_xyxy_px.tolist()):
        segmentation: Any = rle_of(concept.masks[number]) if concept.has_masks else []
        area = int(concept.masks[number].sum()) if concept.has_masks else (x1 - x0) * (y1 - y0)
        annotations.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "segmentation": segmentation,
                "iscrowd": 0,
            }
        )
    return annotations
