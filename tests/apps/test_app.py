"""The app as programs use it: every handler through Gradio's client, good requests and bad ones, one server for all."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps.limits import Limits
from apps.page import build_app, launch
from workbench.domains import shapes

SECONDS = 300  # a busy machine may need them, a failure never does
LIMITS = Limits(megapixels=2.0, file_mb=20, pictures=8, archive_mb=3, archive_files=20, frames=12, phrases=3, steps=40)
QUICK = "train.images=1\ntrain.phrases=1\ntrain.views=1\nguard.scenes=0\nguard.replay=0"


@dataclass(frozen=True)
class Visitor:
    """A client with a code of its own."""

    client: Client
    code: str

    def __call__(self, name: str, *values: Any) -> Any:
        return self.client.predict(self.code, *values, api_name=f"/{name}")

    def refused(self, name: str, *values: Any) -> str:
        """The words of a refusal."""
        with pytest.raises(AppError) as caught:
            self(name, *values)
        words = str(caught.value)
        assert "Traceback" not in words and "/tmp/" not in words
        return words


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("app")
    blocks = build_app(root, limits=LIMITS)
    yield launch(blocks, prevent_thread_lock=True), root
    blocks.close()


@pytest.fixture(scope="module")
def enter(address: tuple[str, Path]) -> Callable[[str], Visitor]:
    return lambda code: Visitor(Client(address[0], verbose=False), code)


@pytest.fixture(scope="module")
def visitor(enter: Callable[[str], Visitor]) -> Visitor:
    return enter("first-visitor-0001")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A drawn picture with a name in no Latin script, and a phrase that is true of it and found in it."""
    example = shapes.held_out_set(6, 5)[3]
    path = tmp_path_factory.mktemp("scene") / "картина 図.png"
    Image.fromarray(example.load_image()).save(path)
    return str(path), "large red square"


def until(wanted: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (answer := wanted()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return answer


# ------------------------------------------------------------------------------------------------------------- segment
def test_a_phrase_is_found_and_the_score_filters_without_asking_again(visitor, scene):
    path, phrase = scene
    picture, table, words = visitor("segment", "tiny", handle_file(path), f"{phrase}, star", "", 0.5)
    assert "**tiny** answered" in words and f"1 × {phrase}" in words
    assert table["headers"][:3] == ["id", "phrase", "score"] and table["data"][0][1] == phrase
    assert Image.open(picture).size == Image.open(path).size
    (_, weaker, _), start = visitor.client.predict(0.05, api_name="/filter"), time.monotonic()
    assert len(weaker["data"]) >= len(table["data"]) and time.monotonic() - start < 60
    _, nothing, words = visitor.client.predict(0.95, api_name="/filter")
    assert len(nothing["data"]) <= 1 and "hidden" in words
    coco = json.loads(Path(visitor("export_coco", 0.5)).read_text("utf-8"))
    assert [c["name"] for c in coco["categories"]] == [phrase, "star"] and len(coco["annotations"]) == len(
        table["data"]
    )
    with zipfile.ZipFile(visitor("export_masks", 0.5)) as archive:
        masks = [name for name in archive.namelist() if name.endswith(".png")]
        with archive.open(masks[0]) as file:
            mask = np.array(Image.open(file))
    assert len(masks) == len(table["data"]) and mask.any() and mask.shape == Image.open(path).size[::-1]


def test_an_example_box_alone_finds_what_is_like_it(visitor, scene):
    path, phrase = scene
    _, table, _ = visitor("segment", "tiny", handle_file(path), phrase, "", 0.5)
    box = table["data"][0][3]
    _, found, words = visitor("segment", "tiny", handle_file(path), "", f"+ {box}", 0.05)
    assert found["data"] and "like the examples" in words
    assert "belong to one" in visitor.refused("segment", "tiny", handle_file(path), "a, b", f"+ {box}", 0.5)
    assert "lies outside" in visitor.refused("segment", "tiny", handle_file(path), phrase, "+ 0, 0, 9999, 5", 0.5)
    assert "expected a line such as" in visitor.refused("segment", "tiny", handle_file(path), phrase, "box 1 2", 0.5)


def test_what_is_missing_or_wrong_is_said(visitor, scene):
    path, phrase = scene
    assert "there is no picture yet" in visitor.refused("segment", "tiny", None, phrase, "", 0.5)
    assert "nothing is asked" in visitor.refused("segment", "tiny", handle_file(path), " , ", "", 0.5)
    assert "3 are allowed at once" in visitor.refused("segment", "tiny", handle_file(path), "a,b,c,d", "", 0.5)
    assert "there is no model" in visitor.refused("segment", "/etc/passwd", handle_file(path), phrase, "", 0.5)
    assert "there is no run" in visitor.refused("segment", "tiny + ../../x", handle_file(path), phrase, "", 0.5)
    other = Visitor(visitor.client, "../../etc")
    assert "visitor's code" in other.refused("segment", "tiny", handle_file(path), phrase, "", 0.5)


def test_pictures_that_are_broken_or_too_large_are_refused_before_they_are_decoded(visitor, tmp_path):
    broken, large, text = tmp_path / "broken.png", tmp_path / "large.png", tmp_path / "words.png"
    Image.new("RGB", (64, 64), "red").save(broken)
    broken.write_bytes(broken.read_bytes()[:80])
    Image.new("1", (10_000, 10_000)).save(large)  # 100 megapixels in a few KB
    text.write_text("no picture at all")
    assert "broken.png" in visitor.refused("segment", "tiny", handle_file(str(broken)), "star", "", 0.5)
    assert "100 megapixels" in visitor.refused("segment", "tiny", handle_file(str(large)), "star", "", 0.5)
    assert "cannot be read as a picture" in visitor.refused("segment", "tiny", handle_file(str(text)), "star", "", 0.5)


# --------------------------------------------------------------------------------------------------------------- label
def picture(path: Path, side: int = 40) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)).save(path)
    return path


def bring(visitor: Visitor, *files: Path) -> str:
    return visitor("label_upload", [handle_file(str(file)) for file in files], 0)[0]


def test_archives_that_lie_or_lead_astray_are_refused(enter, tmp_path):
    visitor = enter("archives-0001")
    astray, bomb, empty, broken = (tmp_path / f"{name}.zip" for name in ("astray", "bomb", "empty", "broken"))
    with zipfile.ZipFile(astray, "w") as archive:
        archive.write(picture(tmp_path / "a.png"), "../../a.png")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(9_000_000))
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("read.me", "nothing")
    broken.write_bytes(b"PK\x03\x04 no archive")
    for file, words in ((astray, "leads out"), (bomb, "more than 3 MB"), (empty, "no picture"), (broken, "unpacked")):
        assert words in visitor.refused("label_upload", [handle_file(str(file))], 0)
    strange = tmp_path / "notes.txt"
    strange.write_text("hello")
    assert "is no picture" in visitor.refused("label_upload", [handle_file(str(strange))], 0)
    many = [handle_file(str(picture(tmp_path / f"{number}.png"))) for number in range(9)]
    assert "8 are allowed" in visitor.refused("label_upload", many, 0)
    assert visitor("label_marks") == {}


def test_a_wrong_coco_file_is_refused_in_words_and_a_right_one_brings_its_labels(enter, tmp_path):
    visitor = enter("coco-visitor-0001")
    right = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],
        "categories": [{"id": 1, "name": "coin"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 10, 10], "area": 100, "iscrowd": 0}],
    }
    wrong = {**right, "annotations": [{**right["annotations"][0], "category_id": 7}]}
    for name, content in (("wrong", wrong), ("right", right)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(picture(tmp_path / "a.png"), "images/a.png")
            archive.writestr("labels.json", json.dumps(content))
    assert "category" in visitor.refused("label_upload", [handle_file(str(tmp_path / "wrong.zip"))], 0)
    assert "1 of 1 pictures" in bring(visitor, tmp_path / "right.zip")
    (entry,) = visitor("label_marks")["pictures"]
    assert entry["pairs"]["coin"]["marks"][0]["box"] == [4, 4, 14, 14]
    archive = Path(visitor("label_download"))
    with zipfile.ZipFile(archive) as opened:
        assert json.loads(opened.read("labels.json"))["annotations"][0]["bbox"] == [4, 4, 10, 10]
    bring(visitor, archive)  # what was taken along can come back
    first, second = visitor("label_marks")["pictures"]
    assert first["pairs"] == second["pairs"] and {first["id"], second["id"]} == {"a.png", "a-2.png"}


def marked(visitor: Visitor, **pairs: Any) -> dict[str, Any]:
    """Gives every picture these pairs."""
    content = visitor("label_marks")
    for entry in content["pictures"]:
        entry |= {"pairs": pairs, "revision": entry["revision"] + 1, "clicks": 7, "seconds": 3.5}
    visitor("label_set", {**content, "phrases": [*dict.fromkeys([*content["phrases"], *pairs, "never marked"])]})
    return dict(visitor("label_marks"))


BOX = {"id": 1, "kind": "box", "positive": True, "status": "kept", "source": "person", "box": [4, 4, 14, 14]}
PAIRS = {
    "coin": {"state": "present", "exhaustive": True, "marks": [BOX, {**BOX, "id": 2, "positive": False}]},
    "key": {
        "state": "present",
        "exhaustive": False,  # not ticked: no label, but work all the same
        "marks": [
            BOX,
            {"id": 2, "kind": "click", "positive": False, "status": "kept", "source": "person", "point": [30, 30]},
            {**BOX, "id": 3, "status": "rejected", "source": "model", "score": 0.5},
        ],
    },
    "star": {"state": "absent", "exhaustive": False, "marks": []},
}


def test_what_is_not_ticked_leaves_with_the_labels_and_comes_back(enter, tmp_path):
    one, other = enter("marks-leave-0001"), enter("marks-arrive-0001")
    bring(one, picture(tmp_path / "a.png"))
    sent = marked(one, **PAIRS)
    assert sent["pictures"][0]["pairs"] == PAIRS
    archive = Path(one("label_download"))
    with zipfile.ZipFile(archive) as opened:
        assert sorted(opened.namelist())[-2:] == ["labels.json", "marks.json"]
    assert bring(other, archive).startswith("1 picture was added.")
    here = other("label_marks")
    assert here["phrases"] == sent["phrases"] and here["pictures"][0]["pairs"] == PAIRS
    assert (here["pictures"][0]["clicks"], here["pictures"][0]["seconds"]) == (7, 3.5)

    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(tmp_path / "spoilt.zip", "w") as spoilt:
        for name in opened.namelist():
            content = opened.read(name)
            spoilt.writestr(name, content.replace(b'"width": 40', b'"width": 41') if name == "marks.json" else content)
    assert "41x40" in other.refused("label_upload", [handle_file(str(tmp_path / "spoilt.zip"))], 0)


def test_a_coco_file_may_be_called_as_the_marks_are(enter, tmp_path):
    visitor, content = enter("coco-named-marks"), {"categories": [{"id": 1, "name": "coin"}], "annotations": []}
    content["images"] = [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}]
    with zipfile.ZipFile(tmp_path / "named.zip", "w") as archive:
        archive.write(picture(tmp_path / "a.png"), "images/a.png")
        archive.writestr("marks.json", json.dumps(content))
    bring(visitor, tmp_path / "named.zip")
    assert visitor("label_marks")["pictures"][0]["pairs"]["coin"]["state"] == "absent"


def test_labels_that_are_too_large_to_come_back_leave_in_parts_that_can(tmp_path):
    from apps.label_files import take_files, write_labels
    from apps.state import Workspace

    limits = Limits(file_mb=1)
    one, other = Workspace(tmp_path / "one", limits), Workspace(tmp_path / "other", limits)
    one.add_pictures([(f"{number}.png", picture(tmp_path / "large.png", 400)) for number in range(4)])  # 480 kB each
    session = one.session()
    session.change(lambda marks: marks.with_phrases(["coin"]))
    num_parts = write_labels(session, target := tmp_path / "labels.zip", limits)
    with pytest.raises(ValueError, match="holds other zips. Unpack it"):
        take_files(other, [target], tmp_path / "scratch")
    with zipfile.ZipFile(target) as opened:
        opened.extractall(tmp_path / "parts")
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == num_parts == 2 and all(part.stat().st_size <= 1 << 20 for part in parts)
    assert "4 pictures were added" in take_files(other, parts, tmp_path / "scratch-2")
    assert other.session().annotation.phrases == ("coin",)
    assert write_labels(session, target, Limits()) == 0  # together they are small enough here
    assert not list(tmp_path.glob(".*"))


def test_a_second_press_never_meets_half_of_a_zip(enter, tmp_path):
    """Presses at the same time: each file that is handed out is whole."""
    visitor = enter("two-presses-0001")
    bring(visitor, *(picture(tmp_path / f"{number}.png", 300) for number in range(4)))
    found: list[list[str]] = []

    def press() -> None:
        with zipfile.ZipFile(visitor("label_download")) as opened:
            assert opened.testzip() is None
            found.append(opened.namelist())

    threads = [threading.Thread(target=press) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(found) == 6 and all(len(names) >= 6 for names in found)


def test_marks_that_are_drawn_while_files_come_in_are_kept(tmp_path, monkeypatch):
    """A page that was open before the upload sends a mark just before the labels that came in are taken."""
    from apps import label_files
    from apps.state import Workspace
    from workbench.annotation_session import AnnotationSession

    workspace = Workspace(tmp_path / "visitor", LIMITS)
    workspace.add_pictures([("a.png", picture(tmp_path / "a.png"))])
    page = workspace.session()
    content = {"images": [{"id": 1, "file_name": "b.png", "width": 40, "height": 40}], "annotations": []}
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(picture(tmp_path / "b.png"), "images/b.png")
        archive.writestr("labels.json", json.dumps({**content, "categories": [{"id": 1, "name": "coin"}]}))

    def changed(session: AnnotationSession, edit: Any) -> None:
        sent = page.annotation.to_json()
        sent["pictures"][0] |= {"pairs": {"key": PAIRS["key"]}, "revision": 1}
        page.receive({**sent, "phrases": ["key"]})
        real(session, edit)

    real = AnnotationSession.change
    monkeypatch.setattr(AnnotationSession, "change", changed)
    label_files.take_files(workspace, [tmp_path / "labels.zip"], tmp_path / "scratch")
    a, b = AnnotationSession(workspace.pictures).annotation.pictures
    assert len(a.pair("key").marks) == 3 and b.pair("coin").state == "absent"
    assert workspace.session().annotation.picture("a.png") == a


def test_visitors_see_their_own_marks_only_and_proposals_arrive(enter, scene, tmp_path):
    one, other = enter("visitor-one-0001"), enter("visitor-two-0001")
    bring(one, Path(scene[0]))
    bring(other, picture(tmp_path / "b.png"))
    assert "0 of 1" in one("label_phrases", scene[1])
    marks = one("label_marks")
    (entry,) = marks["pictures"]
    proposed = one("label_propose", "tiny", entry["id"], scene[1])["pictures"][0]["pairs"][scene[1]]["marks"]
    assert proposed and {mark["status"] for mark in proposed} == {"proposed"}
    accepted = [{**mark, "status": "kept"} for mark in proposed]
    entry["pairs"] = {scene[1]: {"state": "present", "exhaustive": True, "marks": accepted}}
    entry["revision"] = 99
    assert "**1 of 1 pictures**" in one("label_set", {**marks, "phrases": [scene[1]], "pictures": [entry]})
    assert "b.png" in json.dumps(other("label_marks")) and scene[1] not in json.dumps(other("label_marks"))
    assert "only" in other.refused("label_set", {**marks, "pictures": [entry]})
    assert one("label_remove", 0)[0].startswith("**No pictures yet") and other("label_marks")["pictures"]


# --------------------------------------------------------------------------------------------------- adapt and compare
def status(visitor: Visitor, run: str = "") -> dict[str, Any]:
    return dict(visitor("adapt_status", run))


def start(visitor: Visitor, steps: int, more: str = QUICK, source: str = "my labelled pictures") -> str:
    return str(visitor("adapt_start", "tiny", source, "münzen", "decoder", steps, 2, "star", more)[0]["value"])


@pytest.fixture(scope="module")
def learner(enter, repo_root) -> Visitor:
    """A visitor with labelled pictures of coins."""
    made = enter("learner-0001")
    files = [handle_file(str(path)) for path in sorted((repo_root / "data/coins/images").glob("train_0[1-5].png"))]
    content = json.loads((repo_root / "data/coins/train.json").read_text("utf-8"))
    names = {"train_01.png", "train_02.png", "train_03.png", "train_04.png", "train_05.png"}
    assert "0 of 5" in made("label_upload", files, 0)[0]
    marks = made("label_marks")
    ids = {entry["file_name"]: entry["id"] for entry in content["images"] if entry["file_name"] in names}
    for entry in marks["pictures"]:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == ids[entry["id"]]]
        drawn = [
            {"id": number, "kind": "box", "positive": True, "status": "kept", "source": "person"}
            | {"box": [max(0, x), max(0, y), min(entry["width"], x + w), min(entry["height"], y + h)]}
            for number, (x, y, w, h) in enumerate(boxes, start=1)
        ]
        entry["pairs"] = {"coin": {"state": "present", "exhaustive": True, "marks": drawn}}
        entry["revision"] = 1
    assert "5 of 5" in made("label_set", {**marks, "phrases": ["coin"]})
    return made


def test_before_a_training_its_negatives_and_its_cost_can_be_asked_for(learner):
    phrases, words = learner("adapt_suggest", "tiny", "star", "my labelled pictures")
    assert phrases.startswith("star") and "wrongly" in words
    assert (
        "numbers" in (words := learner("adapt_cost", "tiny", "my labelled pictures", "presence", 20)) and "GB" in words
    )


def test_a_training_is_stopped_resumed_and_compared_and_its_adapter_answers(learner, enter, scene, address):
    run = start(learner, 12)
    assert run == "münzen" and status(learner)["is_running"]
    assert "runs already" in learner.refused(
        "adapt_start", "tiny", "my labelled pictures", "b", "decoder", 5, 2, "", QUICK
    )
    until(lambda: status(learner)["step"] >= 2)
    learner("adapt_stop", run)
    stopped = until(lambda: (shot := status(learner)) and not shot["is_running"] and shot)
    assert stopped["phase"] == "stopped" and 2 <= stopped["step"] < 12, stopped
    assert status(enter("somebody-else-0001"))["phase"] == "none"
    assert "not finished" in learner.refused("compare_report", run)
    later = enter(learner.code)  # another page of the same visitor
    later("adapt_resume", run)
    done = until(lambda: (shot := status(later, run)) and not shot["is_running"] and shot)
    assert done["is_finished"] and done["error"] is None and len(done["losses"]) == 12

    pairs, words, sides, verdict, table = later("compare_show", run)
    assert "tiny" in words and "münzen" in words and "2 pictures" in words
    assert [row[0].split(":")[0] for row in table["data"]][:3] == ["cgF1", "pmF1", "IL_MCC"]
    assert Image.open(sides[0]).size == Image.open(sides[1]).size and "Before:" in verdict
    sides, verdict = later("compare_pair", run, pairs["choices"][-1][1])
    assert "After:" in verdict and "did not measure" in later.refused("compare_pair", run, "no | pair")
    assert Path(later("compare_report", run)).read_text("utf-8").startswith("<!DOCTYPE html>")
    with zipfile.ZipFile(later("compare_adapter", run)) as archive:
        assert any(name.endswith(".safetensors") for name in archive.namelist())
    choices = [value for _, value in later("models", "tiny")["choices"]]
    assert choices == ["tiny", "tiny + münzen"]
    *_, words = later("segment", "tiny + münzen", handle_file(scene[0]), "coin", "", 0.5)
    assert "**tiny + münzen** answered" in words
    *_, words = later("segment", "tiny", handle_file(scene[0]), scene[1], "", 0.5)
    assert "**tiny** answered" in words and f"1 × {scene[1]}" in words  # the adapter is off for everybody else
    assert "there is no run" in enter("somebody-else-0001").refused(
        "segment", "tiny + münzen", handle_file(scene[0]), "coin", "", 0.5
    )


def test_settings_of_a_training_that_do_not_fit_are_refused(learner, enter):
    assert "at least 2 are needed" in enter("empty-0001").refused(
        "adapt_start", "tiny", "my labelled pictures", "a", "decoder", 5, 2, "", ""
    )
    for more, words in (
        ("learn.annotations=/etc/passwd", "expected names that begin with"),
        ("train.stepps=3", "is no setting"),
        ("train.steps=5000", "40 are allowed"),
    ):
        assert words in learner.refused("adapt_start", "tiny", "my labelled pictures", "a", "decoder", 5, 2, "", more)
    assert "not in the list of choices" in learner.refused("adapt_start", "tiny", "../x", "a", "decoder", 5, 2, "", "")


# --------------------------------------------------------------------------------------------------------------- video
def test_a_clip_is_followed_and_a_long_or_broken_one_refused(visitor, tmp_path):
    from sam3.video.source import open_video
    from workbench.video_overlay import write_overlay

    clip, phrases = visitor("video_example")
    assert "12 are allowed" in visitor.refused("video_follow", "tiny", handle_file(clip), phrases, 4, True)
    frames = np.full((6, 64, 64, 3), 200, np.uint8)
    for number in range(6):
        frames[number, 10:30, 8 + 3 * number : 28 + 3 * number] = (200, 30, 30)
    short = write_overlay(open_video(frames, frame_rate=6), [], tmp_path / "short.mp4")
    data, words = visitor("video_follow", "tiny", handle_file(str(short)), "red square", 4, True)
    assert data["num_frames"] == 4 and "**tiny** followed" in words and len(data["frames"]) == 4
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(short.read_bytes()[:200])
    assert "cannot be read as a video" in visitor.refused(
        "video_follow", "tiny", handle_file(str(broken)), "star", 4, True
    )
    assert "nothing is asked" in visitor.refused("video_follow", "tiny", handle_file(str(short)), "", 4, True)


# ------------------------------------------------------------------------------------------------------------ the rest
def test_every_public_request_has_a_name_and_takes_plain_values(visitor):
    named = visitor.client.view_api(return_format="dict")["named_endpoints"]
    assert {"/segment", "/label_upload", "/adapt_start", "/compare_show", "/video_follow"} <= named.keys()
    strange = [name for name in named if name.startswith(("/lambda", "/tick", "/look_", "/listed"))]
    assert not strange, strange


def test_two_visitors_at_once_get_their_own_answers(enter, scene, tmp_path):
    blank = tmp_path / "blank.png"
    Image.new("RGB", (64, 48), "white").save(blank)
    said: dict[str, list[Any]] = {}

    def ask(code: str, path: str) -> None:
        visitor = enter(code)
        said[code] = [visitor("segment", "tiny", handle_file(path), scene[1], "", 0.5)[2] for _ in range(2)]
        said[code].append(visitor.client.predict(0.5, api_name="/filter")[2])

    threads = [
        threading.Thread(target=ask, args=one) for one in (("threads-a-0001", scene[0]), ("threads-b-0001", str(blank)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert all(f"1 × {scene[1]}" in words for words in said["threads-a-0001"])
    assert all(f"0 × {scene[1]}" in words for words in said["threads-b-0001"])


def test_old_folders_are_deleted_and_others_stay(tmp_path):
    from apps.state import Workspaces

    root = tmp_path / "visitors"
    old, fresh = (Workspaces(root, LIMITS).of(code) for code in ("old-visitor", "new-visitor"))
    (root / "not-ours").mkdir()
    os.utime(old.folder / "used", (0, 0))
    again = Workspaces(root, LIMITS, keep_days=1)
    again.clean()
    assert not old.folder.exists() and fresh.folder.exists() and (root / "not-ours").exists()
