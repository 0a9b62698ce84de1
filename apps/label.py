"""The tab *Label*: the visitor's own pictures, marked by hand with the model's proposals."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from apps.annotator import Annotator
from apps.desk import LIGHT_QUEUE, MODEL_QUEUE, Desk, saves_file
from apps.label_files import Labelled, add, take_files, write_labels
from apps.lent_gpu import on_gpu
from apps.refusals import spoken
from apps.state import Workspace
from sam3.predictor import Prediction
from workbench.annotation import Annotation
from workbench.annotation_answers import Question, propose_answer
from workbench.annotation_labels import examples_of
from workbench.annotation_session import AnnotationSession, Request
from workbench.examples import ExampleSet
from workbench.report_style import counted

EXAMPLE_FOLDER = Path(__file__).resolve().parents[1] / "data" / "coins"
_CONFIRM = """(user, version) => {
  if (!confirm("Delete all your pictures and marks here?")) throw new Error("kept");
  return [user, version];
}"""
_EMPTY = (
    "**No pictures yet.** Bring about ten of your own with *Add pictures* (files, or a zip, with a COCO file inside if "
    "there are labels already), or take the example. Then write a phrase and draw a box around each object."
)


def build(desk: Desk) -> None:
    """Fills the tab."""
    with gr.Row():
        upload = gr.UploadButton("Add pictures", file_count="multiple", variant="primary", size="sm", min_width=140)
        example = gr.Button("Example: coins", size="sm", visible=EXAMPLE_FOLDER.is_dir(), min_width=140)
        download = gr.Button("Download labels", size="sm", min_width=140)
        empty = gr.Button("Remove all", size="sm", variant="stop", min_width=110)
    status = gr.Markdown(_EMPTY, elem_classes="sw-status")
    version = gr.Number(0, visible=False)

    @gr.render(inputs=[desk.user, desk.model], triggers=[version.change])
    def draw(user: str, model: str) -> None:
        session = desk.of(user).session() if user else None
        if session is not None:

            def ask(choice: str, event: gr.EventData) -> Annotation:
                return asked(user, choice, session, event._data)

            annotator = Annotator(session, serves_files=False)
            annotator.change(
                lambda marks: in_words(examples_of(marks, session.images)),
                annotator,
                status,
                show_progress="hidden",
                api_visibility="private",
                trigger_mode="always_last",
                **LIGHT_QUEUE,
            )
            annotator.ask(
                ask,
                [desk.model],
                annotator,
                show_progress="hidden",
                api_visibility="private",
                **MODEL_QUEUE,
            )

    def asked(user: str, choice: str, session: AnnotationSession, wish: Any) -> Annotation:
        return proposed(user, choice, session, session.receive_request(wish))

    @spoken
    def proposed(user: str, choice: str, session: AnnotationSession, request: Request) -> Annotation:
        if not propose_answer(session, request, answered(user, choice, Question.of(session, request))):
            gr.Info(f"{choice} found nothing new for “{request.phrase}”.")
        return session.annotation

    @on_gpu
    @spoken
    def answered(user: str, choice: str, question: Question) -> Prediction:
        with desk.shelf.lent(choice, desk.of(user)) as loan:
            return question.answer(loan.predictor())  # type: ignore[arg-type]

    @spoken
    def bring(user: str, files: list[str] | None, count: float) -> tuple[str, float]:
        """Takes pictures, and the labels that came with them in a zip."""
        workspace = desk.of(user)
        if not files:
            raise ValueError("no file was chosen; expected pictures, or a zip of pictures.")
        with tempfile.TemporaryDirectory() as scratch:
            note = take_files(workspace, [Path(file) for file in files], Path(scratch))
        return f"{note} {summary(workspace)}", count + 1

    @spoken
    def take_example(user: str, count: float) -> tuple[str, float]:
        """Ten pictures of coins with their labels, and three to measure on."""
        workspace = desk.of(user)
        add(workspace, [], [Labelled.of(_example_set())])
        return summary(workspace), count + 1

    @spoken
    def name(user: str, text: str) -> str:
        """Adds phrases to look for, given with commas."""
        workspace, found = desk.of(user), desk.phrases(text)
        session = workspace.session()
        if session is None:
            raise ValueError("there are no pictures yet; add some first.")
        if not found:
            raise ValueError("no phrase was given; expected short noun phrases such as `coin, key`.")
        session.change(lambda annotation: annotation.with_phrases(found))
        return summary(workspace)

    @spoken
    def marks(user: str) -> dict[str, Any]:
        """All marks as JSON."""
        session = desk.of(user).session()
        return {} if session is None else session.annotation.to_json()

    @spoken
    def set_marks(user: str, content: dict[str, Any]) -> str:
        """Takes marks in the form that `label_marks` gives."""
        workspace = desk.of(user)
        session = workspace.session()
        if session is None:
            raise ValueError("there are no pictures yet; add some first.")
        session.receive(content)
        return summary(workspace)

    @spoken
    def propose(user: str, choice: str, image_id: str, phrase: str) -> dict[str, Any]:
        """Asks the model for more like the marks of a phrase in a picture; proposals are among the marks then."""
        session = desk.of(user).session()
        if session is None:
            raise ValueError("there are no pictures yet; add some first.")
        wish = session.receive_request({"number": 1, "ask": "similar", "image": image_id, "phrase": phrase})
        return proposed(user, choice, session, wish).to_json()

    @spoken
    def labels(user: str) -> str:
        """A zip of the pictures with all marks, and what was answered as a COCO file; `Add pictures` takes it again."""
        workspace = desk.of(user)
        session = workspace.session()
        if session is None:
            raise ValueError("there is nothing to download yet; add pictures first.")
        target = workspace.folder / "exports" / "labels.zip"
        if num_inside := write_labels(session, target, desk.limits):
            size, most = target.stat().st_size / (1 << 20), desk.limits.file_mb
            gr.Info(
                f"{target.name} is {size:.0f} MB, and Add pictures takes files up to {most} MB. So it holds "
                f"{num_inside} smaller zips: to bring them back, unpack it and add those.",
                duration=30,
            )
        return str(target)

    @spoken
    def remove(user: str, count: float) -> tuple[str, float]:
        """Deletes the visitor's pictures and marks; runs stay."""
        desk.of(user).remove_pictures()
        return _EMPTY, count + 1

    def arrive(user: str, count: float) -> tuple[str, float]:
        return (summary(desk.of(user)) if user else _EMPTY), count + 1

    light: dict[str, Any] = {"show_progress": "hidden", **LIGHT_QUEUE}
    desk.arrived.change(arrive, [desk.user, version], [status, version], api_visibility="private", **light)
    upload.upload(bring, [desk.user, upload, version], [status, version], api_name="label_upload", **LIGHT_QUEUE)
    example.click(take_example, [desk.user, version], [status, version], api_name="label_example", **light)
    saves_file(download, labels, [desk.user], api_name="label_download")
    empty.click(
        remove,
        [desk.user, version],
        [status, version],
        api_name="label_remove",
        **light,
        js=_CONFIRM,
    )
    gr.api(name, api_name="label_phrases", **LIGHT_QUEUE)
    gr.api(marks, api_name="label_marks", **LIGHT_QUEUE)
    gr.api(set_marks, api_name="label_set", **LIGHT_QUEUE)
    gr.api(propose, api_name="label_propose", **MODEL_QUEUE)


def summary(workspace: Workspace) -> str:
    """How far the labelling is, and what is next."""
    session = workspace.session()
    return _EMPTY if session is None else in_words(session.examples())


def in_words(examples: ExampleSet) -> str:
    """How far the labelling of these pictures is, and what is next."""
    known = {example.image_id for example, _ in examples.pairs()}
    objects = sum(concept.num_objects for _, concept in examples.pairs())
    text = f"**{len(known)} of {len(examples)} pictures** are labelled, with {counted(objects, 'object')}. "
    if not examples.phrases:
        return text + "Write what to look for under *add a phrase*, then draw a box around each object."
    if len(known) < 3:
        return text + (
            "In each picture, mark every object of a phrase and tick *All are marked*, or say that it is absent. Only "
            "such answers are learnt."
        )
    enough = "That is enough for *Adapt*." if len(known) >= 10 else "That is enough to try *Adapt*; ten are better."
    return f"{text}{enough} Pictures without the object teach it to say no."


def _example_set() -> ExampleSet:
    learn = ExampleSet.from_coco(EXAMPLE_FOLDER / "train.json", EXAMPLE_FOLDER / "images")
    test = ExampleSet.from_coco(EXAMPLE_FOLDER / "test.json", EXAMPLE_FOLDER / "images")
    return ExampleSet("coins", (*learn.examples, *test.examples[:4]))
