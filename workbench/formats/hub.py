"""Data sets of the `datasets` package in: parquet files, folders of pictures with a metadata file, and what
`save_to_disk` wrote. Two forms of rows are understood: the `concepts` that `parquet.py` writes, and the `objects` that
most detection data sets on the Hugging Face hub have."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from workbench.examples import Example, ExampleSet, phrase_key
from workbench.formats.outlines import mask_of_polygons
from workbench.formats.reading import (
    Finding,
    PhraseTable,
    PictureLabels,
    Reading,
    first_entries,
    path_inside,
    picture_of_bytes,
)
from workbench.formats.rle import fitting_mask_of

Row = dict[str, Any]
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_hub(
    source: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    limit: int | None = None,
) -> Reading:
    """Reads a data set from disk through the `datasets` package.

    Args:
        source: a parquet file; a folder of parquet files (also in `data/`) named after their splits; a folder that
            `save_to_disk` wrote; or a folder of pictures with `metadata.jsonl`.
        phrases: phrase or category of the data -> phrase to search for (None drops it).
        exhaustive: for `objects` only: whether every category was looked for in every picture. `concepts` say it
            themselves.
        limit: take the first pictures of each split only.

    Returns:
        One set per split. The pictures are held in memory.

    Raises:
        ValueError: neither of these sources, other columns, or a row that does not fit together.
    """
    first_entries((), limit)
    findings: list[Finding] = []
    sets = []
    for split, data in sorted(_splits(Path(source)).items(), key=lambda item: item[0] != "train"):
        where = f"{source} ({split})"
        rows, is_concepts = _rows(data, limit, where)
        names: dict[Hashable, str] = {}
        for row in rows:
            for name in row["names"]:
                names.setdefault(phrase_key(name) if is_concepts else name, name)
        table = PhraseTable(names, phrases, where)
        findings += table.twins()
        examples = [
            _example(row, f"{where}: row {number}", table, findings, exhaustive and not is_concepts)
            for number, row in enumerate(rows)
        ]
        sets.append(ExampleSet(split, tuple(examples), exhaustive=exhaustive and not is_concepts))
    return Reading("hub", tuple(sets), tuple(findings))


def _splits(source: Path) -> Mapping[str, Any]:
    """Split name -> Dataset; parquet and pictures are read row by row, nothing is copied into a cache."""
    import datasets

    if (source / "dataset_dict.json").is_file():
        return dict(datasets.load_from_disk(str(source)))
    if (source / "state.json").is_file():
        return {"train": datasets.load_from_disk(str(source))}
    files = (
        [source] if source.suffix == ".parquet" else sorted([*source.glob("*.parquet"), *source.glob("data/*.parquet")])
    )
    files = [file for file in files if file.name not in _METADATA]
    if files:
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for file in files:
            path_inside(file.parent, file.name, str(file.parent))
            groups[re.sub(r"-\d+-of-\d+$", "", file.stem)].append(str(file))
        return dict(datasets.load_dataset("parquet", data_files=dict(groups), streaming=True))
    if any(next(source.glob(f"{depth}{name}"), None) for depth in ("", "*/") for name in _METADATA):
        return dict(datasets.load_dataset("imagefolder", data_dir=str(source), streaming=True))
    raise ValueError(
        f"{source} is no data set of the datasets package; expected a .parquet file, a folder of them, a folder "
        "written by save_to_disk, or pictures with metadata.jsonl. Check the path."
    )


def _rows(data: Any, limit: int | None, where: str) -> tuple[list[Row], bool]:
    """The rows as image, image_id, names and things; and whether they have `concepts` rather than `objects`."""
    import datasets

    features = data.features or {}
    image = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    form = next((name for name in ("concepts", "objects") if name in features), None)
    if image is None or form is None:
        raise ValueError(
            f"{where} has the columns {list(features)}; expected a picture (feature type Image) and either `concepts` "
            "(phrase, status, boxes, masks) or `objects` (bbox, category). Rename or convert the columns first."
        )
    undecoded = data.cast_column(image, datasets.Image(decode=False))
    category_names = _category_names(features[form])
    rows = []
    for number, raw in enumerate(itertools.islice(undecoded, limit)):
        things = _list_of_dicts(raw[form])
        if form == "objects":
            things = [_with_name(thing, category_names, f"{where}: row {number}") for thing in things]
        image_id = str(raw.get("image_id") or (raw[image].get("path") and Path(raw[image]["path"]).name) or number)
        names = [thing["phrase"] for thing in things]
        rows.append({"picture": raw[image], "image_id": image_id, "things": things, "names": names})
    if form == "objects":
        rows[:1] = [{**row, "names": [*(category_names or ()), *row["names"]]} for row in rows[:1]]
    return rows, form == "concepts"


def _list_of_dicts(things: Any) -> list[Row]:
    """Objects are stored as a list of dictionaries or as a dictionary of lists; given back as the former."""
    if isinstance(things, dict):
        lists = {key: value for key, value in things.items() if isinstance(value, list)}
        count = min(map(len, lists.values()), default=0)
        return [{key: value[number] for key, value in lists.items()} for number in range(count)]
    return list(things or ())


def _category_names(feature: Any) -> list[str] | None:
    """The names behind category numbers, where the data set stores them."""
    inner = getattr(feature, "feature", feature)
    for key in ("category", "categories", "label", "labels"):
        kind = inner.get(key) if isinstance(inner, dict) else None
        names = getattr(getattr(kind, "feature", kind), "names", None)
        if names is not None:
            return list(names)
    return None


def _with_name(thing: Row, names: list[str] | None, where: str) -> Row:
    category = next((thing[key] for key in ("category", "categories", "label", "labels") if key in thing), None)
    if category is None or "bbox" not in thing:
        raise ValueError(f"{where}: an object has {list(thing)}; expected bbox and category. Rename the columns.")
    return {**thing, "phrase": names[category] if names and isinstance(category, int) else str(category)}


def _example(row: Row, where: str, table: PhraseTable, findings: list[Finding], exhaustive: bool) -> Example:
    picture = row["picture"]
    encoded = picture.get("bytes") or _file_bytes(picture.get("path"), where)
    pixels = picture_of_bytes(encoded, where)
    height, width = pixels.shape[:2]
    labels = PictureLabels(where, width, height, table, findings)
    if exhaustive:
        labels.mark_absent(*table.keys)
    for thing in row["things"]:
        if "status" in thing:
            _add_concept(labels, thing, where)
        else:
            _add_object(labels, thing, where)
    return Example(row["image_id"], pixels, width, height, labels.concepts())


def _file_bytes(path: str | None, where: str) -> bytes:
    if not path:
        raise ValueError(f"{where} has no picture; expected its bytes or its file. Remove the row.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{where}: picture {path} cannot be read ({error.strerror}); expected the file.") from error


def _add_concept(labels: PictureLabels, thing: Row, where: str) -> None:
    key, status = phrase_key(thing["phrase"]), thing["status"]
    masks, boxes = list(thing.get("masks") or ()), list(thing.get("boxes") or ())
    if status not in ("positive", "absent", "unknown") or (status == "positive") != bool(masks or boxes):
        raise ValueError(
            f"{where}: {thing['phrase']!r} is {status!r} with {len(masks)} masks and {len(boxes)} boxes; expected "
            "objects where it is 'positive', none where it is 'absent' or 'unknown'."
        )
    if status == "unknown":
        labels.mark_unknown(key)
    elif status == "absent":
        labels.mark_absent(key)
    for mask in masks:
        labels.add_mask(key, fitting_mask_of(mask, labels.width, labels.height, where), where)
    for box in () if masks else boxes:
        labels.add_box(key, box, where)


def _add_object(labels: PictureLabels, thing: Row, where: str) -> None:
    name, segmentation = thing["phrase"], thing.get("segmentation")
    if thing.get("iscrowd") or thing.get("is_crowd"):
        labels.add_unusable(name)
    elif isinstance(segmentation, dict) and segmentation.get("counts"):
        labels.add_mask(name, fitting_mask_of(segmentation, labels.width, labels.height, where), where)
    elif isinstance(segmentation, list) and segmentation:
        polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
        labels.add_mask(name, mask_of_polygons(polygons, labels.width, labels.height, where), where)
    else:
        x, y, w, h = thing["bbox"]
        labels.add_box(name, (x, y, x + w, y + h), where)
