"""The annotator as a Gradio component, and a page with nothing else on it.

    python -m apps.annotator data/coins/images --phrase coin --model tiny

The marks are kept in `marks.json` beside the pictures; `Annotator` can stand in any other page.
"""

from __future__ import annotations

import argparse
import base64
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves the machine

import gradio as gr  # noqa: E402

from sam3 import ImagePredictor, load_sam3  # noqa: E402
from workbench.annotation import Annotation  # noqa: E402
from workbench.annotation_answers import answer_request  # noqa: E402
from workbench.annotation_session import AnnotationSession  # noqa: E402
from workbench.interface_files import script_of, style  # noqa: E402

_SHOWN_BY_BROWSERS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_SIDE_PX = {True: 132, False: 4096}


class Annotator(gr.HTML):
    """A component whose value is an `Annotation`; what is marked is kept by the session at once.

    Events: `change` (marks changed) and `ask` (the person wants more like these, or an outline; the event's data has
    the form of `Request.from_json`).

    Args:
        session: pictures and marks. All visitors of the page share it.
        can_ask: whether something listens to `ask`; otherwise its buttons are left out.
        serves_files: whether the picture files get addresses of their own, which is quicker; everybody who knows a
            path can then read the file. Otherwise pictures travel only to this page.
    """

    def __init__(self, session: AnnotationSession, *, can_ask: bool = True, serves_files: bool = True, **options: Any):
        files = {
            image_id: str(image.resolve())
            for image_id, image in session.images.items()
            if serves_files and isinstance(image, Path) and image.suffix.lower() in _SHOWN_BY_BROWSERS
        }
        if files:
            gr.set_static_paths(list(files.values()))

        def keep(value: Any) -> dict[str, Any]:
            try:
                session.receive(value)
            except (ValueError, OSError) as error:
                return {"text": str(error), "is_error": True}
            return {"text": session.kept_in, "is_error": False}

        def latest(_: Any) -> dict[str, Any]:
            return session.annotation.to_json()

        def picture(wish: dict[str, Any]) -> str:
            encoded = session.encoded_picture(wish["id"], _SIDE_PX[bool(wish["is_small"])])
            return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")

        super().__init__(
            value=session.annotation,
            html_template="<div data-annotator></div>",
            css_template=style(),
            js_on_load=script_of("page_annotator"),
            server_functions=[keep, latest, picture],
            task={**session.task(can_ask=can_ask), "files": files},
            **options,
        )

    # Typed loosely, because the base class says text.
    def preprocess(self, payload: Any) -> Any:
        return Annotation.from_json(payload)

    def postprocess(self, value: Any) -> Any:
        return None if value is None else value.to_json()

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def page(session: AnnotationSession, predictor: ImagePredictor | None = None) -> gr.Blocks:
    """A page with the annotator alone; the predictor answers what is asked there."""

    def answer(event: gr.EventData) -> Annotation:
        try:
            request = session.receive_request(event._data)
            if not predictor or not answer_request(predictor, session, request):
                gr.Info(f"Nothing new was found for “{request.phrase}”.")
        except (ValueError, KeyError) as error:
            raise gr.Error(str(error)) from error
        return session.annotation

    with gr.Blocks(title="Mark objects", fill_width=True) as blocks:
        annotator = Annotator(session, can_ask=predictor is not None)
        if predictor is not None:
            annotator.ask(answer, outputs=annotator, show_progress="hidden")
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description="Mark objects in a folder of pictures, in the browser.")
    parser.add_argument("folder", type=Path, help="folder of pictures; marks.json is written into it")
    parser.add_argument("--phrase", action="append", default=[], help="what to look for; may be given several times")
    parser.add_argument("--model", help="what answers `find more like these`: tiny, a file, a folder or a hub id")
    parser.add_argument("--port", type=int, default=None)
    options = parser.parse_args()
    try:
        session = AnnotationSession(options.folder, options.phrase)
        predictor = ImagePredictor(load_sam3(options.model)) if options.model else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    page(session, predictor).launch(server_port=options.port)


if __name__ == "__main__":
    main()
