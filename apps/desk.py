"""What the tabs of the page share: visitors, models, limits, and the fields at the top of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from apps.limits import Limits
from apps.models import Shelf
from apps.state import Workspace, Workspaces

MODEL_QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}  # one request at a time asks a model
LIGHT_QUEUE: dict[str, Any] = {"concurrency_limit": 8, "concurrency_id": "light"}

_SAVE = """(file) => {
  const link = Object.assign(document.createElement("a"), {href: file.url, download: file.orig_name});
  document.body.append(link);
  link.click();
  link.remove();
}"""


class Choice(gr.Dropdown):
    """A list whose entries differ from visitor to visitor; the handlers check what was chosen."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return payload


@dataclass(frozen=True)
class Desk:
    """Passed to every tab.

    Attributes:
        workspaces, shelf, limits: see there.
        user: the field with the visitor's code, which no one sees.
        model: the list of models at the top.
        arrived: its event `change` tells that the visitor is known, or that something of theirs has changed: pictures
            or runs. Tabs fill themselves then.
    """

    workspaces: Workspaces
    shelf: Shelf
    limits: Limits
    user: gr.Textbox
    model: gr.Dropdown
    arrived: gr.Number

    def of(self, code: str) -> Workspace:
        return self.workspaces.of(code)

    def phrases(self, text: str) -> list[str]:
        """Phrases that a person wrote with commas or on lines.

        Raises:
            ValueError: too many.
        """
        found = phrases_in(text)
        if len(found) > self.limits.phrases:
            raise ValueError(f"{len(found)} phrases were given; {self.limits.phrases} are allowed at once.")
        return found


def phrases_in(text: str | None) -> list[str]:
    """What stands between commas or on lines, each once.

    Example:
        >>> phrases_in("coin,  red circle,coin")
        ['coin', 'red circle']
    """
    parts = [" ".join(part.split()) for line in (text or "").splitlines() for part in line.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def saves_file(button: gr.Button, make: Callable[..., str], inputs: Sequence[Any], *, api_name: str) -> None:
    """A press of the button makes a file, which the browser then saves.

    Gradio's own button for downloads saves the file that was there before the press: none, or an old one.
    """
    file = gr.DownloadButton(visible=False)
    made = button.click(make, list(inputs), file, api_name=api_name, show_progress="hidden", **LIGHT_QUEUE)
    made.success(None, file, js=_SAVE)


def bring_into_view(selector: str) -> str:
    """JavaScript that scrolls to a result where it is out of sight, as below the button on a narrow screen."""
    return (
        f"() => {{ document.querySelector('{selector}')?.scrollIntoView({{block: 'nearest', behavior: 'smooth'}}); }}"
    )


def chosen(values: Sequence[str], value: str | None) -> str | None:
    """The value if it is among the values, else the first."""
    return value if value in values else (values[0] if values else None)
