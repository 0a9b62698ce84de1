"""An ExampleSet as a YOLO-seg data set. That form has one outline per object and no place for "not looked for": what
it cannot hold is counted, named and never passed on as something else."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path

import yaml

from sam3.files import write_folder_atomically
from workbench.examples import Concept, Example, ExampleSet, phrase_key
from workbench.formats.outlines import outline_of
from workbench.formats.writing import picture_name, save_picture


def examples_to_yolo(sets: ExampleSet | tuple[ExampleSet, ...], folder: str | Path) -> Path:
    """Writes `data.yaml`, `images/` and `labels/` in the form YOLO-seg trainers read.

    An object with holes or several parts becomes one line around all of them, joined by cuts without width: `read_yolo`
    gives the same mask again, programs that paint outlines fill about one pixel along each cut. Objects of which only
    the box is known stay boxes. A picture with a phrase that is unknown in it is left out, since YOLO would teach that
    phrase as absent. All of this is counted in one warning.

    Args:
        sets: one set, or one per split, named after it.
        folder: to write; an older one is replaced.

    Returns:
        The path of `data.yaml`.

    Raises:
        ValueError: no picture is left, or several sets have the same name.
    """
    sets = sets if isinstance(sets, tuple) else (sets,)
    names = [examples.name for examples in sets]
    if len(set(names)) < len(names):
        raise ValueError(f"the sets are named {names}; expected a different name for each. Rename them.")
    spelling: dict[str, str] = {}
    for examples in sets:
        for phrase in examples.phrases:
            spelling.setdefault(phrase_key(phrase), phrase)
    lost: Counter[str] = Counter()

    def write(target: Path) -> None:
        content: dict[str, object] = {"path": "."}
        for split, examples in zip(_split_keys(names), sets, strict=True):
            place = target / "images" / split
            place.mkdir(parents=True)
            (target / "labels" / split).mkdir(parents=True)
            if _write_split(examples, target, split, spelling, lost):
                content[split] = f"images/{split}"
            else:
                shutil.rmtree(place)
        if len(content) == 1:
            raise ValueError(
                f"in each of the {lost['pictures']} pictures some phrase is unknown; YOLO would teach it as absent, so "
                "nothing was written. Expected pictures in which every phrase was looked for. Export to coco or "
                "parquet."
            )
        content["names"] = dict(enumerate(spelling.values()))
        (target / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")

    write_folder_atomically(folder, write)
    if lost.total():
        warnings.warn(_what_was_lost(lost), stacklevel=2)
    return Path(folder) / "data.yaml"


def _split_keys(names: list[str]) -> list[str]:
    """The keys YOLO knows; a single set with another name becomes `train`, further ones keep theirs."""
    known = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    keys = [known.get(name, name) for name in names]
    return ["train"] if len(keys) == 1 and keys[0] not in known else keys


def _write_split(examples: ExampleSet, target: Path, split: str, spelling: dict[str, str], lost: Counter[str]) -> int:
    """The number of pictures written."""
    written = 0
    for number, example in enumerate(examples, start=1):
        known = {phrase_key(concept.phrase) for concept in example.concepts if concept.status != "unknown"}
        if known != set(spelling):
            lost["pictures"] += 1
            continue
        name = picture_name(example, number)
        save_picture(example, target / "images" / split / name)
        lines = [
            line
            for concept in example.concepts
            for line in _lines(example, concept, list(spelling).index(phrase_key(concept.phrase)), lost)
        ]
        text = "".join(f"{line}\n" for line in lines)
        (target / "labels" / split / name).with_suffix(".txt").write_text(text, encoding="utf-8")
        written += 1
    return written


def _lines(example: Example, concept: Concept, number: int, lost: Counter[str]) -> list[str]:
    size = (example.width, example.height)
    lines = []
    for mask in concept.masks:
        outline = outline_of(mask)
        lost["holes"] += outline.num_holes
        lost["parts"] += outline.num_parts - 1
        lines.append([f"{value:.8g}" for value in (outline.points_xy_px / size).ravel().tolist()])
    if not concept.has_masks:
        lost["boxes"] += concept.num_objects
        for x0, y0, x1, y1 in concept.boxes_xyxy_px.tolist():
            centre = ((x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1])
            sides = ((x1 - x0) / size[0], (y1 - y0) / size[1])
            lines.append([f"{value:.10g}" for value in (*centre, *sides)])
    return [f"{number} {' '.join(values)}" for values in lines]


def _what_was_lost(lost: Counter[str]) -> str:
    texts = []
    if lost["holes"] or lost["parts"]:
        texts.append(
            f"{lost['holes']} holes and {lost['parts']} further parts of objects are joined to their outline by cuts "
            "without width; programs that paint outlines fill about one pixel along each"
        )
    if lost["boxes"]:
        texts.append(f"{lost['boxes']} objects are boxes only; some trainers then ignore the outlines of the others")
    if lost["pictures"]:
        texts.append(f"{lost['pictures']} pictures are left out, because a phrase is unknown in them")
    return f"YOLO-seg cannot hold everything: {'; '.join(texts)}. Export to coco or parquet to keep it all."
