"""YOLO label files in: one text file per picture with a line per object, either a box (class, centre x, centre y,
width, height) or an outline (class, x1, y1, x2, y2, ...), all as fractions of the picture. With `data.yaml` beside
folders `images` and `labels`, or all files in one folder with `classes.txt`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sam3.pictures import shown_size
from workbench.examples import Example, ExampleSet
from workbench.formats.outlines import mask_of_polygons
from workbench.formats.reading import (
    Finding,
    PhraseTable,
    PictureLabels,
    Reading,
    first_entries,
    path_inside,
    pictures_in,
    read_text,
)

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels")
_FAR_OUTSIDE = 0.5  # a coordinate this far beyond the picture is a pixel, not a fraction


def read_yolo(
    source: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    limit: int | None = None,
) -> Reading:
    """Reads a YOLO data set.

    Args:
        source: folder with `data.yaml`, the YAML file itself, or a folder of pictures and texts with `classes.txt`.
        phrases: class name -> phrase to search for (None drops the class); names not listed are kept as they are.
        exhaustive: whether every class was looked for in every labelled picture.
        limit: take the first pictures of each split only.

    Returns:
        One set per split of `data.yaml` (train, val, test), `image_id` being the path from the source. An empty label
        file means that nothing is there; without a label file all phrases are unknown in that picture. Files with key
        points (`kpt_shape`) are read as boxes.

    Raises:
        ValueError: anything that does not fit together; names the file and the line.
    """
    layout = _layout_of(Path(source))
    findings: list[Finding] = []
    table = PhraseTable(layout.names, phrases, str(layout.where))
    findings += table.twins()
    sets = []
    for split, pictures in layout.splits:
        examples = [
            _example(layout, picture, table, exhaustive, findings) for picture in first_entries(pictures, limit)
        ]
        sets.append(ExampleSet(split, tuple(examples), exhaustive=exhaustive))
    return Reading("yolo", tuple(sets), tuple(findings))


@dataclass(frozen=True)
class _Layout:
    """Where a data set keeps its pictures, and what its class numbers mean."""

    where: Path
    root: Path
    names: Mapping[int, str]
    splits: tuple[tuple[str, list[Path]], ...]
    has_keypoints: bool = False


def _layout_of(source: Path) -> _Layout:
    if source.is_file():
        return _layout_of_yaml(source)
    for name in ("data.yaml", "dataset.yaml", "data.yml"):
        if (source / name).is_file():
            return _layout_of_yaml(source / name)
    for folder in (source, source / "labels"):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                names = [line.strip() for line in read_text(folder / name, "one class name per line").splitlines()]
                pictures = source / "images" if (source / "images").is_dir() else source
                named = {number: label for number, label in enumerate(names) if label}
                return _Layout(folder / name, source, named, (("labels", pictures_in(pictures)),))
    raise ValueError(
        f"{source}: no data.yaml and no {_NAME_FILES[0]}; expected one of them with the names of the classes. Write "
        "one class name per line into classes.txt, in the order of the class numbers."
    )


def _layout_of_yaml(file: Path) -> _Layout:
    try:
        content = yaml.safe_load(read_text(file, "a YOLO data.yaml"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no valid YAML ({error}); expected a YOLO data.yaml.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise ValueError(f"{file}: names is {names!r}; expected a list of class names, or number: name.")
    root = file.parent
    splits = []
    for split in ("train", "val", "valid", "test"):
        entry = content.get(split)
        if entry:
            entries = entry if isinstance(entry, list) else [entry]
            places = [_place(file, content.get("path"), str(one)) for one in entries]
            splits.append((split, [picture for place in places for picture in _pictures_of(place, root)]))
    if not splits:
        raise ValueError(f"{file} names no split; expected train, val or test with a folder of pictures.")
    text_names = {number: str(name) for number, name in names.items()}
    return _Layout(file, root, text_names, tuple(splits), has_keypoints="kpt_shape" in content)


def _place(file: Path, path: Any, entry: str) -> Path:
    """Where a split's pictures are; Roboflow's files say `../train/images` and mean `train/images`."""
    inner = re.sub(r"^(\.\./)+", "", entry.replace("\\", "/"))
    tries = [inner] if path in (None, "", ".") else [f"{path}/{inner}", inner]
    for name in (*tries, f"images/{inner}"):
        if not Path(name).is_absolute() and (file.parent / name).exists():
            return path_inside(file.parent, name, str(file))
    raise ValueError(
        f"{file}: {entry!r} was not found in {file.parent}; expected a folder of pictures, or a list of them, inside "
        "the folder of the YAML file. Correct the entry."
    )


def _pictures_of(place: Path, root: Path) -> list[Path]:
    if place.is_dir():
        return pictures_in(place)
    lines = [line.strip() for line in read_text(place, "a list of pictures").splitlines()]
    return [path_inside(root, line.removeprefix("./"), str(place)) for line in lines if line]


def _label_file(picture: Path, root: Path) -> Path:
    """The label file of a picture: the last folder `images` of its path reads `labels`, or it lies beside."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return path_inside(root, "/".join(parts), str(picture))


def _example(layout: _Layout, picture: Path, table: PhraseTable, exhaustive: bool, findings: list[Finding]) -> Example:
    width, height = shown_size(picture)
    labels = PictureLabels(str(picture), width, height, table, findings)
    file = _label_file(picture, layout.root)
    if file.is_file():
        if exhaustive:
            labels.mark_absent(*table.keys)
        for number, line in enumerate(read_text(file, "YOLO labels").splitlines(), start=1):
            if line.strip():
                _add_line(labels, f"{file}:{number}", line.split(), layout)
    else:
        labels.mark_unknown(*table.keys)
        problem = f"there is no label file {file.name}; all phrases are unknown in this picture."
        findings.append(Finding("not labelled", str(picture), problem, "If nothing is there, add an empty label file."))
    return Example(picture.relative_to(layout.root).as_posix(), picture, width, height, labels.concepts())


def _add_line(labels: PictureLabels, where: str, fields: list[str], layout: _Layout) -> None:
    try:
        number, values = int(fields[0]), [float(field) for field in fields[1:]]
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected a class number and fractions of the picture.") from error
    if number not in layout.names:
        raise ValueError(
            f"{where}: class {number} has no name in {layout.where}; expected one of {sorted(layout.names)}. Add it."
        )
    if layout.has_keypoints:
        values = values[:4]
    if len(values) < 4 or len(values) % 2:
        extra = " Five look like a prediction with its score: remove the score." if len(values) == 5 else ""
        raise ValueError(
            f"{where}: {len(values)} numbers after the class; expected 4 for a box (centre x, centre y, width, height) "
            f"or x, y of three or more points.{extra}"
        )
    if not all(-_FAR_OUTSIDE <= value <= 1 + _FAR_OUTSIDE for value in values):
        raise ValueError(
            f"{where}: received {fields[1:5]}; expected fractions of the picture, 0 to 1. If these are pixels, divide "
            "them by width and height."
        )
    if len(values) == 4:
        x, y, w, h = values
        box = ((x - w / 2) * labels.width, (y - h / 2) * labels.height)
        labels.add_box(number, (*box, box[0] + w * labels.width, box[1] + h * labels.height), where)
        return
    size = (labels.width, labels.height)
    points = [value * size[place % 2] for place, value in enumerate(values)]
    labels.add_mask(number, mask_of_polygons([points], *size, where), where)
