"""Masks as pictures in: label maps (every pixel holds a value with a name) and folders with one black-and-white PNG per
object. Pictures lie in `images/`, masks of the same name in `masks/`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from sam3.pictures import shown_size
from workbench.examples import Example, ExampleSet
from workbench.formats.names import NAME_FILES, read_names
from workbench.formats.reading import (
    PICTURE_SUFFIXES,
    Finding,
    PhraseTable,
    PictureLabels,
    Reading,
    first_entries,
    path_inside,
    pictures_in,
)

_MASK_FOLDERS = ("masks", "labels", "annotations")


def read_label_maps(
    source: str | Path,
    *,
    names: str | Path | Mapping[int, str] | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    split_parts: bool = False,
    limit: int | None = None,
) -> Reading:
    """Reads pictures with label maps: PNGs whose pixels (grey value or palette index, 8 or 16 bits) are label values.

    Args:
        source: folder with `images/` and `masks/` (or `labels/`, `annotations/`) and a names file.
        names: value -> name, or a file that `read_names` takes; `names.json`, `names.yaml`, `names.txt`, `labels.txt`
            or `dataset.json` of the source when left out. Values without a name are nothing to search for.
        images, labels: other folders of pictures and masks than those of the source.
        phrases: name -> phrase to search for (None drops it).
        exhaustive: whether every name was looked for in every picture.
        split_parts: make every connected region an object of its own; otherwise each value is one object per picture.
        limit: take the first pictures only.

    Returns:
        One set. A picture without a label map is unknown throughout.

    Raises:
        ValueError: anything that does not fit together; names the file.
    """
    source = Path(source)
    values = read_names(_names_file(source) if names is None else names)
    maps = Path(labels) if labels is not None else _mask_folder(source)
    table = PhraseTable(values, phrases, str(source))
    findings = list(table.twins())
    unnamed: dict[int, str] = {}
    examples = []
    for picture in first_entries(pictures_in(Path(images) if images is not None else source / "images"), limit):
        found = PictureLabels(str(picture), *shown_size(picture), table, findings)
        file = _mask_file(maps, picture)
        if file is None:
            found.mark_unknown(*table.keys)
            advice = "Draw the map, or leave the picture out."
            findings.append(Finding("not labelled", str(picture), f"no label map in {maps}; all is unknown.", advice))
        else:
            area = _label_map(file, found)
            add_label_map(found, area, str(file), exhaustive=exhaustive, split_parts=split_parts)
            unnamed |= {value: str(file) for value in np.unique(area).tolist() if value and value not in values}
        examples.append(Example(picture.name, picture, found.width, found.height, found.concepts()))
    findings += unnamed_values(unnamed)
    return Reading("label-maps", (ExampleSet("labels", tuple(examples), exhaustive=exhaustive),), tuple(findings))


def add_label_map(labels: PictureLabels, area: np.ndarray, where: str, *, exhaustive: bool, split_parts: bool) -> None:
    """Adds the objects of a label map (H,W) of integers: one per value, or one per connected region of a value."""
    if exhaustive:
        labels.mark_absent(*labels.table.keys)
    present = set(np.unique(area).tolist())
    for value in labels.table.keys:
        if value not in present:
            continue
        mask = area == value
        for part in connected_parts(mask) if split_parts else [mask]:
            labels.add_mask(value, part, f"{where}: value {value}")


def connected_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The regions of a mask (H,W) whose pixels touch at a side or corner, each as a mask of the same size."""
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return [numbered == number for number in range(1, count + 1)]


def unnamed_values(found: Mapping[int, str]) -> tuple[Finding, ...]:
    """A finding for every value (with the file where it occurs) that no name was given for."""
    advice = "Add it to the names file if it is something to search for."
    return tuple(
        Finding("ignored value", file, f"the value {value} has no name and was taken as background.", advice)
        for value, file in sorted(found.items())
    )


def read_mask_folders(
    source: str | Path,
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    limit: int | None = None,
) -> Reading:
    """Reads pictures with one black-and-white mask PNG per object, in one of two layouts.

    By phrase: `masks/<phrase>/<picture>.png`, or `<picture>_1.png`, `<picture>_2.png` for several objects. By picture:
    `masks/<picture>/<phrase>.png`, or `<phrase>_1.png` and so on. Anything but black belongs to the object.

    Args:
        source: folder with `images/` and `masks/`.
        images, labels: other folders of pictures and masks than those of the source.
        phrases: name of a folder or file -> phrase to search for (None drops it); `_` in names reads as a blank.
        exhaustive: whether every phrase was looked for in every picture; then no mask means absent.
        limit: take the first pictures only.

    Returns:
        One set. A mask without a pixel leaves its phrase unknown in that picture.

    Raises:
        ValueError: anything that does not fit together; names the file.
    """
    source = Path(source)
    folder = Path(labels) if labels is not None else _mask_folder(source)
    pictures = pictures_in(Path(images) if images is not None else source / "images")
    objects = _objects(folder, {picture.stem for picture in pictures})
    names: dict[Hashable, str] = {name: name for found in objects.values() for name, _ in found}
    table = PhraseTable(names, phrases, str(folder))
    findings = list(table.twins())
    examples = []
    for picture in first_entries(pictures, limit):
        found = PictureLabels(str(picture), *shown_size(picture), table, findings)
        if exhaustive:
            found.mark_absent(*table.keys)
        for name, file in objects.get(picture.stem, ()):
            found.add_mask(name, _label_map(file, found) > 0, str(file))
        examples.append(Example(picture.name, picture, found.width, found.height, found.concepts()))
    return Reading("masks", (ExampleSet("labels", tuple(examples), exhaustive=exhaustive),), tuple(findings))


def _objects(folder: Path, stems: set[str]) -> dict[str, list[tuple[str, Path]]]:
    """Picture stem -> (name, mask file) of its objects."""
    objects: dict[str, list[tuple[str, Path]]] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES):
            path_inside(folder, str(file.relative_to(folder)), str(folder))
            stem = _without_number(file.stem, stems)
            if place.name in stems:
                objects.setdefault(place.name, []).append((_words(_without_number(file.stem, set())), file))
            elif stem in stems:
                objects.setdefault(stem, []).append((_words(place.name), file))
            else:
                raise ValueError(
                    f"{file}: neither its folder {place.name!r} nor its name belongs to one of the {len(stems)} "
                    "pictures; expected masks/PHRASE/PICTURE.png or masks/PICTURE/PHRASE.png. Rename it."
                )
    if not objects:
        raise ValueError(f"{folder} holds no folder with masks; expected masks/PHRASE/PICTURE.png, one per object.")
    return objects


def _without_number(stem: str, known: set[str]) -> str:
    return stem if stem in known else re.sub(r"[_-]\d+$", "", stem)


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _label_map(file: Path, labels: PictureLabels) -> np.ndarray:
    """The values of a mask picture, (H,W) int64; palette indices as they are."""
    try:
        with Image.open(file) as opened:
            area = np.array(opened)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read ({error}); expected a PNG of labels.") from error
    if area.ndim == 3 and (area[..., :1] == area[..., :3]).all():
        area = area[..., 0]
    if area.ndim != 2 or area.dtype.kind not in "bui":
        raise ValueError(
            f"{file} is a coloured picture; expected one value per pixel (grey or palette). Convert colours to values."
        )
    if area.shape != (labels.height, labels.width):
        raise ValueError(
            f"{file} is {area.shape[1]}x{area.shape[0]}, its picture {labels.width}x{labels.height} (width x height); "
            "expected the same size. Check that they belong together."
        )
    return area.astype(np.int64)


def _mask_folder(source: Path) -> Path:
    for name in _MASK_FOLDERS:
        if (source / name).is_dir():
            return path_inside(source, name, str(source))
    raise ValueError(
        f"{source} has no folder {' or '.join(_MASK_FOLDERS)}; expected the masks there. Name it (--labels)."
    )


def _mask_file(folder: Path, picture: Path) -> Path | None:
    for name in (f"{picture.stem}.png", f"{picture.stem}_mask.png", f"{picture.stem}.tif"):
        if (folder / name).is_file():
            return path_inside(folder, name, str(folder))
    return None


def _names_file(source: Path) -> Path:
    for name in NAME_FILES:
        if (source / name).is_file():
            return source / name
    raise ValueError(
        f'{source} has no list of names; expected {NAME_FILES[0]} such as {{"1": "liver"}}, or another file named '
        "with --names."
    )
