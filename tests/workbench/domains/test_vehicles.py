"""Waymo Open Dataset v2 parquet: components joined by their keys, panoptic labels, groups, cameras."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from workbench.domains.vehicles import read_waymo_boxes, read_waymo_segments

WIDTH, HEIGHT = 48, 32
DRIVE = "10023947602400723454_1120_000_1140_000"


def encoded(array: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def keys(time: int, camera: int) -> dict:
    return {
        "index": f"{DRIVE};{time};{camera}",
        "key.segment_context_name": DRIVE,
        "key.frame_timestamp_micros": time,
        "key.camera_name": camera,
    }


def write(root: Path, component: str, rows: list[dict]) -> Path:
    folder = root / component
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{DRIVE}.parquet")
    return folder / f"{DRIVE}.parquet"


def box(time: int, camera: int, kind: int, centre: tuple[float, float], size: tuple[float, float]) -> dict:
    columns = zip(("center.x", "center.y", "size.x", "size.y"), (*centre, *size), strict=True)
    values = {f"[CameraBoxComponent].box.{name}": float(value) for name, value in columns}
    return keys(time, camera) | values | {"[CameraBoxComponent].type": kind, "key.camera_object_id": "x"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "training"
    picture = encoded(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "JPEG")
    rows = [keys(time, camera) | {"[CameraImageComponent].image": picture} for time in (100, 200) for camera in (1, 4)]
    write(root, "camera_image", rows)
    boxes = [box(100, 1, 1, (20, 10), (10, 6)), box(100, 1, 1, (40, 20), (4, 4)), box(200, 4, 2, (5, 5), (2, 6))]
    write(root, "camera_box", [*boxes, box(200, 1, 3, (9, 9), (4, 4))])
    panoptic = np.zeros((HEIGHT, WIDTH), np.uint16)
    panoptic[20:, :] = 20 * 1000  # road
    panoptic[4:9, 2:9], panoptic[4:9, 12:19] = 2 * 1000 + 1, 2 * 1000 + 2  # two cars
    panoptic[10:14, 30:40] = 9 * 1000  # a group of pedestrians
    label = "[CameraSegmentationLabelComponent].panoptic_label"
    write(root, "camera_segmentation", [keys(200, 1) | {label: encoded(panoptic, "PNG"), f"{label}_divisor": 1000}])
    return root


def test_boxes_are_joined_with_their_pictures(release):
    data = read_waymo_boxes(release).examples
    assert [example.image_id for example in data] == [
        f"{DRIVE}_100_front",
        f"{DRIVE}_100_side_left",
        f"{DRIVE}_200_front",
        f"{DRIVE}_200_side_left",
    ]
    assert data[0].concept("vehicle").boxes_xyxy_px.tolist() == [[15, 7, 25, 13], [38, 18, 42, 22]]
    assert {c.phrase: c.status for c in data[3].concepts} == {
        "vehicle": "absent",
        "pedestrian": "positive",
        "cyclist": "absent",
    }
    assert data[2].concept("sign") is None
    front = read_waymo_boxes(release, camera="front", limit=1, phrases={"vehicle": "car or truck"}).examples
    assert len(front) == 1 and front[0].concept("car or truck").num_objects == 2


def test_panoptic_labels_become_objects(release):
    (example,) = read_waymo_segments(release).examples
    assert example.image_id == f"{DRIVE}_200_front"
    assert example.concept("car").masks.sum((1, 2)).tolist() == [35, 35]
    assert example.concept("road").masks.sum() == 12 * WIDTH
    assert example.concept("pedestrian").status == "unknown"
    assert example.concept("bus").status == "absent"


def test_what_is_missing_is_named(release):
    with pytest.raises(ValueError, match="camera is 'rear'; expected one of front"):
        read_waymo_boxes(release, camera="rear")
    with pytest.raises(ValueError, match="no folder camera_image"):
        read_waymo_boxes(release / "camera_box")
    file = write(release, "camera_box", [keys(100, 1)])
    with pytest.raises(ValueError, match=r"has no column '\[CameraBoxComponent\].type'"):
        read_waymo_boxes(release)
    file.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=f"{DRIVE}.parquet cannot be read"):
        read_waymo_boxes(release)
    file.rename(file.with_name("other.parquet"))
    with pytest.raises(ValueError, match="none of the 1 files in camera_box is also in camera_image"):
        read_waymo_boxes(release)
    write(release, "camera_image", [keys(200, 1) | {"[CameraImageComponent].image": b"no picture"}])
    with pytest.raises(ValueError, match=f"{DRIVE}_200_front: the picture cannot be read"):
        read_waymo_segments(release)
