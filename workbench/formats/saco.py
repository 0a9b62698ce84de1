"""SA-Co image JSON in and out, the form of the Gold and Silver benchmarks: an entry of `images` is a picture together
with one phrase, its annotations are the objects. Boxes are fractions of the picture, masks run lengths in its pixels.
Gold comes three times, once per annotator; the three are alternatives and never joined."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3.files import write_text
from workbench.examples import Concept, Example, ExampleSet, phrase_key
from workbench.formats.outlines import is_number
from workbench.formats.reading import Finding, PhraseTable, PictureLabels, Reading, path_inside, read_text
from workbench.formats.rle import fitting_mask_of, rle_of
from workbench.formats.writing import picture_name, save_picture

Pair = Mapping[str, Any]
_ANNOTATOR = re.compile(r"_merged_([a-z])_")


def read_saco(
    source: str | Path,
    *,
    images: str | Path | None = None,
    annotator: str | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads SA-Co files of one annotator.

    Args:
        source: a JSON file, or a folder of them; files named `..._merged_a_...`, `_b_`, `_c_` are the same pairs by
            three annotators.
        images: folder of the pictures; `images` beside the file, or the file's folder, when left out.
        annotator: letter of the one to take from a folder; the first when left out. `read_saco_annotators` takes all.
        phrases: phrase of the file -> phrase to search for (None drops it).
        limit: take the first pictures of each file only.

    Returns:
        One set per file. A pair without objects is absent, one that is not exhaustive (`is_instance_exhaustive` 0) or
        has crowds only is unknown; phrases that are not asked of a picture are not mentioned there.

    Raises:
        ValueError: anything that does not fit together; names the file and the entry.
    """
    files = _files(Path(source))
    letters = sorted({letter for file in files if (letter := annotator_of(file))})
    if annotator is not None and annotator not in letters:
        raise ValueError(f"{source}: annotator {annotator!r} was asked for; expected one of {letters or 'none'}.")
    chosen = annotator or (letters[0] if letters and Path(source).is_dir() else None)
    wanted = [file for file in files if chosen is None or annotator_of(file) in (chosen, None)]
    read = [_read_file(file, images, phrases, limit) for file in wanted]
    return Reading("saco", tuple(examples for examples, _ in read), tuple(found for _, all_ in read for found in all_))


def read_saco_annotators(
    source: str | Path,
    *,
    images: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> tuple[Reading, ...]:
    """One Reading per annotator of a folder, in the order of their letters; arguments as in `read_saco`."""
    letters: list[str | None] = [*sorted({letter for file in _files(Path(source)) if (letter := annotator_of(file))})]
    return tuple(
        read_saco(source, images=images, annotator=letter, phrases=phrases, limit=limit) for letter in letters or [None]
    )


def annotator_of(file: Path) -> str | None:
    """The annotator's letter in a file name; None when there is only one.

    Example:
        >>> annotator_of(Path("gold_crowded_merged_b_release_test.json"))
        'b'
    """
    match = _ANNOTATOR.search(file.name)
    return match[1] if match else None


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    files = sorted(source.glob("*.json")) if source.is_dir() else []
    if not files:
        raise ValueError(f"{source} holds no JSON file; expected SA-Co annotations. Check the path.")
    return [path_inside(source, file.name, str(source)) for file in files]


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file, "a SA-Co JSON file"))
    except ValueError as error:
        raise ValueError(f"{file} is no valid JSON ({error}); expected a SA-Co file.") from error
    pairs = content.get("images") if isinstance(content, dict) else None
    if not isinstance(pairs, list) or not pairs or not all("text_input" in pair for pair in pairs):
        raise ValueError(
            f"{file}: the entries of images have no text_input; expected a SA-Co file, in which each is a picture with "
            "one phrase. If this is plain COCO, read it as coco."
        )
    return content


def _read_file(
    file: Path, images: str | Path | None, phrases: Mapping[str, str | None] | None, limit: int | None
) -> tuple[ExampleSet, list[Finding]]:
    content = _load(file)
    pairs = list(enumerate(content["images"]))
    for number, pair in pairs:
        if not {"id", "file_name", "width", "height"} <= set(pair) or not str(pair["text_input"]).strip():
            raise ValueError(
                f"{file}: images[{number}] is {str(pair)[:120]}; expected id, file_name, text_input, width and height."
            )
    names: dict[Hashable, str] = {}
    for _, pair in pairs:
        names.setdefault(phrase_key(pair["text_input"]), pair["text_input"])
    reader = _Reader(PhraseTable(names, phrases, str(file)), limit)
    for number, pair in pairs:
        reader.add_pair(f"{file}: images[{number}]", pair)
    for number, entry in enumerate(content.get("annotations") or ()):
        reader.add_annotation(f"{file}: annotations[{number}]", entry)
    folder = Path(images) if images is not None else file.parent / "images"
    examples = reader.examples(folder if folder.is_dir() else file.parent)
    return ExampleSet(file.stem, examples), reader.findings


@dataclass
class _Reader:
    """Collects the pairs of one file by picture; a phrase that is asked twice of one picture counts once."""

    table: PhraseTable
    limit: int | None
    findings: list[Finding] = field(default_factory=list)
    pictures: dict[str, tuple[Pair, PictureLabels]] = field(default_factory=dict)
    pairs: dict[Any, tuple[str, str] | None] = field(default_factory=dict)  # id -> picture, phrase; None: left out
    asked: set[tuple[str, str]] = field(default_factory=set)

    def add_pair(self, where: str, pair: Pair) -> None:
        if pair["id"] in self.pairs:
            raise ValueError(f"{where}: id {pair['id']!r} occurs twice; expected one entry per picture and phrase.")
        name, key = pair["file_name"], phrase_key(pair["text_input"])
        self.pairs[pair["id"]] = None
        if name not in self.pictures:
            if self.limit is not None and len(self.pictures) >= self.limit:
                return
            size = int(pair["width"]), int(pair["height"])
            self.pictures[name] = pair, PictureLabels(where, *size, self.table, self.findings)
        if (name, key) in self.asked:
            problem = f"{pair['text_input']!r} is asked a second time of {name}; the first answer counts."
            self.findings.append(Finding("asked twice", where, problem, "Remove one of the two entries."))
            return
        self.asked.add((name, key))
        self.pairs[pair["id"]] = name, key
        _, labels = self.pictures[name]
        labels.mark_absent(key)
        if not pair.get("is_instance_exhaustive", 1):
            labels.mark_unknown(key)

    def add_annotation(self, where: str, entry: Mapping[str, Any]) -> None:
        image = entry.get("image_id")
        if image not in self.pairs:
            raise ValueError(f"{where}: image_id is {image!r}; expected the id of one of the file's images.")
        pair = self.pairs[image]
        if pair is None:
            return
        name, key = pair
        _, labels = self.pictures[name]
        if entry.get("iscrowd", entry.get("is_crowd", 0)):
            labels.add_unusable(key)
        elif entry.get("segmentation"):
            labels.add_mask(key, fitting_mask_of(entry["segmentation"], labels.width, labels.height, where), where)
        else:
            labels.add_box(key, _box_of(where, entry, labels), where)

    def examples(self, folder: Path) -> tuple[Example, ...]:
        """The pictures in file order."""
        found = []
        for name, (pair, labels) in self.pictures.items():
            path = path_inside(folder, name, labels.where)
            image_id = str(pair.get("image_id", name))
            try:
                found.append(Example(image_id, path, labels.width, labels.height, labels.concepts()))
            except ValueError as error:
                raise ValueError(f"{labels.where}: {error}") from error
        return tuple(found)


def _box_of(where: str, entry: Mapping[str, Any], labels: PictureLabels) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) and -0.5 <= v <= 1.5 for v in box):
        raise ValueError(f"{where}: bbox is {box!r}; expected [x, y, width, height] as fractions of the picture.")
    x, y, w, h = (value * side for value, side in zip(box, (labels.width, labels.height) * 2, strict=True))
    return x, y, x + w, y + h


def examples_to_saco(examples: ExampleSet, path: str | Path, *, images: str | Path | None = None) -> Path:
    """Writes the set as a SA-Co JSON that `read_saco` reads back with the same masks, boxes and statuses.

    Args:
        examples: the set.
        path: of the JSON file to write.
        images: folder to write the pictures to (arrays as PNG, files copied); None writes the JSON only.

    Returns:
        The path of the JSON file.

    Raises:
        ValueError: no picture mentions any phrase: the form consists of pairs.
    """
    numbers = {phrase: str(number) for number, phrase in enumerate(examples.phrases, start=1)}
    pairs: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, example in enumerate(examples, start=1):
        file_name = picture_name(example, number)
        if images is not None:
            save_picture(example, Path(images) / file_name)
        for concept in example.concepts:
            pairs.append(
                {
                    "id": len(pairs) + 1,
                    "image_id": example.image_id,
                    "file_name": file_name,
                    "text_input": concept.phrase,
                    "width": example.width,
                    "height": example.height,
                    "queried_category": numbers[concept.phrase],
                    "is_instance_exhaustive": int(concept.status != "unknown"),
                    "is_pixel_exhaustive": int(concept.status != "unknown"),
                }
            )
            annotations += _annotations_of(example, concept, pairs[-1]["id"])
    if not pairs:
        raise ValueError(f"set {examples.name!r} has no phrase; expected at least one pair to write. Label a picture.")
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": 1, "name": "object"}]
    write_text(path, json.dumps({"images": pairs, "annotations": annotations, "categories": categories}))
    return Path(path)


def _annotations_of(example: Example, concept: Concept, pair: int) -> list[dict[str, Any]]:
    width, height = example.width, example.height
    annotations = []
    for number, (x0, y0, x1, y1) in enumerate(concept.boxes_xyxy_px.tolist()):
        pixels = float(concept.masks[number].sum()) if concept.has_masks else (x1 - x0) * (y1 - y0)
        annotation = {
            "image_id": pair,
            "category_id": 1,
            "bbox": [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
            "area": pixels / (width * height),
            "iscrowd": 0,
            "source": "manual",
        }
        if concept.has_masks:
            annotation["segmentation"] = rle_of(concept.masks[number])
        annotations.append(annotation)
    return annotations
