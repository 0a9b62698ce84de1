"""COCO JSON in and out: polygons, run lengths or boxes become an ExampleSet, and back without loss. This is also the
workbench's own form: `labels.json` (or one file per split) beside a folder `images`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3.files import write_text
from sam3.pictures import shown_size
from workbench.examples import Concept, Example, ExampleSet
from workbench.formats.coco_layout import coco_files, picture_folder
from workbench.formats.outlines import is_number, mask_of_polygons
from workbench.formats.reading import (
    Finding,
    PhraseTable,
    PictureLabels,
    Reading,
    large_set_finding,
    path_inside,
    says_nothing,
)
from workbench.formats.rle import fitting_mask_of, rle_of
from workbench.formats.writing import picture_name, save_picture

Entry = Mapping[str, Any]
Content = dict[str, list[dict[str, Any]]]


def coco_to_examples(
    annotations: str | Path,
    images: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    name: str | None = None,
) -> ExampleSet:
    """Reads a COCO annotation file, strictly: what `read_coco` would leave out as outside the picture is an error here.

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
    examples, findings = _read_file(source, _load_json(source), Path(images), phrases, exhaustive, None, name)
    outside = next((finding for finding in findings if finding.kind == "box outside"), None)
    if outside:
        raise ValueError(f"{outside} Check the unit, and that the annotation belongs to this picture.")
    _warn(examples, findings)
    return examples


def read_coco(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    limit: int | None = None,
) -> Reading:
    """Reads COCO files: one file, or a folder with one file per split as Roboflow, COCO and `workbench import` lay it.

    Args:
        source: a JSON file; or a folder with JSON files, or with a folder per split that holds one.
        images: folder of the pictures; looked for beside each file when left out.
        phrases, exhaustive: as in `coco_to_examples`.
        limit: take the first pictures of each file only.

    Returns:
        One set per file, named after the split. Objects outside their picture are left out and named in the findings.

    Raises:
        ValueError: anything else that does not fit together; names the file and the entry.
    """
    sets, findings = [], []
    for split, file in coco_files(Path(source)):
        content = _load_json(file)
        folder = Path(images) if images is not None else picture_folder(file, content)
        examples, found = _read_file(file, content, folder, phrases, exhaustive, limit, split)
        sets.append(examples)
        findings += found
    return Reading("coco", tuple(sets), tuple(findings))


def _read_file(
    source: Path,
    content: Content,
    folder: Path,
    phrases: Mapping[str, str | None] | None,
    exhaustive: bool,
    limit: int | None,
    name: str | None,
) -> tuple[ExampleSet, list[Finding]]:
    findings: list[Finding] = []
    table = _phrases_of_categories(source, content, phrases, findings)
    own_lists = any("neg_category_ids" in entry for entry in content["images"])
    reader = _Reader(folder, table, exhaustive and not own_lists, findings)
    for number, entry in enumerate(content["images"]):
        reader.add_image(f"{source}: images[{number}]", entry, is_wanted=limit is None or number < limit)
    for number, entry in enumerate(content["annotations"]):
        reader.add_annotation(f"{source}: annotations[{number}]", entry)
    examples = ExampleSet(name or source.stem, reader.examples(), exhaustive=exhaustive and not own_lists)
    return examples, findings


def _warn(examples: ExampleSet, findings: list[Finding]) -> None:
    """The findings of a set that is read from Python, as warnings."""
    for finding in findings:
        if finding.kind in ("placeholder category", "twin phrases"):
            warnings.warn(str(finding), stacklevel=4)
    for phrase in filter(says_nothing, examples.phrases):
        warnings.warn(
            f"the name {phrase!r} says nothing to the model. Pass phrases={{{phrase!r}: '...'}} with the words a "
            "person would use.",
            stacklevel=4,
        )
    clipped = [finding.where for finding in findings if finding.kind == "box clipped"]
    if clipped:
        warnings.warn(f"{len(clipped)} boxes left their picture and were clipped, first {clipped[0]}.", stacklevel=4)
    mixed = [finding.where for finding in findings if finding.kind == "boxes and masks"]
    if mixed:
        warnings.warn(
            f"in {len(mixed)} cases some objects of a phrase have a mask and others a box only, first {mixed[0]}. "
            "There only the boxes are used. Outline all objects to learn masks from these pictures.",
            stacklevel=4,
        )
    large = large_set_finding(examples)
    if large:
        warnings.warn(str(large), stacklevel=4)


def _load_json(source: Path) -> Content:
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
    return is_number(value) and value >= 1 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _phrases_of_categories(
    source: Path,
    content: Content,
    phrases: Mapping[str, str | None] | None,
    findings: list[Finding],
) -> PhraseTable:
    """The phrases of the file's category ids; a placeholder category is left out and named in the findings."""
    used = [entry.get("category_id") for entry in content["annotations"]]
    groups = [entry.get("supercategory") for entry in content["categories"]]
    labels: dict[Hashable, str] = {}
    placeholder: dict[str, str | None] = {}
    for number, entry in enumerate(content["categories"]):
        where = f"{source}: categories[{number}]"
        category = _field(where, entry, "id", _is_id, "a number")
        label = _field(where, entry, "name", _is_text, "a non-empty text")
        if category in labels:
            raise ValueError(f"{where}: id {category!r} occurs twice; expected one entry per category.")
        labels[category] = label
        is_group = label in groups and entry.get("supercategory") != label
        if category == 0 and is_group and category not in used and label not in (phrases or {}):
            placeholder[label] = None
            problem = f"category 0 ({label!r}) has no annotation and only names the group of the others. Left out;"
            advice = f"pass phrases={{{label!r}: {label!r}}} to ask for it all the same."
            findings.append(Finding("placeholder category", where, problem, advice))
    table = PhraseTable(labels, {**placeholder, **(phrases or {})}, str(source))
    findings += table.twins()
    return table


@dataclass
class _Picture:
    """One picture of the file with its labels so far."""

    where: str
    image_id: str
    path: Path
    stated_absent: frozenset[Any]
    labels: PictureLabels


@dataclass
class _Reader:
    """Collects the entries of one file."""

    folder: Path
    table: PhraseTable
    exhaustive: bool
    findings: list[Finding]
    pictures: dict[Any, _Picture | None] = field(default_factory=dict)  # None: beyond the limit

    def add_image(self, where: str, entry: Entry, is_wanted: bool) -> None:
        image = _field(where, entry, "id", _is_id, "a number")
        file_name = _field(where, entry, "file_name", _is_text, "the picture's file name")
        if image in self.pictures:
            raise ValueError(f"{where}: id {image!r} occurs twice; expected one entry per picture.")
        if not is_wanted:
            self.pictures[image] = None
            return
        path = path_inside(self.folder, file_name, where)
        try:
            width, height = shown_size(path)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if "width" in entry or "height" in entry:
            width, height = (_field(where, entry, side, _is_length, "pixels") for side in ("width", "height"))
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            unknown = [category for category in entry.get(key) or () if category not in self.table.keys]
            if unknown:
                raise ValueError(f"{where}: {key} names category {unknown[0]!r}, which the file does not define.")
        image_id = str(entry.get("image_id", file_name))
        labels = PictureLabels(where, int(width), int(height), self.table, self.findings)
        labels.mark_absent(*(self.table.keys if self.exhaustive else entry.get("neg_category_ids") or ()))
        labels.mark_unknown(*(entry.get("not_exhaustive_category_ids") or ()))
        stated_absent = frozenset(entry.get("neg_category_ids") or ())
        self.pictures[image] = _Picture(where, image_id, path, stated_absent, labels)

    def add_annotation(self, where: str, entry: Entry) -> None:
        known = "the id of one of the file's"
        image = _field(where, entry, "image_id", lambda key: _is_id(key) and key in self.pictures, f"{known} images")
        category = _field(
            where, entry, "category_id", lambda key: _is_id(key) and key in self.table.keys, f"{known} categories"
        )
        picture = self.pictures[image]
        phrase = self.table.phrase_of(category)
        if picture is None or phrase is None:
            return
        labels = picture.labels
        if entry.get("iscrowd", 0):
            labels.add_unusable(category)
            return
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, dict):
            labels.add_mask(category, fitting_mask_of(segmentation, labels.width, labels.height, where), where)
        elif segmentation:
            labels.add_mask(category, mask_of_polygons(segmentation, labels.width, labels.height, where), where)
        else:
            labels.add_box(category, _box_of(where, entry), where)
        if labels.has_objects(phrase) and self.table.keys_of(phrase) & picture.stated_absent:
            raise ValueError(
                f"{where}: {phrase!r} is labelled although neg_category_ids of its picture says it is absent; "
                "expected one or the other. Remove the annotation or the entry in neg_category_ids."
            )

    def examples(self) -> tuple[Example, ...]:
        """The pictures in file order."""
        found = []
        for picture in filter(None, self.pictures.values()):
            size = picture.labels.width, picture.labels.height
            try:
                found.append(Example(picture.image_id, picture.path, *size, picture.labels.concepts()))
            except ValueError as error:
                raise ValueError(f"{picture.where}: {error}") from error
        return tuple(found)


def _box_of(where: str, entry: Entry) -> tuple[float, float, float, float]:
    x, y, w, h = _field(
        where,
        entry,
        "bbox",
        lambda box: isinstance(box, list) and len(box) == 4 and all(map(is_number, box)),
        "[x, y, width, height] in pixels (or a segmentation)",
    )
    return x, y, x + w, y + h


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
    content: Content = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": phrase} for phrase, number in ids.items()]
    for number, example in enumerate(examples, start=1):
        file_name = picture_name(example, number)
        if images is not None:
            save_picture(example, Path(images) / file_name)
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
