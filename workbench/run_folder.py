"""The folder of a job: what may lie in it, whose it is, and what a stopped job left there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sam3.files import write_text
from workbench.recipe import LabelledPictures, PictureSource, Recipe, load_recipe, save_recipe, settings

OUTPUTS = (
    "run.json",
    "recipe.yaml",
    "before.json",
    "after.json",
    "comparison.json",
    "negatives.json",
    "retention.json",
    "calibration.json",
    "folds",
    "report.html",
    "figures",
    "log.jsonl",
    "state.pt",
    "adapter",
    "adapter_best",
)


def check_writable(out: Path) -> None:
    """Raises ValueError when the folder cannot be made or written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"the folder {out} cannot be written ({error.strerror}); choose another one") from error


def claim(out: Path, recipe: Recipe, identity: dict[str, Any], resume: bool) -> None:
    """Makes the folder the folder of this job, or refuses it."""
    path = out / "run.json"
    found = [name for name in OUTPUTS if (out / name).exists()]
    if found and not path.exists():
        raise ValueError(
            f"{out} holds {found[0]}, which no job of this workbench wrote there; choose a new folder, so that "
            "nothing is overwritten"
        )
    if found and not resume:
        for name in reversed(found):  # run.json last, so that the folder stays ours until it is empty
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    elif found:
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            differences = _differences(other, identity)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose a new folder") from error
        if differences:
            raise ValueError(
                f"{out} holds another job: {'; '.join(differences)}. Choose a new folder, or delete what it holds and "
                "start anew with resume=False (on the command line: --restart)"
            )
    write_text(path, json.dumps(identity, indent=1, ensure_ascii=False))
    if not (out / "recipe.yaml").exists():
        save_recipe(recipe, out / "recipe.yaml")


def holds_settings_of(out: Path, recipe: Recipe) -> bool:
    """Whether the folder was filled with these settings, as far as the recipe in it tells; `claim` also compares what
    is in the files."""
    if not (out / "run.json").is_file():
        return False
    try:
        kept = load_recipe(out / "recipe.yaml")
    except ValueError:  # damaged, or of another version
        return False
    elsewhere = {"model": None, "learn": None, "test": None}
    return (
        settings(kept) | elsewhere == settings(recipe) | elsewhere
        and _is_same_model(kept.model, recipe.model)
        and all(_is_same_source(there, here) for there, here in ((kept.learn, recipe.learn), (kept.test, recipe.test)))
    )


def _is_same_model(there: str, here: str) -> bool:
    """Names as they are; files by where they lie, however that is written."""
    is_file = "tiny" not in (there, here) and Path(there).exists() and Path(here).exists()
    return there == here or (is_file and _is_same_place(there, here))


def _is_same_source(there: PictureSource, here: PictureSource) -> bool:
    """Rendered pictures by all their settings; files by where they lie, or by their names where they were moved."""
    if not isinstance(there, LabelledPictures) or not isinstance(here, LabelledPictures):
        return there == here
    places = ((there.annotations, here.annotations), (there.images, here.images))
    return all(_is_same_place(old, new) or (not old.exists() and old.name == new.name) for old, new in places)


def _is_same_place(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _differences(other: dict[str, Any], identity: dict[str, Any], prefix: str = "") -> list[str]:
    differences = []
    for key in dict.fromkeys((*other, *identity)):
        there, here = other.get(key), identity.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            differences += _differences(there, here, f"{prefix}{key}.")
        elif prefix:
            differences.append(f"{prefix.removeprefix('recipe.')}{key} is {there!r} there and {here!r} here")
        else:
            differences.append(f"the {key} differ")
    return differences


def what_is_kept(out: str | Path) -> str:
    """One sentence on what a stopped job left in its folder and how to go on."""
    out = Path(out)
    found = [name for name in OUTPUTS if (out / name).exists() and name not in ("run.json", "recipe.yaml", "state.pt")]
    if not found:
        return f"Nothing was finished yet in {out}; the same command starts again."
    log, steps = out / "log.jsonl", ""
    if log.exists():
        steps = f" (training up to step {len(log.read_text(encoding='utf-8').splitlines())})"
    return f"{out} keeps {', '.join(found)}{steps}; the same command goes on from there."
