"""An ExampleSet as parquet files that the `datasets` package reads by itself, with the pictures inside and a card."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from PIL import Image

from sam3.files import write_folder_atomically
from workbench.examples import Concept, Example, ExampleSet
from workbench.formats.card import CardTexts, dataset_card
from workbench.formats.rle import rle_of
from workbench.formats.writing import picture_name

PICTURES_PER_FILE = 1000
_PICTURES_PER_GROUP = 50  # held in memory while writing


def examples_to_parquet(
    sets: ExampleSet | tuple[ExampleSet, ...], folder: str | Path, *, texts: CardTexts | None = None
) -> Path:
    """Writes `data/<split>-*.parquet` and a filled dataset card; `read_hub` reads the same labels back.

    Columns: image, image_id, width, height, and concepts: phrase, status (positive, absent, unknown), boxes (x0, y0,
    x1, y1 in pixels, ends exclusive), masks (COCO run lengths; none for objects that are boxes only).

    Args:
        sets: one set, or one per split, named after it.
        folder: to write; an older one is replaced.
        texts: title, licence and provenance for the card.

    Returns:
        The folder.

    Raises:
        ValueError: several sets have the same name, or a set is empty.
    """
    sets = sets if isinstance(sets, tuple) else (sets,)
    names = [_file_stem(examples.name) for examples in sets]
    if len(set(names)) < len(names):
        raise ValueError(f"the sets are named {names}; expected a different name for each. Rename them.")
    empty = [examples.name for examples in sets if not len(examples)]
    if empty:
        raise ValueError(f"set {empty[0]!r} has no picture; expected at least one. Leave the set out.")

    def write(target: Path) -> None:
        (target / "data").mkdir()
        for name, examples in zip(names, sets, strict=True):
            _write_split(examples, target / "data", name)
        (target / "README.md").write_text(dataset_card(sets, names, texts or CardTexts()), encoding="utf-8")

    write_folder_atomically(folder, write)
    return Path(folder)


def _file_stem(name: str) -> str:
    """A split name as `datasets` accepts it: letters, digits and underscores."""
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_") or "train"


def _schema() -> Any:
    """The columns as an arrow schema that carries the types of `datasets`."""
    import datasets

    value, rows = datasets.Value, datasets.List
    concepts = {
        "phrase": value("string"),
        "status": value("string"),
        "boxes": rows(rows(value("float32"), length=4)),
        "masks": rows({"size": rows(value("int32"), length=2), "counts": value("string")}),
    }
    columns = {
        "image": datasets.Image(),
        "image_id": value("string"),
        "width": value("int32"),
        "height": value("int32"),
        "concepts": rows(concepts),
    }
    return datasets.Features(columns).arrow_schema


def _write_split(examples: ExampleSet, folder: Path, name: str) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = _schema()
    count = math.ceil(len(examples) / PICTURES_PER_FILE)
    for part in range(count):
        numbers = range(part * PICTURES_PER_FILE, min((part + 1) * PICTURES_PER_FILE, len(examples)))
        file = folder / f"{name}-{part:05d}-of-{count:05d}.parquet"
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for start in range(numbers.start, numbers.stop, _PICTURES_PER_GROUP):
                group = range(start, min(start + _PICTURES_PER_GROUP, numbers.stop))
                rows = [_row(examples[number], number + 1) for number in group]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _row(example: Example, number: int) -> dict[str, Any]:
    if isinstance(example.image, Path):
        encoded = example.image.read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(example.image).save(buffer, "PNG")
        encoded = buffer.getvalue()
    return {
        "image": {"bytes": encoded, "path": picture_name(example, number)},
        "image_id": example.image_id,
        "width": example.width,
        "height": example.height,
        "concepts": [_concept_row(concept) for concept in example.concepts],
    }


def _concept_row(concept: Concept) -> dict[str, Any]:
    return {
        "phrase": concept.phrase,
        "status": concept.status,
        "boxes": concept.boxes_xyxy_px.tolist(),
        "masks": [rle_of(mask) for mask in concept.masks],
    }
