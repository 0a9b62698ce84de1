"""Street scenes of the Waymo Open Dataset, perception v2 (parquet): one folder per component, one file per drive, rows
joined by their key columns. Read are the components camera_image, camera_box and camera_segmentation."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workbench.examples import Example, ExampleSet
from workbench.formats.reading import Finding, PhraseTable, PictureLabels, Reading, path_inside, picture_of_bytes

CAMERAS = {1: "front", 2: "front_left", 3: "front_right", 4: "side_left", 5: "side_right"}
BOX_TYPES = {1: "vehicle", 2: "pedestrian", 3: "sign", 4: "cyclist"}
_LABELLED_BOX_TYPES = (1, 2, 4)  # signs are labelled in the laser scan only

SEGMENT_TYPES = {
    1: "own vehicle",
    2: "car",
    3: "truck",
    4: "bus",
    5: "other large vehicle",
    6: "bicycle",
    7: "motorcycle",
    8: "trailer",
    9: "pedestrian",
    10: "cyclist",
    11: "motorcyclist",
    12: "bird",
    13: "ground animal",
    14: "construction cone",
    15: "pole",
    16: "pedestrian object",
    17: "sign",
    18: "traffic light",
    19: "building",
    20: "road",
    21: "lane marker",
    22: "road marker",
    23: "sidewalk",
    24: "vegetation",
    25: "sky",
    26: "ground",
    27: "dynamic",
    28: "static",
}
_COUNTABLE = frozenset(range(2, 14))  # of these a region without an instance number is a group

_KEYS = ("key.segment_context_name", "key.frame_timestamp_micros", "key.camera_name")
_IMAGE = "[CameraImageComponent].image"
_BOX = tuple(
    f"[CameraBoxComponent].{name}" for name in ("type", "box.center.x", "box.center.y", "box.size.x", "box.size.y")
)
_DIVISOR = "[CameraSegmentationLabelComponent].panoptic_label_divisor"
_PANOPTIC = "[CameraSegmentationLabelComponent].panoptic_label"

Key = tuple[Any, ...]


def read_waymo_boxes(
    source: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    camera: str | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads camera_image with camera_box: vehicles, pedestrians and cyclists as boxes.

    Args:
        source: folder with the component folders, such as `training`.
        phrases: name of `BOX_TYPES` -> phrase to search for (None drops it).
        camera: one of `CAMERAS` by name; all when left out.
        limit: take the first pictures only.

    Returns:
        One set; a picture without a row in camera_box has none of the labelled types. Signs, which are not labelled
        in the cameras, are not mentioned. The pictures are held in memory.

    Raises:
        ValueError: missing components or columns, pictures that cannot be decoded; names the file.
    """
    source = Path(source)
    table = PhraseTable({key: BOX_TYPES[key] for key in _LABELLED_BOX_TYPES}, phrases, str(source))
    findings: list[Finding] = []
    examples: list[Example] = []
    for drive in _drives(source, "camera_box"):
        boxes: dict[Key, list[Mapping[str, Any]]] = {}
        for row in _rows(source, "camera_box", drive, (*_KEYS, *_BOX)):
            boxes.setdefault(_key(row), []).append(row)
        for row in _wanted_images(source, drive, camera, None):
            if limit is not None and len(examples) >= limit:
                break
            pixels, labels = _picture(row, table, findings)
            labels.mark_absent(*table.keys)
            for box in boxes.get(_key(row), ()):
                if box[_BOX[0]] in table.keys:
                    x, y, w, h = (float(box[column]) for column in _BOX[1:])
                    labels.add_box(box[_BOX[0]], (x - w / 2, y - h / 2, x + w / 2, y + h / 2), labels.where)
            examples.append(Example(labels.where, pixels, labels.width, labels.height, labels.concepts()))
    return Reading("waymo-boxes", (ExampleSet(source.name, tuple(examples)),), tuple(findings))


def read_waymo_segments(
    source: str | Path,
    *,
    phrases: Mapping[str, str | None] | None = None,
    camera: str | None = None,
    limit: int | None = None,
) -> Reading:
    """Reads camera_image with camera_segmentation: all 28 types as masks, for the pictures that have one.

    A panoptic label is type * divisor + instance. Instances are objects; a type without instances (road, sky) is one
    object. Pixels of a countable type with instance 0 are a group: without other objects the type is unknown there.

    Args:
        source: folder with the component folders, such as `training`.
        phrases: name of `SEGMENT_TYPES` -> phrase to search for (None drops it).
        camera, limit: as in `read_waymo_boxes`.

    Returns:
        One set. The pictures are held in memory.

    Raises:
        ValueError: missing components or columns, pictures that cannot be decoded; names the file.
    """
    source = Path(source)
    table = PhraseTable(SEGMENT_TYPES, phrases, str(source))
    findings: list[Finding] = []
    examples: list[Example] = []
    for drive in _drives(source, "camera_segmentation"):
        rows = _rows(source, "camera_segmentation", drive, (*_KEYS, _DIVISOR, _PANOPTIC))
        segments = {_key(row): row for row in rows}
        for row in _wanted_images(source, drive, camera, frozenset(segments)):
            if limit is not None and len(examples) >= limit:
                break
            pixels, labels = _picture(row, table, findings)
            labels.mark_absent(*table.keys)
            segment = segments[_key(row)]
            _add_panoptic(labels, _panoptic_of(segment[_PANOPTIC], labels), int(segment[_DIVISOR]))
            examples.append(Example(labels.where, pixels, labels.width, labels.height, labels.concepts()))
    return Reading("waymo-segments", (ExampleSet(source.name, tuple(examples)),), tuple(findings))


def _add_panoptic(labels: PictureLabels, panoptic: np.ndarray, divisor: int) -> None:
    if divisor < 1:
        raise ValueError(f"{labels.where}: panoptic_label_divisor is {divisor}; expected at least 1.")
    for value in np.unique(panoptic).tolist():
        kind, instance = divmod(value, divisor)
        if kind not in SEGMENT_TYPES:
            continue
        if instance == 0 and kind in _COUNTABLE:
            labels.add_unusable(kind)
        else:
            labels.add_mask(kind, panoptic == value, f"{labels.where}: label {value}")


def _panoptic_of(encoded: bytes, labels: PictureLabels) -> np.ndarray:
    """The panoptic values of a 16-bit PNG, (H,W) int64."""
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            panoptic = np.array(opened)
    except (OSError, SyntaxError, TypeError) as error:
        raise ValueError(f"{labels.where}: the panoptic label cannot be read ({error}); expected a PNG.") from error
    if panoptic.shape != (labels.height, labels.width):
        raise ValueError(
            f"{labels.where}: the panoptic label is {panoptic.shape}, the picture {labels.height, labels.width} "
            "(height, width); expected the same. Download the component again."
        )
    return panoptic.astype(np.int64)


def _picture(row: Mapping[str, Any], table: PhraseTable, findings: list[Finding]) -> tuple[np.ndarray, PictureLabels]:
    drive, time, camera = _key(row)
    where = f"{drive}_{time}_{CAMERAS.get(camera, camera)}"
    pixels = picture_of_bytes(row[_IMAGE], where)
    return pixels, PictureLabels(where, pixels.shape[1], pixels.shape[0], table, findings)


def _drives(source: Path, component: str) -> list[str]:
    """The file names that both camera_image and this component have."""
    for folder in (source / "camera_image", source / component):
        if not folder.is_dir():
            raise ValueError(
                f"{source} has no folder {folder.name}; expected the components camera_image and {component} side by "
                "side, as in the folder `training` of the release."
            )
    names = sorted(file.name for file in (source / component).glob("*.parquet"))
    both = [name for name in names if (source / "camera_image" / name).is_file()]
    if not both:
        raise ValueError(
            f"{source}: none of the {len(names)} files in {component} is also in camera_image; expected the same file "
            "names in both. Download both components of the same drives."
        )
    return both


def _wanted_images(
    source: Path, drive: str, camera: str | None, keys: frozenset[Key] | None
) -> Iterator[Mapping[str, Any]]:
    numbers = {name: number for number, name in CAMERAS.items()}
    if camera is not None and camera not in numbers:
        raise ValueError(f"camera is {camera!r}; expected one of {', '.join(numbers)}.")
    for row in _rows(source, "camera_image", drive, (*_KEYS, _IMAGE)):
        if camera is not None and row[_KEYS[2]] != numbers[camera]:
            continue
        if keys is None or _key(row) in keys:
            yield row


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in _KEYS)


def _rows(source: Path, component: str, drive: str, columns: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Rows of a component file with these columns, a few at a time."""
    import pyarrow
    import pyarrow.parquet

    file = path_inside(source, f"{component}/{drive}", str(source))
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            missing = [name for name in columns if name not in parquet.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"{file} has no column {missing[0]!r}; expected the Waymo Open Dataset v2 form. Its columns: "
                    f"{', '.join(parquet.schema_arrow.names)}."
                )
            for batch in parquet.iter_batches(batch_size=16, columns=list(columns)):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file} cannot be read ({error}); expected a parquet file. Download it again.") from error
