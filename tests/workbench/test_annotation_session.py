"""What stands behind an annotator: pictures, the file, versions that meet, and the widgets without a browser."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3.predictor import Prediction
from workbench.annotation import Annotation, Mark, PairMarks, load_annotation
from workbench.annotation_session import AnnotationSession, Request
from workbench.examples import Concept, Example, ExampleSet
from workbench.widgets import Annotator, MaskletPlayer

BOX = {"id": 1, "kind": "box", "positive": True, "box": [2, 3, 10, 9]}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for name, shade in (("a.png", 40), ("b.jpg", 90)):
        Image.new("RGB", (40, 30), (shade, 80, 120)).save(tmp_path / name)
    return tmp_path


def sent(session: AnnotationSession, image_id: str = "a.png", **pair: Any) -> dict[str, Any]:
    """What a page sends after one change in a picture."""
    value = session.annotation.to_json()
    entry = next(entry for entry in value["pictures"] if entry["id"] == image_id)
    entry["revision"] += 1
    entry["pairs"]["coin"] = {"state": "present", "exhaustive": False, "marks": [BOX]} | pair
    return value


def test_a_restarted_kernel_goes_on_where_the_last_one_stopped(folder: Path) -> None:
    first = AnnotationSession(folder, ["coin"])
    first.receive(sent(first, exhaustive=True))
    assert [file.name for file in folder.iterdir() if file.suffix == ".json"] == ["marks.json"]
    second = AnnotationSession(folder, ["Coin", "star"])
    assert second.annotation.phrases == ("coin", "star")
    assert second.annotation.picture("a.png").pair("coin").is_exhaustive
    ((example, concept),) = second.examples().pairs()
    assert example.image_id == "a.png" and concept.boxes_xyxy_px.tolist() == [[2, 3, 10, 9]]


def test_marks_of_a_picture_that_is_gone_stay_in_the_file(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    session.receive(sent(session))
    picture = (folder / "a.png").read_bytes()
    (folder / "a.png").unlink()
    without = AnnotationSession(folder)
    assert without.task()["pictures"] == ["b.jpg"] and len(without.examples()) == 1
    without.receive(sent(without, "b.jpg"))
    (folder / "a.png").write_bytes(picture)
    assert AnnotationSession(folder).annotation.picture("a.png").pair("coin").objects


def test_a_page_that_was_opened_earlier_cannot_undo_later_marks(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    stale = sent(session, "b.jpg")
    session.receive(sent(session, "a.png"))
    session.receive(stale)
    assert [bool(picture.pair("coin").objects) for picture in session.annotation.pictures] == [True, True]


def test_a_message_on_its_way_does_not_take_proposals_back(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    value = sent(session)
    session.receive(value)
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 15:25, 20:35] = True
    found = Prediction("coin", np.zeros((1, 4), np.float32), mask, np.ones(1, np.float32), 0.9, (30, 40))
    session.propose("a.png", "coin", found)
    session.receive(value)
    assert len(session.annotation.picture("a.png").pair("coin").proposals) == 1


def test_two_changes_at_the_same_time_are_not_lost_in_silence(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    first, second = sent(session), sent(session, marks=[{**BOX, "box": [20, 3, 30, 9]}])
    session.receive(first)
    with pytest.raises(ValueError, match="image 'a.png' was changed on another page .* Load this page anew"):
        session.receive(second)
    assert session.annotation.picture("a.png").pair("coin").objects[0].box_xyxy_px == (2, 3, 10, 9)


def test_bad_values_change_nothing(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    session.receive(sent(session))
    before = session.annotation
    with pytest.raises(ValueError, match="image 'a.png', 'coin', mark 1: .* leaves the picture"):
        session.receive(sent(session, marks=[{**BOX, "box": [2, 3, 99, 9]}]))
    value = sent(session)
    value["pictures"].pop()
    with pytest.raises(ValueError, match="the marks are of other pictures: 'b.jpg'"):
        session.receive(value)
    assert session.annotation == before == load_annotation(folder / "marks.json")


def test_pictures_and_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    session.receive(sent(session))
    Image.new("RGB", (41, 30)).save(folder / "a.png")
    with pytest.raises(ValueError, match="was marked at 40x30, but is 41x30 now"):
        AnnotationSession(folder)
    (folder / "marks.json").write_text("{}")
    with pytest.raises(ValueError, match=r"marks.json: received marks of the form None.* Move the file away"):
        AnnotationSession(folder)
    with pytest.raises(ValueError, match=r"phrases is the text 'coin'; expected a list such as \['coin'\]"):
        AnnotationSession(folder, "coin")
    with pytest.raises(ValueError, match="there is no folder"):
        AnnotationSession(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="twice; give each file once"):
        AnnotationSession([folder / "b.jpg", folder / "b.jpg"])


def test_what_python_sets_is_newer_than_what_a_page_has_sent(folder: Path) -> None:
    annotator = Annotator(folder, ["coin"])
    picture = annotator.annotation.picture("a.png")
    pair = PairMarks("present", True, (Mark(1, "box", box_xyxy_px=(1, 1, 5, 5)),))
    annotator.annotation = annotator.annotation.with_picture(replace(picture, pairs={"coin": pair}))
    assert [p.revision for p in annotator.annotation.pictures] == [1, 0]
    assert load_annotation(folder / "marks.json") == annotator.annotation
    with pytest.raises(ValueError, match="the marks are of other pictures"):
        annotator.annotation = Annotation(("coin",))


def test_sessions_of_one_file_keep_what_each_other_wrote(folder: Path) -> None:
    """Another session may have written since: a change from Python and proposals go on from what is on disk."""
    first, second = (AnnotationSession(folder, ["coin"]) for _ in range(2))
    first.receive(sent(first))
    second.change(lambda marks: marks.with_phrases(["key"]))
    assert second.annotation.phrases == ("coin", "key") and second.annotation.picture("a.png").pair("coin").marks
    first.receive(sent(first, "b.jpg"))
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 20:28, 20:38] = True
    second.propose(
        "a.png", "coin", Prediction("coin", np.zeros((1, 4), np.float32), mask, np.ones(1, np.float32), 0.9, (30, 40))
    )
    kept = load_annotation(folder / "marks.json")
    assert len(kept.picture("b.jpg").pair("coin").marks) == 1 and len(kept.picture("a.png").pair("coin").marks) == 2


def test_labelled_sets_are_shown_with_their_labels() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 4:9, 5:12] = True
    data = ExampleSet("set", (Example("x", image, 40, 30, (Concept("coin", masks=mask),)),))
    annotator = Annotator(data)
    assert annotator.session.path is None
    assert np.array_equal(annotator.examples().example("x").concept("coin").masks, mask)  # type: ignore[union-attr]
    assert annotator.session.encoded_picture("x", 20)[:2] == b"\xff\xd8"
    with pytest.raises(ValueError, match="there is no image 'y'; the pictures are x"):
        annotator.session.encoded_picture("y", 20)


def test_requests_are_reported_and_checked(folder: Path) -> None:
    session = AnnotationSession(folder, ["coin"])
    asked = {"number": 1, "ask": "similar", "image": "a.png", "phrase": "coin", "mark": None}
    assert session.receive_request(asked) == Request(1, "similar", "a.png", "coin") == session.request
    for change, message in (
        ({"ask": "train"}, "request for 'train'; expected one of similar, outline"),
        ({"image": "z"}, "image 'z', which is not in this annotator"),
    ):
        with pytest.raises(ValueError, match=message):
            session.receive_request(asked | change)
    with pytest.raises(ValueError, match="expected number, ask, image and phrase"):
        session.receive_request({})


def test_the_workbench_needs_no_interface_package() -> None:
    code = (
        "import sys; sys.modules['anywidget'] = None; import workbench.widgets as w; a = w.Annotator()\n"
        "try: a.widget\nexcept ImportError as error: print(error)\nprint('gradio' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "pip install 'sam3-workbench[notebooks]'" in answer.stdout and "False" in answer.stdout


def test_the_widget_takes_marks_and_reports_requests(folder: Path) -> None:
    pytest.importorskip("anywidget")
    annotator, heard = Annotator(folder, ["coin"]), []
    annotator.on_request(heard.append)
    widget = annotator.widget
    widget.set_state({"value": sent(annotator.session, exhaustive=True)})
    assert annotator.annotation.picture("a.png").pair("coin").is_exhaustive
    assert widget.note == {"text": "saved in marks.json", "is_error": False}
    widget.set_state({"value": sent(annotator.session, marks=[{**BOX, "box": [0, 0, 99, 9]}])})
    assert widget.note["is_error"] and "leaves the picture" in widget.note["text"]
    widget.set_state({"request": {"number": 5, "ask": "outline", "image": "a.png", "phrase": "coin", "mark": 1}})
    assert heard == [annotator.request] == [Request(5, "outline", "a.png", "coin", 1)]

    mask = np.zeros((1, 30, 40), bool)
    mask[0, 15:25, 20:35] = True
    found = Prediction("coin", np.array([[20, 15, 35, 25]], np.float32), mask, np.array([0.8]), 0.9, (30, 40))  # type: ignore[arg-type]
    annotator.propose("a.png", "coin", found)
    shown = Annotation.from_json(dict(widget.value)).picture("a.png").pair("coin")
    assert [mark.status for mark in shown.marks] == ["kept", "proposed"]

    answers: list[Any] = []
    widget.send = lambda content, buffers=None: answers.append((content, buffers))  # type: ignore[method-assign]
    annotator._send_picture(widget, {"number": 1, "picture": "a.png", "is_small": True}, [])
    annotator._send_picture(widget, {"number": 2, "picture": "zzz"}, [])
    assert answers[0][1][0][:2] == b"\xff\xd8" and "there is no image 'zzz'" in answers[1][0]["error"]


def test_the_player_is_refused_what_it_cannot_show(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"x")
    data: dict[str, Any] = {
        "format": "workbench-masklets-1",
        "video": str(video),
        "size": [4, 6],
        "frame_rate": 10,
        "num_frames": 2,
        "times_s": [0.0, 0.1],
        "sides": [{"title": "before", "masklets": []}, {"title": "after", "masklets": [{"id": 3, "phrase": "cat"}]}],
        "frames": [[[], [{"id": 3, "score": 1, "box_xyxy_px": [0, 0, 6, 4], "rle": "0h0"}]], [[], []]],
    }
    player = MaskletPlayer(data)
    player.frame = 1
    assert (player.frame, player.side, player.hidden_ids) == (1, "after", ())
    with pytest.raises(ValueError, match=r"received frame 2; the video has frames 0\.\.1"):
        player.frame = 2
    for change, message in (
        ({"format": "x"}, "form 'x'; expected 'workbench-masklets-1'"),
        ({"times_s": [0.0]}, "2 frames are stated, 1 times and 2 frames given"),
        ({"times_s": [0.1, 0.1]}, "rising times"),
        ({"frames": [[[]], [[]]]}, "frame 0 has 1 sides, 2 are named"),
        ({"frames": [[[{"id": 9, "box_xyxy_px": [0, 0, 1, 1]}], []], [[], []]]}, "object 9 is not among"),
        ({"size": [5, 6]}, "run lengths cannot be decoded"),
        ({"video": "nowhere.mp4"}, "there is no video nowhere.mp4"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskletPlayer(data | change)
