"""The player of masklets as a Gradio component."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves the machine

import gradio as gr  # noqa: E402

from workbench.interface_files import script_of, style  # noqa: E402
from workbench.playback import checked_playback, checked_video, load_playback  # noqa: E402


class MaskletPlayer(gr.HTML):
    """A component that shows a video with its objects, before and after.

    Its value is what `player_data` gives, with the path of a video that Gradio may serve, or the path of the JSON file.
    The event `shown` tells frame, side and hidden objects.

    Args:
        value: to begin with; None shows what to do.
    """

    def __init__(self, value: dict[str, Any] | str | Path | None = None, **options: Any):
        super().__init__(
            value=value,
            html_template="<div data-player></div>",
            css_template=style(),
            js_on_load=script_of("page_player"),
            **options,
        )

    def preprocess(self, payload: Any) -> Any:
        return payload

    def postprocess(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str | Path):
            data, video = load_playback(value)
        else:
            data = checked_playback(value)
            video = checked_video(data["video"])
        gr.set_static_paths([str(video)])
        return {**data, "video": str(video)}

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}
