"""What has to agree between files that no single module owns: metadata, pins, packages, paths, the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TEXT_SUFFIXES = {".py", ".toml", ".md", ".txt", ".yaml", ".yml", ".json", ".ipynb", ".html", ".css", ".js", ".cfg", ""}
BUILT_FOLDERS = {"build", "dist", "runs", "__pycache__"}
HEAVY_PACKAGES = ["accelerate", "datasets", "gradio", "matplotlib", "peft", "supervision", "transformers"]


@pytest.fixture(scope="module")
def project(repo_root: Path) -> dict[str, Any]:
    return tomllib.loads((repo_root / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def pins(repo_root: Path) -> dict[str, str]:
    """Package name to exact version, as constraints.txt has it."""
    lines = (repo_root / "constraints.txt").read_text("utf-8").splitlines()
    return {name: version for name, _, version in (line.partition("==") for line in lines if line[:1] not in ("", "#"))}


def direct_requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["project"]["optional-dependencies"].values()
    return [Requirement(text) for group in (project["project"]["dependencies"], *extras) for text in group]


def project_files(root: Path) -> Iterator[Path]:
    """All files a reader of the project sees; hidden folders other than .ci and .github are the tools' own."""
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name in {".ci", ".github"}
            or not (name.startswith(".") or name in BUILT_FOLDERS or name.endswith(".egg-info"))
        ]
        yield from (Path(folder) / name for name in names)


def test_every_direct_dependency_is_pinned_inside_its_range(project: dict[str, Any], pins: dict[str, str]) -> None:
    exact = {canonicalize_name(name): version for name, version in pins.items()}
    requirements = direct_requirements(project)
    assert len(requirements) >= 25
    wrong = {
        str(requirement): exact.get(canonicalize_name(requirement.name), "not pinned")
        for requirement in requirements
        if not requirement.specifier.contains(exact.get(canonicalize_name(requirement.name), "0"))
    }
    assert wrong == {}


def test_pins_are_plain_and_unique(repo_root: Path) -> None:
    lines = (repo_root / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[\w.-]+==\d[\w.]*", line)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in pinned]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("nvidia", "torchvision", "opencv"))]


def test_every_folder_with_modules_is_a_package(repo_root: Path) -> None:
    folders = {file.parent for package in ("sam3", "workbench") for file in (repo_root / package).rglob("*.py")}
    assert len(folders) >= 2
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert (repo_root / "sam3" / "py.typed").is_file()
    assert (repo_root / "workbench" / "py.typed").is_file()


def test_no_file_names_a_path_of_one_machine(repo_root: Path) -> None:
    machine_path = re.compile(r"(?<![\w.:/-])/(?:work|root|home|Users|opt)/[\w.-]|\.\./shared\b")
    assert machine_path.search('open("/' + 'work/main")') is not None
    found, num_read = [], 0
    for file in project_files(repo_root):
        if file.suffix in TEXT_SUFFIXES and file.stat().st_size < 5_000_000:
            num_read += 1
            for number, line in enumerate(file.read_text("utf-8", errors="replace").splitlines(), start=1):
                if match := machine_path.search(line):
                    found.append(f"{file.relative_to(repo_root)}:{number}: {match.group()}")
    assert num_read > 10
    assert found == []


def test_command_line_answers_with_its_commands(repo_root: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "workbench", "--help"],
        cwd=repo_root,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "Usage" in answer.stdout
    assert "adapt" in answer.stdout


def test_command_line_loads_no_heavy_package_before_it_is_needed(repo_root: Path) -> None:
    code = f"import sys, workbench.__main__; print(*sorted(set({HEAVY_PACKAGES}) & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, timeout=120, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []
