"""A folder that is the app as a Hugging Face Space: the packages with their tiny weights, an example, and three files
that say how to start it. Nothing of it refers to the folder it came from.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path

from sam3.files import write_folder_atomically, write_text

_PACKAGES = ("sam3", "workbench", "apps")
_EXTRAS = ("data/coins", "recipes/coins.yaml", "recipes/shapes.yaml", "LICENSE")  # where the source tree is at hand
_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi")
_README = """---
title: {title}
emoji: 🔬
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
suggested_hardware: cpu-basic
short_description: Teach SAM 3 your pictures, and see whether it worked
license: apache-2.0
pinned: false
---

# {title}

Segment, label, adapt, compare, follow: SAM 3 in plain PyTorch, adapted to a handful of labelled pictures.

The model that comes along is **tiny**: it knows rendered shapes and colours, and becomes useful on your pictures after
learning from about ten of them. To use the released weights, which are gated, accept their licence, add a token of
yours as the secret `HF_TOKEN`, and set the variable `WORKBENCH_MODELS` to `tiny facebook/sam3`.

Without a GPU the processor answers. On ZeroGPU hardware every answer borrows a GPU, and a
training is done in parts of less than a minute, each of which counts towards the visitor's daily share; with a GPU of
the Space's own nothing is split.

What visitors bring is kept for a day at most, and not at all when the Space restarts.
"""
_APP = '''"""Starts the page: on the processor, on a GPU, or on one that is lent for each call (ZeroGPU)."""

import importlib.util
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  must come before torch

from apps.page import build_app, launch  # noqa: E402

models = tuple(os.environ.get("WORKBENCH_MODELS", "tiny").split())
demo = build_app(os.environ.get("WORKBENCH_DATA", "visitors"), models, keep_days=1.0)

if __name__ == "__main__":
    port = os.environ.get("GRADIO_SERVER_PORT")
    name = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
    launch(demo, server_name=name, server_port=int(port) if port else None, prevent_thread_lock=False)
'''


def write_space(out: str | Path, title: str = "SAM 3 Workbench") -> list[Path]:
    """Writes the folder, ready to be pushed, and gives its files.

    Args:
        out: must be empty or not there.
        title: of the Space.

    Raises:
        ValueError: the folder holds something, or the app is not installed.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose a new folder, so that nothing is overwritten")
    sources = {name: _place_of(name) for name in _PACKAGES}

    def write(draft: Path) -> None:
        for name, source in sources.items():
            shutil.copytree(source, draft / name, ignore=_SKIPPED)
        root = sources["sam3"].parent
        for extra in _EXTRAS:
            target = draft / extra
            target.parent.mkdir(parents=True, exist_ok=True)
            if (root / extra).is_dir():
                shutil.copytree(root / extra, target, ignore=_SKIPPED)
            elif (root / extra).is_file():
                shutil.copyfile(root / extra, target)
        write_text(draft / "README.md", _README.format(title=title, gradio=_gradio_version()))
        write_text(draft / "requirements.txt", "\n".join(requirements()) + "\n")
        write_text(draft / "app.py", _APP)

    write_folder_atomically(out, write)
    return sorted(path for path in out.rglob("*") if path.is_file())


def requirements() -> list[str]:
    """What the app needs besides this project, as ranges; Gradio comes with the Space and is named by its README.

    Raises:
        ValueError: the project was not installed, so that nobody knows.
    """
    try:
        stated = requires("sam3-workbench") or []
    except PackageNotFoundError as error:
        raise ValueError("sam3-workbench is not installed; run `pip install -e .[apps]` first") from error
    return sorted(re.sub(r"\s", "", line) for line in stated if "extra ==" not in line)


def _place_of(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"the package {package!r} is not there; run `pip install sam3-workbench[apps]` first")
    return Path(found.origin).parent


def _gradio_version() -> str:
    from importlib.metadata import version

    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise ValueError("Gradio is not installed; run `pip install sam3-workbench[apps]` first") from error
