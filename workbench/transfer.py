"""The jobs behind `workbench import` and `workbench export`: labels of any form become the workbench's own folder
(COCO files beside `images/`), and back into forms that other tools read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam3.files import write_folder_atomically
from workbench.examples import ExampleSet
from workbench.formats.card import CardTexts
from workbench.formats.coco import examples_to_coco
from workbench.formats.parquet import examples_to_parquet
from workbench.formats.reading import Reading
from workbench.formats.saco import examples_to_saco
from workbench.formats.sources import read_labels
from workbench.formats.yolo_writer import examples_to_yolo
from workbench.validation import ValidationReport, validate

EXPORT_FORMS = ("coco", "yolo", "saco", "parquet")


@dataclass(frozen=True, eq=False)
class Imported:
    """What `import_labels` wrote.

    Args:
        form: of the source.
        sets: as they were written, one per file.
        files: label files, in the order of `sets`.
        pictures: the folder of each file's pictures.
        report: what to look at before learning from them.
    """

    form: str
    sets: tuple[ExampleSet, ...]
    files: tuple[Path, ...]
    pictures: tuple[Path, ...]
    report: ValidationReport


def import_labels(source: str | Path, out: str | Path, form: str | None = None, **options: Any) -> Imported:
    """Reads labels of any form and writes them as the workbench's own.

    Args:
        source: file or folder.
        out: new folder: `labels.json` and `images/`; with several splits `<split>.json` and `images/<split>/`.
        form: a key of `formats.sources.READERS`; found out when None.
        options: of the reader, such as `phrases`, `limit`, `images`; None counts as not given.

    Raises:
        ValueError: the source cannot be read, holds no picture, or `out` already holds something.
    """
    _check_new(Path(out))
    reading = read_labels(source, form, **options)
    sets = _with_own_names(reading)
    report = validate(sets, reading.findings)
    is_single = len(sets) == 1
    places = [("labels.json", "images") if is_single else (f"{one.name}.json", f"images/{one.name}") for one in sets]

    def write(folder: Path) -> None:
        for (name, pictures), examples in zip(places, sets, strict=True):
            examples_to_coco(examples, folder / name, images=folder / pictures)

    write_folder_atomically(out, write)
    files = tuple(Path(out) / name for name, _ in places)
    return Imported(reading.form, sets, files, tuple(Path(out) / pictures for _, pictures in places), report)


def export_labels(
    source: str | Path,
    out: str | Path,
    to: str,
    form: str | None = None,
    *,
    texts: CardTexts | None = None,
    **options: Any,
) -> tuple[ExampleSet, ...]:
    """Reads labels of any form and writes them in a form for other tools.

    Args:
        source: file or folder, such as what `import_labels` wrote.
        out: new folder.
        to: "coco", "yolo" (YOLO-seg), "saco" (SA-Co JSON) or "parquet" (with a data set card).
        form: of the source; found out when None.
        texts: title, licence and provenance for the card; only for parquet.
        options: of the reader.

    Returns:
        The sets that were written.

    Raises:
        ValueError: the source cannot be read, the form cannot hold it, or `out` already holds something.
    """
    if to not in EXPORT_FORMS:
        raise ValueError(f"the form to write is {to!r}; expected one of {', '.join(EXPORT_FORMS)}.")
    if texts is not None and to != "parquet":
        raise ValueError(
            f"{to} has no place for a licence or provenance; expected them with parquet only. Leave them out."
        )
    _check_new(Path(out))
    sets = _with_own_names(read_labels(source, form, **options))
    if to == "yolo":
        examples_to_yolo(sets, out)
    elif to == "parquet":
        examples_to_parquet(sets, out, texts=texts)
    else:
        write_file: Callable[..., Path] = examples_to_coco if to == "coco" else examples_to_saco

        def write(folder: Path) -> None:
            for examples in sets:
                pictures = folder / "images" if len(sets) == 1 else folder / "images" / examples.name
                write_file(examples, folder / f"{examples.name}.json", images=pictures)

        write_folder_atomically(out, write)
    return sets


def _check_new(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(
            f"{out} already holds something; expected a new or empty folder. Choose another, or remove it."
        )


def _with_own_names(reading: Reading) -> tuple[ExampleSet, ...]:
    """The sets that hold pictures, each with a name of its own that can be a file name."""
    sets = [examples for examples in reading.sets if len(examples)]
    if not sets:
        raise ValueError("the source holds no picture; expected at least one. Check the path and the limit.")
    used: set[str] = set()
    named = []
    for examples in sets:
        plain = re.sub(r"[^\w-]+", "_", examples.name).strip("_") or "labels"
        name = next(
            name
            for number in range(1, len(sets) + 1)
            if (name := plain if number == 1 else f"{plain}_{number}") not in used
        )
        used.add(name)
        named.append(replace(examples, name=name))
    return tuple(named)
