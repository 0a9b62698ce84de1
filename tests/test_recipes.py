"""The recipes of the project: each opens with its own command, is short, reads, and shows how to use real data."""

from __future__ import annotations

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

from workbench.__main__ import app
from workbench.adapt import read_pictures
from workbench.formats.sources import READERS
from workbench.recipe import LabelledPictures, RenderedPictures, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
REAL_DATA = {"medical": "nifti", "vehicles": "waymo-boxes", "text_scenes": "icdar2015", "shapes": "coco"}
SETTING = re.compile(r"# ((?:learn|test|phrases|absent_phrases|train): .*)")

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
every_domain = pytest.mark.parametrize("name", REAL_DATA)


def lines_of(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def recipe_of(name: str) -> Path:
    return RECIPES[[path.stem for path in RECIPES].index(name)]


def import_commands(path: Path) -> list[list[str]]:
    """The words behind `workbench import` in the comments; a backslash carries on in the next line."""
    comments = " ".join(line.removeprefix("#").strip() for line in lines_of(path) if line.startswith("#   "))
    commands = comments.replace("\\ ", "").split("workbench import ")
    assert commands[0].strip() == ""
    return [shlex.split(command) for command in commands[1:]]


@every_recipe
def test_a_recipe_is_short_opens_with_its_command_and_names_itself(path: Path) -> None:
    lines = lines_of(path)
    assert lines[0] == f"# workbench adapt recipes/{path.name} --out runs/{path.stem}"
    assert len(lines) <= 40
    recipe = load_recipe(path)
    assert recipe.name == path.stem and recipe.model == "tiny"


@every_recipe
def test_the_pictures_of_a_recipe_are_there_and_enough(path: Path) -> None:
    recipe = load_recipe(path)
    pictures = read_pictures(recipe, progress=False)
    assert len(pictures.learn) == recipe.shots
    assert len(pictures.test) >= (30 if isinstance(recipe.test, RenderedPictures) else 12)
    taught = {concept.phrase for _, concept in pictures.learn.pairs() if concept.status == "positive"}
    judged = {concept.phrase for _, concept in pictures.test.pairs() if concept.status == "positive"}
    assert taught == judged
    assert set(recipe.absent_phrases) <= set(pictures.learn.phrases) - taught


@every_domain
def test_the_domains_have_a_stand_in_that_needs_no_file(name: str) -> None:
    recipe = load_recipe(recipe_of(name))
    assert isinstance(recipe.learn, RenderedPictures) and isinstance(recipe.test, RenderedPictures)


@every_domain
def test_the_lines_for_real_data_are_a_recipe_of_files_that_the_import_writes(name: str, tmp_path: Path) -> None:
    path = recipe_of(name)
    comments = "\n".join(match[1] for line in lines_of(path) if (match := SETTING.fullmatch(line)))
    settings = {**yaml.safe_load(path.read_text("utf-8")), **yaml.safe_load(comments)}
    changed = tmp_path / "recipes" / path.name
    changed.parent.mkdir()
    changed.write_text(yaml.safe_dump(settings), encoding="utf-8")
    recipe = load_recipe(changed)
    assert isinstance(recipe.learn, LabelledPictures) and isinstance(recipe.test, LabelledPictures)
    assert recipe.learn.annotations != recipe.test.annotations
    folders = {tmp_path / words[words.index("--out") + 1] for words in import_commands(path)}
    assert {recipe.learn.annotations.parent, recipe.test.annotations.parent} == folders


@every_domain
def test_the_import_commands_name_options_that_exist_and_that_the_reader_takes(name: str) -> None:
    command = typer.main.get_command(app).commands["import"]
    module, function = READERS[REAL_DATA[name]].split(":")
    taken = set(inspect.signature(getattr(import_module(module), function)).parameters)
    commands = import_commands(recipe_of(name))
    assert commands
    for words in commands:
        options = command.make_context("import", list(words), resilient_parsing=False).params
        given = {key for key, value in options.items() if value not in (None, False, [], ())}
        assert {"source", "out"} <= given
        assert given - {"out", "form"} <= taken
        assert options["form"] in (None, REAL_DATA[name])
