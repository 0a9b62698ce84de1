"""A recipe: one YAML file that says what is adapted, to which labelled pictures, and how it is trained and measured.

YAML and overrides from the command line come in; a checked, frozen `Recipe` goes out, and back to YAML. An unknown
key is refused, and every error names the file and the key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sam3.files import write_text
from workbench.adapters import Plan
from workbench.domains.rendered import classes_of
from workbench.examples import phrase_key
from workbench.finetune import FinetuneConfig
from workbench.guard import GuardConfig
from workbench.negatives import NegativesConfig
from workbench.record_metrics import CANDIDATE_FLOOR

_PATHS = ("learn.annotations", "learn.images", "test.annotations", "test.images")
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
_HEADER = "# A complete recipe, written by `workbench adapt`. Paths are relative to this file.\n"


def _beside_recipe(value: Path, info: ValidationInfo) -> Path:
    return Path(os.path.normpath(_folder(info) / value.expanduser()))


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


RecipePath = Annotated[Path, AfterValidator(_beside_recipe)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledPictures(_Model):
    """A COCO annotation file and the folder its pictures are in."""

    annotations: RecipePath
    images: RecipePath

    def __str__(self) -> str:
        return str(self.annotations)


class RenderedPictures(_Model):
    """Pictures drawn on the spot with exact labels: a stand-in where a data set is not at hand.

    Attributes:
        rendered: the domain, one of `workbench.domains.rendered.RENDERED`; its classes are the categories.
        pictures: how many.
        seed: other seeds give other pictures.
    """

    rendered: str
    pictures: int = Field(ge=1)
    seed: int = Field(ge=0)

    @field_validator("rendered")
    @classmethod
    def _check_domain(cls, name: str) -> str:
        classes_of(name)
        return name

    def __str__(self) -> str:
        return f"rendered {self.rendered}, seed {self.seed}"


_FORMS: dict[str, type[_Model]] = {"files": LabelledPictures, "rendered": RenderedPictures}


def _form_of(pictures: Any) -> str:
    """The key of `_FORMS` that is meant, also where a setting is misspelt or missing."""
    if not isinstance(pictures, Mapping):
        return "rendered" if isinstance(pictures, RenderedPictures) else "files"
    known = {name: form for form, model in _FORMS.items() for name in model.model_fields}
    near = {known[match] for key in pictures for match in difflib.get_close_matches(str(key), known, n=1)}
    return "rendered" if "rendered" in pictures or near == {"rendered"} else "files"


_EITHER_FORM = "annotations, images (files); or rendered, pictures, seed (drawn on the spot)"
PictureSource = Annotated[
    Annotated[LabelledPictures, Tag("files")] | Annotated[RenderedPictures, Tag("rendered")], Discriminator(_form_of)
]


class Recipe(_Model):
    """Everything `run_recipe` needs to know.

    Attributes:
        name: of the adapted model, for reports.
        model: "tiny", a weight file or folder, or a hub name; what `load_sam3` accepts.
        learn: pictures to learn from. test: other pictures, to measure on. Both are files, or rendered.
        phrases: category name in the annotation files, or class of the rendered domain -> phrase to ask for; null drops
            it, a category that is not listed is asked for by its name.
        absent_phrases: phrases that are in none of the pictures, so that refusing is learnt and measured.
        shots: how many of the pictures in `learn` to learn from.
        seed: of the choice of pictures and of the training.
        exhaustive: whether all categories were looked for in all pictures, so that no annotation means absent; of
            rendered pictures this is always so.
        negatives: which absent phrases are learnt to be refused.
        hold_out: how many of the shots only watch over the training, which ends when they stop improving; 0 for none.
        plan: what is trained. train: how; its seed is that of the recipe.
        guard: how closely forgetting is watched.
        score_threshold: objects with at least this score count as found.
    """

    name: str = Field(min_length=1)
    model: str = Field(default="tiny", min_length=1)
    learn: PictureSource
    test: PictureSource
    phrases: dict[str, str | None] = Field(default_factory=dict)
    absent_phrases: tuple[str, ...] = ()
    shots: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    exhaustive: bool = True
    negatives: NegativesConfig = NegativesConfig()
    hold_out: int = Field(default=0, ge=0)
    plan: Plan = Plan()
    train: FinetuneConfig = FinetuneConfig()
    guard: GuardConfig = GuardConfig()
    score_threshold: float = Field(default=0.5, ge=CANDIDATE_FLOOR, le=1)

    @field_validator("model")
    @classmethod
    def _find_model(cls, value: str, info: ValidationInfo) -> str:
        """A file beside the recipe is meant before one where the command runs; anything else may be a hub name."""
        beside = _folder(info) / Path(value).expanduser()
        is_path = value.startswith((".", "/", "~")) or value.endswith(_WEIGHT_SUFFIXES)
        if value != "tiny" and (beside.exists() or (is_path and not Path(value).exists())):
            return os.path.normpath(beside)
        return value

    @field_validator("phrases")
    @classmethod
    def _check_phrases(cls, phrases: dict[str, str | None]) -> dict[str, str | None]:
        for category, phrase in phrases.items():
            if phrase is not None and not phrase.strip():
                raise ValueError(
                    f"the phrase of {category!r} is empty; expected a short noun phrase, or null to drop it"
                )
        return phrases

    @field_validator("absent_phrases")
    @classmethod
    def _check_absent(cls, absent: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        asked = {phrase_key(phrase) for phrase in info.data.get("phrases", {}).values() if phrase is not None}
        for phrase in absent:
            if not phrase.strip():
                raise ValueError("a phrase is empty; expected short noun phrases such as 'red circle'")
            if phrase_key(phrase) in asked:
                raise ValueError(f"{phrase!r} is also under phrases; expected phrases that are in none of the pictures")
        return absent

    @field_validator("train", mode="before")
    @classmethod
    def _refuse_second_seed(cls, train: Any) -> Any:
        if isinstance(train, Mapping) and "seed" in train:
            raise ValueError("it has a seed of its own; expected one seed for everything, at the top of the recipe")
        return train

    @model_validator(mode="after")
    def _share_seed(self) -> Recipe:
        if self.hold_out >= self.shots:
            raise ValueError(f"hold_out={self.hold_out} leaves none of the {self.shots} shots to learn from")
        if isinstance(self.learn, RenderedPictures) and str(self.learn) == str(self.test):
            raise ValueError(
                f"learn and test are both {self.learn}, so the result would flatter; expected different seeds"
            )
        object.__setattr__(self, "train", replace(self.train, seed=self.seed))
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: YAML file; the paths in it are relative to its folder.
        overrides: texts such as "train.steps=60", applied after reading; the values are YAML, and paths among them are
            relative to the current folder. In `learn` and `test` a setting of files replaces those of rendered
            pictures, and the other way round.

    Raises:
        ValueError: the file cannot be read, or a key or value is not what is expected; names file and key.

    Example:
        >>> import tempfile
        >>> path, part = Path(tempfile.mkdtemp()) / "coins.yaml", "{annotations: a.json, images: pictures}"
        >>> write_text(path, f"name: coins\\nlearn: {part}\\ntest: {part}")
        >>> load_recipe(path, ["train.steps=60"]).train.steps
        60
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the recipe {path} cannot be read ({error.strerror}); expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid YAML: {error}; correct the place that is named") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {type(data).__name__}; expected settings such as 'name: coins', one per line")
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        raise ValueError("\n".join(_in_words(path, dict(problem)) for problem in error.errors())) from error


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes the recipe with all its settings; `load_recipe` reads the same recipe back."""
    folder = os.path.abspath(Path(path).parent)
    content = settings(recipe)
    for key in _PATHS:
        part, name = key.split(".")
        if name in content[part]:
            content[part][name] = _relative(content[part][name], folder)
    if Path(recipe.model).exists() and recipe.model != "tiny":
        content["model"] = _relative(recipe.model, folder)
    write_text(path, _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def settings(recipe: Recipe) -> dict[str, Any]:
    """All settings as plain values in the form of the YAML file."""
    content = recipe.model_dump(mode="json")
    del content["train"]["seed"]
    return content


def _relative(path: str, folder: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return os.path.abspath(path)


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ValueError(f"--set received {text!r}; expected key.path=value, for instance train.steps=60")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text}: the value is no valid YAML ({error}); put it in quotes") from error
    if key in _PATHS and isinstance(parsed, str):
        parsed = os.path.abspath(parsed)
    *parents, last = key.split(".")
    if parents in (["learn"], ["test"]) and isinstance(data.get(parents[0]), dict):
        data[parents[0]] = _without_other_form(data[parents[0]], last)
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ValueError(f"--set {text}: {parent!r} holds {data!r} and has no settings inside; check the key")
    data[last] = parsed


def _without_other_form(pictures: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of files or rendered pictures, without those that a setting of this name replaces."""
    if not any(name in model.model_fields for model in _FORMS.values()):
        return pictures
    replaced = {key for model in _FORMS.values() if name not in model.model_fields for key in model.model_fields}
    return {key: value for key, value in pictures.items() if key not in replaced}


def _in_words(path: Path, problem: dict[str, Any]) -> str:
    """One line on one problem that pydantic found."""
    place = [str(part) for part in problem["loc"]]
    has_form = len(place) > 1 and place[0] in ("learn", "test")  # place[1] is then a key of _FORMS
    key, received = ".".join(place[:1] + place[2:] if has_form else place), problem["input"]
    where = f"{path}: {key}" if key else f"{path}"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _names_within(place[:-1])
        if has_form and any(place[-1] in model.model_fields for model in _FORMS.values()):
            return f"{where} does not go with {known[0]}; expected {_EITHER_FORM}"
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where} is no setting; {hint}expected one of {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{where} is missing; add it to the recipe"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "expected").replace("Keys should be", "expected")
    if problem["type"] in ("model_type", "dataclass_type"):
        names = _EITHER_FORM if has_form else ", ".join(_names_within(place))
        message = f"expected settings inside it: {names}"
    if problem["type"] == "string_type" and isinstance(received, bool | int | float):
        message += "; put it in quotes (YAML reads plain yes, no, on, off and numbers as something else than text)"
    return f"{where}: received {received!r}; {message}"


def _names_within(place: Sequence[str]) -> list[str]:
    """The settings that exist at a place such as ["train", "augment"]."""
    if place[:1] in (["learn"], ["test"]):
        return list(_FORMS[place[1]].model_fields)
    default: Any = Recipe
    for part in place:
        default = Recipe.model_fields[part].default if default is Recipe else getattr(default, part, None)
    if is_dataclass(default):
        return [field.name for field in fields(default) if field.name != "seed"]
    return list(default.model_fields) if default is not None else []
