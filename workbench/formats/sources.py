"""Which form do these labels have? `read_labels` finds out from names and contents and calls the reader, so that a
command line needs to know no form."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench.formats.names import NAME_FILES
from workbench.formats.reading import PICTURE_SUFFIXES, Reading

# Imported when needed: some readers load large packages.
READERS = {
    "coco": "workbench.formats.coco:read_coco",
    "yolo": "workbench.formats.yolo:read_yolo",
    "masks": "workbench.formats.mask_folders:read_mask_folders",
    "label-maps": "workbench.formats.mask_folders:read_label_maps",
    "saco": "workbench.formats.saco:read_saco",
    "hub": "workbench.formats.hub:read_hub",
    "nifti": "workbench.domains.medical:read_nifti",
    "dicom": "workbench.domains.medical:read_dicom",
    "waymo-boxes": "workbench.domains.vehicles:read_waymo_boxes",
    "waymo-segments": "workbench.domains.vehicles:read_waymo_segments",
    "icdar2015": "workbench.domains.text_scenes:read_icdar2015",
    "textocr": "workbench.domains.text_scenes:read_textocr",
    "coco-text": "workbench.domains.text_scenes:read_coco_text",
    "total-text": "workbench.domains.text_scenes:read_total_text",
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def read_labels(source: str | Path, form: str | None = None, **options: Any) -> Reading:
    """Reads labels of any form that `READERS` lists.

    Args:
        source: file or folder.
        form: a key of `READERS`; found out when None.
        options: keyword arguments of the reader; those that are None are left out.

    Raises:
        ValueError: the form is not known, the reader takes no such option, or whatever the reader refuses.
    """
    source = Path(source)
    form = form or detect_form(source)
    if form not in READERS:
        raise ValueError(f"format is {form!r}; expected one of {', '.join(READERS)}.")
    if not source.exists():
        raise ValueError(f"{source} does not exist; expected a file or folder of labels. Check the path.")
    module, name = READERS[form].split(":")
    read: Callable[..., Reading] = getattr(import_module(module), name)
    given = {key: value for key, value in options.items() if value is not None}
    known = set(inspect.signature(read).parameters) - {"source"}
    foreign = sorted(set(given) - known)
    if foreign:
        raise ValueError(
            f"{form} takes no {_as_options(foreign)}; expected only {_as_options(sorted(known))}. Leave it out, or "
            "name another format."
        )
    return read(source, **given)


def _as_options(names: list[str]) -> str:
    """Keyword arguments as the command line spells them."""
    spelt = {"exhaustive": "--partial", "form": "--format"}
    return ", ".join(spelt.get(name, f"--{name}".replace("_", "-")) for name in names)


def detect_form(source: Path) -> str:
    """The form of a file or folder, as a key of `READERS`.

    Raises:
        ValueError: it does not exist, is an archive, or looks like none of the known forms.
    """
    if not source.exists():
        raise ValueError(f"{source} does not exist; expected a file or folder of labels. Check the path.")
    form = _form_of_folder(source) if source.is_dir() else _form_of_file(source)
    if form is None:
        raise ValueError(
            f"{source}: the form of the labels was not recognised; expected one of {', '.join(READERS)}. Name it with "
            "--format, and see data/README.md for how each lies on disk."
        )
    return form


def _form_of_file(file: Path) -> str | None:
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith(_ARCHIVES):
        raise ValueError(f"{file} is an archive; expected a folder. Unpack it first and name the folder.")
    by_suffix = {".parquet": "hub", ".yaml": "yolo", ".yml": "yolo"}
    return _form_of_json(file) if file.suffix.lower() == ".json" else by_suffix.get(file.suffix.lower())


def _form_of_json(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("imgs"), dict) and isinstance(content.get("anns"), dict):
        return "textocr" if any("points" in entry for entry in content["anns"].values()) else "coco-text"
    images = content.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict) and "annotations" in content:
        return "saco" if "text_input" in images[0] else "coco"
    return None


def _form_of_folder(folder: Path) -> str | None:
    def has(*patterns: str) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in patterns)

    if has("imagesTr"):
        return "nifti"
    if has("camera_image"):
        return "waymo-segments" if has("camera_segmentation") else "waymo-boxes"
    if has("dataset_dict.json", "state.json", "metadata.*", "*/metadata.*", "*.parquet", "data/*.parquet"):
        return "hub"
    if has("data.yaml", "data.yml", "dataset.yaml"):
        return "yolo"
    if has("poly_gt_*.txt"):
        return "total-text"
    if has("gt_*.txt"):
        return "icdar2015"
    for file in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        form = _form_of_json(file)
        if form in ("saco", "coco"):
            return form
    if has("images") and has("masks", "labels", "annotations") and not has("classes.txt", "labels/classes.txt"):
        is_per_object = any(
            path.is_dir() for name in ("masks", "labels", "annotations") for path in folder.glob(f"{name}/*")
        )
        if is_per_object:
            return "masks"
        if has(*NAME_FILES) and has(*(f"{name}/*{end}" for name in ("masks", "labels") for end in PICTURE_SUFFIXES)):
            return "label-maps"
    if has("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels"):
        return "yolo"
    return "dicom" if any(_is_dicom(path) for path in sorted(folder.glob("*"))[:20]) else None


def _is_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
