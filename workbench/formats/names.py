"""Lists of names: what the values of a label map mean, and `old=new` changes of phrases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from workbench.formats.reading import read_text

NAME_FILES = ("names.json", "names.yaml", "names.txt", "labels.txt", "dataset.json")  # looked for beside label maps
_EXPECTED = 'a list of names such as {"1": "liver", "2": "spleen"} (JSON or YAML), or lines such as `1 liver`'


def read_names(source: str | Path | Mapping[int, str]) -> dict[int, str]:
    """The names of label values, without the background of a file.

    Args:
        source: the names themselves, or a file: JSON or YAML with value -> name or name -> value, also under a key
            `labels` (as in the `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net); or text with a
            value and a name per line. The name `background`, an empty name or null says that a value is nothing to
            search for.

    Raises:
        ValueError: another content; names the file and the line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "names.txt"
        >>> _ = file.write_text("0 background\\n1 left lung\\n")
        >>> read_names(file)
        {1: 'left lung'}
    """
    if isinstance(source, Mapping):
        return dict(source)
    file = Path(source)
    text = read_text(file, _EXPECTED)
    if file.suffix.lower() in (".json", ".yaml", ".yml"):
        try:
            content = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{file} cannot be read ({error}); expected {_EXPECTED}.") from error
        return _names_of_table(content, file)
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d+)\s*[\s,:;=]\s*(.*?)\s*", line)
        if match is None:
            raise ValueError(f"{file}:{number}: received {line!r}; expected {_EXPECTED}.")
        names[int(match[1])] = match[2]
    return _without_background(names)


def _names_of_table(content: Any, file: Path) -> dict[int, str]:
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        content = content["labels"]
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict) and all(isinstance(value, int) for value in content.values()):
        content = {value: name for name, value in content.items()}
    try:
        return _without_background({int(value): name for value, name in content.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: received {str(content)[:80]}; expected {_EXPECTED}.") from error


def _without_background(names: Mapping[int, str | None]) -> dict[int, str]:
    return {value: name for value, name in names.items() if name and name.strip().casefold() != "background"}


def changes_of(texts: list[str]) -> dict[str, str | None]:
    """The phrase changes of texts `old=new`; `old=` leaves the name out.

    Raises:
        ValueError: a text without an equals sign or without an old name.

    Example:
        >>> changes_of(["cls0=coin", "haze="])
        {'cls0': 'coin', 'haze': None}
    """
    changes: dict[str, str | None] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not equals or not old.strip():
            raise ValueError(f"--phrases received {text!r}; expected OLD=NEW, for instance cls0='gold coin', or OLD= .")
        changes[old.strip()] = new.strip() or None
    return changes
