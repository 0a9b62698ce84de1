"""Medical volumes as pictures: NIfTI volumes with label volumes (one pair of files, or a folder as the Medical
Segmentation Decathlon and nnU-Net lay it out) and DICOM series with label PNGs. A window turns measured values into
grey, an axis cuts the volume into slices, a list of names says what label values mean.

Pictures that already are PNG or JPEG with label maps are read by `formats.mask_folders.read_label_maps`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from workbench.examples import Example, ExampleSet
from workbench.formats.mask_folders import add_label_map, unnamed_values
from workbench.formats.names import read_names
from workbench.formats.reading import Finding, PhraseTable, PictureLabels, Reading, path_inside, pictures_in

Axis = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Window:
    """The range of values that is shown as black to white: level is its middle, width its extent, both in the volume's
    unit (Hounsfield units for CT)."""

    level: float
    width: float


WINDOWS = {
    "lung": Window(-600, 1500),
    "bone": Window(400, 1800),
    "soft-tissue": Window(40, 400),
    "brain": Window(40, 80),
    "liver": Window(60, 160),
    "mediastinum": Window(50, 350),
}


def window_of(text: str | Window | None) -> Window | None:
    """A window by name or as "level,width"; None stays None, which means: the file's own or the volume's range.

    Raises:
        ValueError: neither a name nor two numbers, or a width that is not above zero.

    Example:
        >>> window_of("lung"), window_of("40,80").width
        (Window(level=-600, width=1500), 80.0)
    """
    if text is None or isinstance(text, Window):
        return text
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        level, width = (float(part) for part in text.split(","))
    except ValueError:
        level, width = 0.0, 0.0
    if not width > 0:
        raise ValueError(f"window is {text!r}; expected one of {', '.join(WINDOWS)}, or LEVEL,WIDTH such as 40,400.")
    return Window(level, width)


def shown(values: np.ndarray, window: Window) -> np.ndarray:
    """Values (H,W) as a grey picture (H,W,3) uint8: black below the window, white above it.

    Example:
        >>> shown(np.array([[-160.0, 40.0, 240.0]]), WINDOWS["soft-tissue"])[0, :, 0].tolist()
        [0, 128, 255]
    """
    scaled = (values - (window.level - window.width / 2)) / window.width
    grey = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def read_nifti(
    source: str | Path,
    *,
    labels: str | Path | None = None,
    names: str | Path | Mapping[int, str] | None = None,
    window: str | Window | None = None,
    axis: Axis = "axial",
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    split_parts: bool = False,
    limit: int | None = None,
) -> Reading:
    """Reads slices of NIfTI volumes, as a radiologist sees them: the patient's right on the left, the head or chest up.

    Args:
        source: a volume (.nii, .nii.gz), or a folder with `imagesTr`, `labelsTr` and `dataset.json`.
        labels: the label volume that belongs to a single volume.
        names: label value -> name, or a file of `read_names`; the folder's `dataset.json` when left out.
        window: name of `WINDOWS`, "level,width" or a Window; the 1st to 99th percentile of the volume when left out.
        axis: direction of the slices; pixels are voxels, nothing is resampled.
        phrases: name -> phrase to search for (None drops it).
        exhaustive: whether every name was looked for in every slice.
        split_parts: make every connected region of a slice an object; otherwise each value is one object per slice.
        limit: take this many slices, evenly spaced, of each volume.

    Returns:
        One set; `image_id` is the volume's name with axis and slice number.

    Raises:
        ValueError: files that do not fit together; names them.
    """
    source = Path(source)
    pairs, names = _nifti_pairs(source, labels, names)
    values = read_names(names)
    table = PhraseTable(values, phrases, str(source))
    findings: list[Finding] = list(table.twins())
    unnamed: dict[int, str] = {}
    chosen = window_of(window)
    examples = []
    for volume_file, label_file in pairs:
        volume, areas = _nifti_volume(volume_file, label_file)
        own = chosen or _percentile_window(volume)
        present = np.unique(areas).tolist()
        unnamed |= {value: str(label_file) for value in present if value and value not in values}
        for number, picture, area in _slices(volume, areas, axis, limit):
            image_id = f"{_stem(volume_file)}_{axis}_{number:04d}"
            height, width = picture.shape
            found = PictureLabels(image_id, width, height, table, findings)
            add_label_map(found, area, image_id, exhaustive=exhaustive, split_parts=split_parts)
            examples.append(Example(image_id, shown(picture, own), width, height, found.concepts()))
    findings += unnamed_values(unnamed)
    return Reading("nifti", (ExampleSet(_stem(source), tuple(examples), exhaustive=exhaustive),), tuple(findings))


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _nifti_pairs(
    source: Path, labels: str | Path | None, names: str | Path | Mapping[int, str] | None
) -> tuple[list[tuple[Path, Path]], str | Path | Mapping[int, str]]:
    """Volumes with their label volumes, and the names of the labels."""
    if source.is_file():
        if labels is None or names is None:
            raise ValueError(
                f"{source}: labels {labels}, names {names}; expected the label volume and the names of its values. "
                "Give both (--labels, --names)."
            )
        return [(source, Path(labels))], names
    images, masks = source / "imagesTr", source / "labelsTr"
    if not images.is_dir() or not masks.is_dir():
        raise ValueError(
            f"{source} has no folders imagesTr and labelsTr; expected both, as in the Medical Segmentation Decathlon "
            "and nnU-Net, or a single volume file with --labels and --names."
        )
    pairs = []
    for file in sorted(images.glob("[!.]*.nii*")):
        stem = _stem(file)
        tries = [stem, stem.removesuffix("_0000")]
        labels_of = [masks / f"{name}{end}" for name in tries for end in (".nii.gz", ".nii")]
        label = next(filter(Path.is_file, labels_of), None)
        if label is not None:
            pairs.append((path_inside(source, f"imagesTr/{file.name}", str(source)), label))
    if not pairs:
        raise ValueError(f"{source}: no volume of imagesTr has labels of the same name in labelsTr; expected some.")
    return pairs, names if names is not None else source / "dataset.json"


def _nifti_volume(volume_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels, (R,A,S): the axes run to the patient's right, front and head."""
    nibabel = _package("nibabel")
    read = []
    for file in (volume_file, label_file):
        try:
            image = nibabel.as_closest_canonical(nibabel.load(str(file)))
            read.append((np.asanyarray(image.dataobj), image.affine))
        except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
            raise ValueError(f"{file} cannot be read ({error}); expected a NIfTI volume (.nii, .nii.gz).") from error
    (volume, place), (areas, label_place) = read
    if volume.ndim != 3 or volume.shape != areas.shape or not np.allclose(place, label_place, atol=1e-2):
        raise ValueError(
            f"{volume_file} has shape {volume.shape}, {label_file} {areas.shape}; expected three dimensions, the "
            "same shape and the same place in space for both. Resample the labels to the volume, or take one volume "
            "of several."
        )
    return np.asarray(volume, np.float32), np.rint(areas).astype(np.int64)


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"the package {name} is not installed; expected it. Run: pip install '.[medical]'") from error


def _percentile_window(volume: np.ndarray) -> Window:
    low, high = (float(value) for value in np.percentile(volume, (1, 99)))
    return Window((low + high) / 2, max(high - low, 1e-6))


def _slices(
    volume: np.ndarray, areas: np.ndarray, axis: Axis, limit: int | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, values and labels of slices of an (R,A,S) volume, rows downwards."""
    if axis not in get_args(Axis):
        raise ValueError(f"axis is {axis!r}; expected one of {', '.join(get_args(Axis))}.")
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[axis]
    for number in chosen_slices(volume.shape[across], limit):
        cut = [np.take(values, number, axis=across)[::-1, ::-1].T for values in (volume, areas)]
        yield number, cut[0], cut[1]


def chosen_slices(count: int, limit: int | None) -> list[int]:
    """Slice numbers, evenly spaced when fewer than all are wanted.

    Example:
        >>> chosen_slices(100, 4)
        [12, 37, 62, 87]
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1 slice, or none given to take all.")
    if limit is None or limit >= count:
        return list(range(count))
    return [int((place + 0.5) * count / limit) for place in range(limit)]


def read_dicom(
    source: str | Path,
    *,
    labels: str | Path | None = None,
    names: str | Path | Mapping[int, str] | None = None,
    window: str | Window | None = None,
    phrases: Mapping[str, str | None] | None = None,
    exhaustive: bool = True,
    split_parts: bool = False,
    limit: int | None = None,
) -> Reading:
    """Reads the slices of one DICOM series, in the order of their position.

    Args:
        source: folder with the files of one series.
        labels: folder of label PNGs (as in CHAOS): either named like the files, or as many as there are slices and in
            the same order. Without it the pictures come without labels.
        names: label value -> name, or a file of `read_names`; needed with `labels`.
        window: as in `read_nifti`; the file's own window, else its 1st to 99th percentile, when left out.
        phrases, exhaustive, split_parts, limit: as in `read_nifti`.

    Returns:
        One set; `image_id` is the file's name. Values are scaled by rescale slope and intercept; MONOCHROME1 is
        inverted.

    Raises:
        ValueError: several series, files without a picture, labels that do not fit; names them.
    """
    source = Path(source)
    files = _series(source)
    if labels is not None and names is None:
        raise ValueError(f"{source}: labels without names; expected the names of the label values (--names).")
    values = {} if names is None or labels is None else read_names(names)
    table = PhraseTable(values, phrases, str(source)) if values else None
    findings: list[Finding] = []
    maps = _label_files(Path(labels), [file for file, _ in files]) if labels is not None else {}
    examples = []
    for number in chosen_slices(len(files), limit):
        file, header = files[number]
        picture = _dicom_picture(file, header, window_of(window))
        height, width = picture.shape[:2]
        concepts: tuple[Any, ...] = ()
        if table is not None:
            found = PictureLabels(file.name, width, height, table, findings)
            area = _label_png(maps[file], height, width)
            add_label_map(found, area, str(maps[file]), exhaustive=exhaustive, split_parts=split_parts)
            concepts = found.concepts()
        examples.append(Example(file.name, picture, width, height, concepts))
    return Reading("dicom", (ExampleSet(source.name, tuple(examples), exhaustive=exhaustive),), tuple(findings))


def _series(source: Path) -> list[tuple[Path, Any]]:
    """The picture files of a series with their headers, sorted along the series."""
    pydicom = _package("pydicom")
    found = []
    for name in sorted(path.name for path in source.iterdir() if path.is_file()) if source.is_dir() else []:
        file = path_inside(source, name, str(source))
        try:
            header = pydicom.dcmread(file)
        except pydicom.errors.InvalidDicomError:
            continue
        if "PixelData" in header:
            found.append((file, header))
    if not found:
        raise ValueError(f"{source} holds no DICOM picture; expected a folder with the files of one series.")
    series = {str(header.get("SeriesInstanceUID", "")) for _, header in found}
    if len(series) > 1:
        raise ValueError(f"{source} holds {len(series)} series; expected one. Put each into a folder of its own.")
    return sorted(found, key=lambda item: (_place_in_series(item[1]), item[0].name))


def _place_in_series(header: Any) -> float:
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if position and orientation:
        normal = np.cross([float(value) for value in orientation[:3]], [float(value) for value in orientation[3:]])
        return float(normal @ [float(value) for value in position])
    return float(header.get("InstanceNumber") or 0)


def _dicom_picture(file: Path, header: Any, window: Window | None) -> np.ndarray:
    try:
        stored = header.pixel_array
    except (AttributeError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{file}: the picture cannot be decoded ({error}); expected uncompressed pixels or an installed decoder. "
            "For compressed files: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        ) from error
    if stored.ndim != 2:
        raise ValueError(f"{file}: the picture has shape {stored.shape}; expected one grey slice per file.")
    values = stored.astype(np.float32) * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    if window is None and "WindowCenter" in header and "WindowWidth" in header:
        window = Window(*(float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth")))
    picture = shown(values, window or _percentile_window(values))
    return 255 - picture if header.get("PhotometricInterpretation") == "MONOCHROME1" else picture


def _label_files(folder: Path, files: list[Path]) -> dict[Path, Path]:
    """DICOM file -> label PNG, by name where all names agree, else by order."""
    maps = pictures_in(folder)
    by_stem = {file.stem: file for file in maps}
    if all(file.stem in by_stem for file in files):
        return {file: by_stem[file.stem] for file in files}
    if len(maps) != len(files):
        raise ValueError(
            f"{folder} holds {len(maps)} label pictures, the series {len(files)} slices; expected the same names or as "
            "many of each, in the same order."
        )
    return dict(zip(files, maps, strict=True))


def _label_png(file: Path, height: int, width: int) -> np.ndarray:
    with Image.open(file) as opened:
        area = np.array(opened)
    if area.shape != (height, width):
        raise ValueError(
            f"{file} has shape {area.shape}, its slice {(height, width)}; expected one grey value per pixel."
        )
    return area.astype(np.int64)
