"""NIfTI and DICOM: windows, how slices lie, label values, series in order, files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from workbench.domains.medical import WINDOWS, Window, read_dicom, read_nifti, window_of

NAMES = {1: "liver", 2: "spleen"}


def save(array: np.ndarray, file: Path, affine: np.ndarray | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 5, 1]) if affine is None else affine), file)
    return file


@pytest.fixture
def volume(tmp_path: Path) -> tuple[Path, Path]:
    """A volume (right, front, head) of 6 x 8 x 4 voxels: one bright voxel with label 1 at the patient's right front."""
    values, labels = np.full((6, 8, 4), -1000, np.int16), np.zeros((6, 8, 4), np.uint8)
    values[5, 7, 3], labels[5, 7, 3] = 1000, 1
    labels[0, 0, 0], labels[3, 0, 0] = 2, 2
    return save(values, tmp_path / "ct.nii.gz"), save(labels, tmp_path / "ct_labels.nii.gz")


@pytest.mark.parametrize(
    ("axis", "slices", "size", "number"),
    [("axial", 4, (6, 8), 3), ("coronal", 8, (6, 4), 7), ("sagittal", 6, (8, 4), 5)],
)
def test_slices_lie_as_a_radiologist_sees_them(volume, axis, slices, size, number):
    data = read_nifti(volume[0], labels=volume[1], names=NAMES, axis=axis, window="bone").examples
    assert len(data) == slices and (data[0].width, data[0].height) == size
    example = data[number]
    assert example.image_id == f"ct_{axis}_{number:04d}"
    liver = example.concept("liver")
    assert liver.boxes_xyxy_px.tolist() == [[0, 0, 1, 1]]  # right, front, head: at the upper left in every direction
    assert example.load_image()[0, 0].tolist() == [212] * 3 and example.load_image()[-1, -1].tolist() == [0] * 3
    assert data[number - 1].concept("liver").status == "absent"


def test_volumes_stored_the_other_way_round_are_turned(volume, tmp_path):
    image, labels = (nibabel.load(file) for file in volume)
    flipped = np.diag([-2.0, 2, 5, 1])
    flipped[0, 3] = 10
    files = [
        save(np.asarray(one.dataobj)[::-1], tmp_path / f"flipped_{n}.nii", flipped)
        for n, one in enumerate((image, labels))
    ]
    straight = read_nifti(volume[0], labels=volume[1], names=NAMES).examples
    turned = read_nifti(files[0], labels=files[1], names=NAMES).examples
    assert all((a.load_image() == b.load_image()).all() for a, b in zip(straight, turned, strict=True))


def test_a_decathlon_folder_with_limit_and_parts(volume, tmp_path):
    root = tmp_path / "Task09"
    for number, (file, folder) in enumerate(zip(volume, ("imagesTr", "labelsTr"), strict=True)):
        name = "ct_0000.nii.gz" if number == 0 else "ct.nii.gz"
        (root / folder).mkdir(parents=True)
        (root / folder / name).write_bytes(file.read_bytes())
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "2": "spleen"}}))
    reading = read_nifti(root, split_parts=True, phrases={"spleen": "the spleen"})
    assert reading.examples[0].concept("the spleen").num_objects == 2
    assert [finding.kind for finding in reading.findings] == ["ignored value"]
    assert [example.image_id for example in read_nifti(root, limit=2).examples] == [
        "ct_0000_axial_0001",
        "ct_0000_axial_0003",
    ]
    assert read_nifti(root).examples[0].concept("spleen").num_objects == 1


def test_windows():
    assert window_of("brain") == WINDOWS["brain"] and window_of("10,20") == Window(10, 20) and window_of(None) is None
    for wrong in ("foot", "40", "40,0", "40,-3"):
        with pytest.raises(ValueError, match="expected one of lung, bone, soft-tissue, brain"):
            window_of(wrong)


def test_volumes_that_do_not_fit_are_named(volume, tmp_path):
    with pytest.raises(ValueError, match="expected the label volume and the names"):
        read_nifti(volume[0])
    other = save(np.zeros((6, 8, 5), np.uint8), tmp_path / "other.nii")
    with pytest.raises(ValueError, match=r"has shape \(6, 8, 4\), .*other.nii \(6, 8, 5\)"):
        read_nifti(volume[0], labels=other, names=NAMES)
    with pytest.raises(ValueError, match="axis is 'oblique'"):
        read_nifti(volume[0], labels=volume[1], names=NAMES, axis="oblique")
    (tmp_path / "broken.nii").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.nii cannot be read"):
        read_nifti(tmp_path / "broken.nii", labels=volume[1], names=NAMES)
    with pytest.raises(ValueError, match="has no folders imagesTr and labelsTr"):
        read_nifti(tmp_path, names=NAMES)
    with pytest.raises(ValueError, match="limit is 0"):
        read_nifti(volume[0], labels=volume[1], names=NAMES, limit=0)


def dicom(file: Path, place: float, series: str, **more) -> None:
    """One slice of 8 x 6 pixels whose stored values are 1024 + 10 * place."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID, header.Modality = series, "CT"
    header.Rows, header.Columns, header.SamplesPerPixel = 6, 8, 1
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PhotometricInterpretation = "MONOCHROME2"
    header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
    header.RescaleSlope, header.RescaleIntercept = 1, -1024
    header.PixelData = np.full((6, 8), 1024 + 10 * place, np.uint16).tobytes()
    for name, value in more.items():
        setattr(header, name, value)
    header.save_as(file, enforce_file_format=True)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder, uid = tmp_path / "series", generate_uid()
    folder.mkdir()
    for name, place in (("a", 3), ("b", 1), ("c", 2)):
        dicom(folder / f"{name}.dcm", place, uid)
    (folder / "notes.txt").write_text("no picture")
    return folder


def grey(example) -> int:
    return int(example.load_image()[0, 0, 0])


def test_a_series_is_read_in_the_order_of_its_positions(series):
    data = read_dicom(series, window=Window(20, 40)).examples
    assert [example.image_id for example in data] == ["b.dcm", "c.dcm", "a.dcm"]
    assert [grey(example) for example in data] == [64, 128, 191]  # 10, 20, 30 Hounsfield units in 0 to 40
    assert data[0].concepts == () and len(read_dicom(series, limit=1).examples) == 1


def test_the_windows_and_signs_of_the_files_are_followed(series):
    uid = pydicom.dcmread(series / "a.dcm").SeriesInstanceUID
    dicom(series / "a.dcm", 3, uid, WindowCenter=[30, 50], WindowWidth=[20, 9], PhotometricInterpretation="MONOCHROME1")
    assert grey(read_dicom(series).examples[2]) == 127
    assert grey(read_dicom(series, window="40,40").examples[2]) == 255 - 64


def test_labels_come_by_name_or_by_order(series, tmp_path):
    areas = np.zeros((3, 6, 8), np.uint8)
    areas[0, 2:4, 2:4], areas[1, :2, :2] = 1, 2
    for folder, names in (("by_name", "bca"), ("by_order", "xyz")):
        (tmp_path / folder).mkdir()
        for area, name in zip(areas, names, strict=True):
            Image.fromarray(area).save(tmp_path / folder / f"{name}.png")
        data = read_dicom(series, labels=tmp_path / folder, names=NAMES).examples
        assert [[concept.status for concept in example.concepts] for example in data] == [
            ["positive", "absent"],
            ["absent", "positive"],
            ["absent", "absent"],
        ]
    (tmp_path / "by_order" / "x.png").unlink()
    with pytest.raises(ValueError, match="holds 2 label pictures, the series 3 slices"):
        read_dicom(series, labels=tmp_path / "by_order", names=NAMES)
    with pytest.raises(ValueError, match="labels without names"):
        read_dicom(series, labels=tmp_path / "by_name")


def test_series_that_cannot_be_read_are_named(series, tmp_path):
    with pytest.raises(ValueError, match="holds no DICOM picture"):
        read_dicom(tmp_path)
    dicom(series / "d.dcm", 4, generate_uid())
    with pytest.raises(ValueError, match="holds 2 series; expected one"):
        read_dicom(series)
