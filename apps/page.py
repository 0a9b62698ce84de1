"""The whole page: who is here, which model answers, and the five tabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps import adapt, compare, label, segment, video
from apps.desk import LIGHT_QUEUE, Choice, Desk, chosen
from apps.lent_gpu import IS_LENT
from apps.limits import Limits
from apps.models import Shelf
from apps.refusals import spoken
from apps.state import Workspaces, is_code, new_code
from apps.theme import CSS, gr, theme

_TABS = (("Segment", segment), ("Label", label), ("Adapt", adapt), ("Compare", compare), ("Video", video))
_CACHE_SECONDS = (3600, 86400)  # how often Gradio's own copies are looked through, and their age when deleted


def build_app(
    root: str | Path = "runs/app",
    models: Sequence[str] = ("tiny",),
    *,
    limits: Limits | None = None,
    keep_days: float = 7.0,
    device: str | None = None,
) -> gr.Blocks:
    """The page, to be launched with `launch`.

    Args:
        root: folder of the visitors' folders.
        models: what `load_sam3` accepts, the first one first.
        limits: what one visitor may ask for.
        keep_days: folders that nobody used for so long are deleted.
        device: see `Shelf`.
    """
    limits = limits or Limits()
    workspaces, shelf = Workspaces(Path(root), limits, keep_days), Shelf(models, device)
    if IS_LENT:
        shelf.load()
    # Which visitor this is, is kept in the browser; a fixed secret lets the code survive a restart of the server.
    with gr.Blocks(title="SAM 3 Workbench", fill_width=True, delete_cache=_CACHE_SECONDS) as blocks:
        kept = gr.BrowserState(None, storage_key="sam3-workbench", secret="sam3-workbench-code")
        user = gr.Textbox(visible=False, label="user")
        arrived = gr.Number(0, visible=False, label="arrived")
        with gr.Row(elem_classes="sw-head"):
            with gr.Column(scale=3, min_width=300):
                gr.Markdown(
                    "# SAM 3 Workbench\nTeach SAM 3 your pictures, and see in numbers whether it worked.",
                    elem_classes="sw-title",
                )
                banner = gr.Markdown(shelf.in_words(shelf.choices()[0]), elem_classes="sw-banner")
            model = Choice(
                shelf.choices(),
                value=shelf.choices()[0],
                label="Which model answers",
                min_width=240,
                elem_classes="sw-models",
            )
        desk = Desk(workspaces, shelf, limits, user, model, arrived)
        waiting = gr.Markdown("One moment…")
        # Nothing can be pressed before the visitor is known.
        with gr.Column(visible=False) as room, gr.Tabs():
            for title, tab in _TABS:
                with gr.Tab(title, id=title.lower()):
                    tab.build(desk)
        gr.Markdown(f"Limits: {limits}. Files are kept for {keep_days:g} days.", elem_classes="sw-hint")

        @spoken
        def enter(code: Any, count: float) -> tuple[Any, ...]:
            """The visitor's code, a new one at the first visit."""
            code = code if is_code(code) else new_code()
            workspaces.of(code)
            return code, code, count + 1, gr.update(visible=True), gr.update(visible=False)

        @spoken
        def listed(code: str, choice: str) -> Any:
            """The models that this visitor can choose from."""
            choices = shelf.choices(workspaces.of(code))
            return gr.update(choices=choices, value=chosen(choices, choice))

        blocks.load(
            enter,
            [kept, arrived],
            [kept, user, arrived, room, waiting],
            api_visibility="private",
            show_progress="hidden",
        )
        arrived.change(listed, [user, model], model, api_name="models", show_progress="hidden", **LIGHT_QUEUE)
        model.change(shelf.in_words, model, banner, api_visibility="private", show_progress="hidden", **LIGHT_QUEUE)
    blocks.queue(max_size=limits.waiting, default_concurrency_limit=4)
    return blocks


def launch(blocks: gr.Blocks, limits: Limits | None = None, **options: Any) -> str:
    """Starts the server and gives its address; `limits` are those of the page, `options` Gradio's."""
    settings: dict[str, Any] = {
        "server_name": "127.0.0.1",
        "theme": theme(),
        "css": CSS,
        "max_file_size": f"{(limits or Limits()).file_mb}mb",
        "allowed_paths": [],
        "blocked_paths": [],
        "share": False,
        "quiet": True,
        "enable_monitoring": False,
        "state_session_capacity": 500,
    }
    _, url, _ = blocks.launch(**settings | options)
    return str(url)
