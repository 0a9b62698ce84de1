"""The tab *Segment*: one picture, what to find in it by words or examples, and the result to take along."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from apps.answers import FLOOR, Answer, Exemplar, exemplars_in, prompts_of, with_exemplars
from apps.desk import LIGHT_QUEUE, MODEL_QUEUE, Desk, bring_into_view, saves_file
from apps.lent_gpu import on_gpu
from apps.limits import Limits, checked_picture
from apps.refusals import spoken
from sam3.files import write_atomically
from sam3.pictures import read_picture

_POINT, _NOT_POINT, _BOX, _NOT_BOX = "point: such", "point: not such", "box: such", "box: not such"
_COLUMNS = ["id", "phrase", "score", "box (px)", "area (px)"]
_EMPTY = "Choose a picture, write what to find, and press **Find**."


class PictureInput(gr.Image):
    """A picture that is brought in; what is none is refused in words."""

    is_template = True
    limits = Limits()  # the page sets its own

    def preprocess(self, payload: Any) -> Any:
        if payload is None or not payload.path:
            return None
        try:
            return str(checked_picture(payload.path, self.limits, payload.orig_name))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error


def build(desk: Desk) -> None:
    """Fills the tab."""
    answer = gr.State(None, time_to_live=3600)
    corner = gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = PictureInput(label="Picture", height=230, sources=["upload", "clipboard", "webcam"])
            picture.limits = desk.limits
            phrases = gr.Textbox(
                label="Find (short noun phrases, with commas)", placeholder="red circle, star", lines=1, max_lines=1
            )
            with gr.Row():
                find = gr.Button("Find", variant="primary")
                example = gr.Button("Try an example")
            score = gr.Slider(FLOOR, 0.95, 0.5, step=0.05, label="Score of at least (filters only)")
            with gr.Accordion("Show by example", open=False):
                gr.Markdown(
                    "Choose what a click means, then click in the result. A box takes two corners.",
                    elem_classes="sw-hint",
                )
                meaning = gr.Radio([_BOX, _NOT_BOX, _POINT, _NOT_POINT], value=_BOX, label="A click is a")
                examples = gr.Textbox(
                    label="Examples", lines=3, info="One per line: + left, top, right, bottom or - x, y, in pixels."
                )
                clear = gr.Button("Clear examples", size="sm")
        with gr.Column(scale=3, min_width=320):
            result = gr.Image(
                label="Result",
                interactive=False,
                height=430,
                elem_classes=["sw-clickable", "sw-result"],
                buttons=["download", "fullscreen"],
            )
            status = gr.Markdown(_EMPTY, elem_classes="sw-status")
            table = gr.Dataframe(headers=_COLUMNS, label="Objects", interactive=False, max_height=240, wrap=True)
            with gr.Row():
                coco = gr.Button("COCO file", size="sm")
                masks = gr.Button("Masks (zip)", size="sm")

    @on_gpu
    @spoken
    def segment(user: str, model: str, path: str | None, text: str, shown_examples: str, least: float) -> Any:
        """What the chosen model finds in a picture."""
        workspace = desk.of(user)
        if path is None:
            raise ValueError("there is no picture yet: choose one, or press `Try an example`.")
        pixels, exemplars = read_picture(path), exemplars_in(shown_examples)
        prompts = prompts_of(desk.phrases(text), exemplars, (pixels.shape[0], pixels.shape[1]))
        with desk.shelf.lent(model, workspace) as loan:
            start, predictor = time.perf_counter(), loan.predictor()
            predictor.set_image(pixels)
            found = predictor.predict(prompts, score_threshold=FLOOR)
            seconds = time.perf_counter() - start
        said = Answer(Path(path).name, pixels, tuple(found), exemplars, loan.label, seconds)
        return said, *shown(said, least)

    def shown(said: Answer | None, least: float) -> tuple[Any, Any, str]:
        if said is None:
            return None, [], _EMPTY
        return Image.fromarray(said.drawn(least)), said.rows(least), said.in_words(least)

    @spoken
    def written(user: str, said: Answer | None, least: float, form: str) -> str:
        folder = desk.of(user).folder / "exports"
        folder.mkdir(exist_ok=True)
        if said is None:
            raise ValueError("there is no result yet: press `Find` first.")
        return str(said.write_coco(folder, least) if form == "coco" else said.write_masks(folder, least))

    @spoken
    def marked(path: str | None, text: str, meant: str, first: Any, event: gr.SelectData) -> Any:
        """The examples with what was clicked, the picture with them, and the first corner of a box."""
        if path is None:
            raise ValueError("there is no picture yet: choose one first.")
        x, y = (float(value) for value in event.index)
        is_positive = meant in (_BOX, _POINT)
        exemplars = list(exemplars_in(text))
        if meant in (_POINT, _NOT_POINT):
            exemplars.append(Exemplar((x, y), is_positive))
            first = None
        elif first is None:
            first = (x, y)
        else:
            xs, ys = sorted((first[0], x)), sorted((first[1], y))
            if xs[0] == xs[1] or ys[0] == ys[1]:
                raise ValueError("the two corners make no box; click the opposite corner.")
            exemplars.append(Exemplar((xs[0], ys[0], xs[1], ys[1]), is_positive))
            first = None
        pending = [*exemplars, Exemplar(first, is_positive)] if first else exemplars
        drawn = with_exemplars(read_picture(path), pending)
        note = "Now click the opposite corner." if first else "Press **Find** to search with the examples."
        return "\n".join(map(str, exemplars)), Image.fromarray(drawn), first, note

    @spoken
    def brought(path: str | None) -> Any:
        """A new picture: nothing is known about it."""
        if path is None:
            return None, None, [], _EMPTY, "", None
        pixels = read_picture(path)
        note = f"{Path(path).name}, {pixels.shape[1]}×{pixels.shape[0]} pixels. Write what to find and press **Find**."
        return None, Image.fromarray(pixels), [], note, "", None

    @spoken
    def rendered(user: str) -> tuple[str, str]:
        """A drawn picture with things in it that the tiny model knows."""
        path = desk.of(user).folder / "example.png"
        if not path.exists():
            pixels, _ = example_scene()
            write_atomically(path, lambda draft: Image.fromarray(pixels).save(draft, "PNG"))
        return str(path), ", ".join(example_scene()[1])

    asked = [desk.user, desk.model, picture, phrases, examples, score]
    found = gr.on(
        [find.click, phrases.submit],
        segment,
        asked,
        [answer, result, table, status],
        api_name="segment",
        show_progress_on=result,
        **MODEL_QUEUE,
    )
    found.success(None, js=bring_into_view(".sw-result"))
    score.release(
        shown, [answer, score], [result, table, status], api_name="filter", show_progress="hidden", **LIGHT_QUEUE
    )
    picture.change(
        brought,
        picture,
        [answer, result, table, status, examples, corner],
        api_name="look",
        show_progress="hidden",
        **LIGHT_QUEUE,
    )
    result.select(
        marked,
        [picture, examples, meaning, corner],
        [examples, result, corner, status],
        show_progress="hidden",
        api_visibility="private",
        **LIGHT_QUEUE,
    )
    clear.click(
        brought, picture, [answer, result, table, status, examples, corner], api_visibility="private", **LIGHT_QUEUE
    )
    example.click(rendered, desk.user, [picture, phrases], api_name="example_picture", **LIGHT_QUEUE)
    for button, form in ((coco, "coco"), (masks, "masks")):
        saves_file(
            button,
            lambda user, said, least, form=form: written(user, said, least, form),
            [desk.user, answer, score],
            api_name=f"export_{form}",
        )


def example_scene() -> tuple[np.ndarray, tuple[str, ...]]:
    """A rendered picture and the phrases that are true of it."""
    from workbench.domains import shapes

    example = shapes.held_out_set(6, 5)[3]
    phrases = tuple(concept.phrase for concept in example.concepts if concept.status == "positive")
    return example.load_image(), phrases[:2]
