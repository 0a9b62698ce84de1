"""Where COCO files and their pictures lie: one file, a folder with a file per split, or a folder per split as Roboflow
exports it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.formats.reading import path_inside


def coco_files(source: Path) -> list[tuple[str, Path]]:
    """The COCO files of a source with the names of their splits.

    Raises:
        ValueError: there is none.
    """
    if source.is_file():
        return [(split_name(source), source)]
    folders = [source, source / "annotations", *sorted(path for path in source.glob("*") if path.is_dir())]
    files = dict.fromkeys(
        file for folder in folders for file in sorted(folder.glob("*.json")) if _looks_like_coco(file)
    )
    if not files:
        raise ValueError(
            f"{source} holds no COCO file; expected a JSON file with images, categories and annotations in it or in a "
            "folder per split (train, valid, test). Name the file itself, or check the path."
        )
    instances = [file for file in files if file.stem.startswith("instances_")]  # beside captions and key points
    return [
        (split_name(file), path_inside(source, str(file.relative_to(source)), str(source)))
        for file in instances or files
    ]


def _looks_like_coco(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= set(content):
        return False
    return not any("text_input" in entry for entry in content["images"][:1])


def split_name(file: Path) -> str:
    """`train` for train.json, instances_train2017.json and train/_annotations.coco.json."""
    if file.stem.startswith("_annotations"):
        return file.parent.name
    return re.sub(r"^(instances|annotations|labels)_(?=.)", "", file.stem)


def picture_folder(file: Path, content: Mapping[str, Any]) -> Path:
    """The folder in which the first picture of a COCO file lies."""
    names = [entry.get("file_name") for entry in content["images"]]
    name = next((name for name in names if isinstance(name, str)), "")
    split = split_name(file)
    beside = [file.parent / part for part in (f"images/{split}", "images", "", split)]
    above = [file.parent.parent / part for part in (split, f"images/{split}", "images")]
    for folder in (*beside, *above):
        if (folder / name).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in (*beside, *above))
    raise ValueError(
        f"{file}: picture {name!r} was looked for in {tried} and not found; expected it in one of them. Name "
        "the folder of the pictures (--images on the command line)."
    )
