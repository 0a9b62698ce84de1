"""The scripts and styles of the annotator and the player in `ui/`, put together as one text each.

Notebooks load them as a module, pages as the body of a function; a few lines at the end of each mount the same core.
"""

from __future__ import annotations

import json
from importlib.resources import files

from workbench.paint import PALETTE

_SHARED = ("elements.js", "rle.js", "view.js")
_ANNOTATOR = (*_SHARED, "marks.js", "gestures.js", "panels.js", "annotator.js")
_PLAYER = (*_SHARED, "player.js")
_PARTS = {
    "notebook_annotator": (*_ANNOTATOR, "notebook_files.js", "notebook_annotator.js"),
    "notebook_player": (*_PLAYER, "notebook_files.js", "notebook_player.js"),
    "page_annotator": (*_ANNOTATOR, "page_annotator.js"),
    "page_player": (*_PLAYER, "page_player.js"),
}


def script_of(name: str) -> str:
    """The JavaScript of one interface: "notebook_" or "page_" with "annotator" or "player".

    Example:
        >>> "function mountPlayer(root, host)" in script_of("page_player")
        True
    """
    palette = f"const PALETTE = {json.dumps(PALETTE)};"
    return "\n".join([palette, *(_text(part) for part in _PARTS[name])])


def style() -> str:
    """The CSS of both."""
    return _text("annotator.css")


def _text(name: str) -> str:
    return (files("workbench") / "ui" / name).read_text("utf-8")
