"""Annotator and player in a Gradio page, used as a person uses them; what Python holds and what the canvas shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from sam3.predictor import Prediction
from workbench.annotation import Annotation, Mark, load_annotation
from workbench.annotation_session import AnnotationSession

WIDTH, HEIGHT = 320, 240


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.new("RGB", (WIDTH, HEIGHT), (shade, 80, 120)).save(folder / name)
    return folder


@pytest.fixture()
def launched() -> Iterator[Callable[[Any], str]]:
    running: list[Any] = []

    def launch(blocks: Any) -> str:
        blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        running.append(blocks)
        return str(blocks.local_url)

    yield launch
    for blocks in running:
        blocks.close()


class Desk:
    """A page with an annotator, addressed in pixels of the picture."""

    def __init__(self, page: Any, url: str):
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("console", lambda message: self.errors.append(message.text) if "js_on_load" in message.text else None)
        page.on("request", lambda request: self.errors.append(request.url) if _is_foreign(request.url) else None)
        page.goto(url)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector(".sw-annotator .sw-phrase", timeout=60_000)
        self.page.wait_for_timeout(500)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a pixel of the whole picture on the page."""
        box = self.page.locator(".sw-stage canvas").bounding_box()
        scale = min((box["width"] - 16) / WIDTH, (box["height"] - 16) / HEIGHT)
        left, top = (box["width"] - WIDTH * scale) / 2, (box["height"] - HEIGHT * scale) / 2
        return box["x"] + left + x * scale, box["y"] + top + y * scale

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*start))
        mouse.down()
        mouse.move(*self.at((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        mouse.move(*self.at(*end))
        mouse.up()

    def choose_by_finger(self, tool: str) -> None:
        """Taps a tool; the click that a tap makes comes a moment after it."""
        button = self.page.locator(f'[data-tool="{tool}"]')
        button.tap()
        until(lambda: button.get_attribute("aria-pressed") == "true")

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def colour(self, x: float, y: float) -> tuple[int, ...]:
        """What the canvas shows at a pixel of the picture."""
        self.page.wait_for_timeout(150)
        box = self.page.locator(".sw-stage canvas").bounding_box()
        px, py = self.at(x, y)
        code = (
            "([x, y]) => [...document.querySelector('.sw-stage canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
        )
        return tuple(self.page.evaluate(code, [px - box["x"], py - box["y"]])[:3])


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:"))


def until(wanted: Callable[[], Any], seconds: float = 10) -> Any:
    """The first true answer, within some seconds."""
    end = time.monotonic() + seconds
    while not (answer := wanted()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def marks_of(session: AnnotationSession, image_id: str = "a.png") -> tuple[Mark, ...]:
    return session.annotation.picture(image_id).pair("coin").marks


def circle(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


@pytest.mark.browser
def test_a_person_marks_pictures_and_goes_on_after_a_reload(
    browser: Any, pictures: Path, launched: Callable[[Any], str]
) -> None:
    from apps.annotator import page as annotator_page

    session = AnnotationSession(pictures, ["coin", "star"])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    desk = Desk(page, launched(annotator_page(session)))
    assert np.abs(np.subtract(desk.colour(300, 200), (40, 80, 120))).max() <= 2

    desk.drag((40, 40), (100, 90))
    until(lambda: len(marks_of(session)) == 1)
    assert marks_of(session)[0].is_object
    assert np.abs(np.subtract(marks_of(session)[0].box_xyxy_px, (40, 40, 100, 90))).max() <= 1
    desk.key("x")
    desk.drag((200, 150), (260, 200))
    desk.key("Escape", "c", "x")
    desk.click(150, 60)
    until(lambda: [(m.kind, m.is_positive) for m in marks_of(session)] == [("box", 1), ("box", 0), ("click", 1)])

    desk.key("Control+z", "Control+z")
    until(lambda: len(marks_of(session)) == 1)
    desk.key("Control+Shift+z")
    until(lambda: len(marks_of(session)) == 2)

    desk.key("v")
    desk.click(70, 65)  # selects the first box
    desk.drag((100, 90), (120, 110))  # its lower right handle
    until(lambda: np.abs(np.subtract(marks_of(session)[0].box_xyxy_px, (40, 40, 120, 110))).max() <= 1)
    desk.drag((60, 60), (80, 50))
    until(lambda: np.abs(np.subtract(marks_of(session)[0].box_xyxy_px, (60, 30, 140, 100))).max() <= 1)
    desk.key("Shift+ArrowRight")
    until(lambda: np.abs(np.subtract(marks_of(session)[0].box_xyxy_px, (70, 30, 150, 100))).max() <= 1)
    desk.key("e")
    until(lambda: session.annotation.picture("a.png").pair("coin").is_exhaustive)
    desk.key("2", "n", ".", "n")  # no star in the first picture, none in the second
    until(lambda: session.annotation.picture("b.png").pair("star").state == "absent")
    assert page.locator(".sw-strip button").first.get_attribute("data-progress") == "done"

    kept = session.annotation
    assert load_annotation(pictures / "marks.json") == kept
    page.reload()
    desk.ready()
    assert page.locator(".sw-mark").count() == 2
    assert page.locator(".sw-tick input").is_checked()
    assert 8 <= kept.picture("a.png").num_clicks < 40 and kept.picture("a.png").seconds > 0
    desk.key("Tab")
    page.locator('[data-mark="1"] button').first.click()
    desk.key("Delete")
    until(lambda: [mark.id for mark in marks_of(session)] == [2])
    assert session.annotation.picture("a.png").pair("coin").state == "unchecked"
    assert desk.errors == []
    page.close()


@pytest.mark.browser
def test_proposals_arrive_from_python_and_are_judged(
    browser: Any, pictures: Path, launched: Callable[[Any], str]
) -> None:
    from apps.annotator import Annotator

    session, asked = AnnotationSession(pictures, ["coin"]), []
    masks = np.stack([circle(80, 80, 30), circle(240, 80, 30), circle(240, 180, 30)])
    boxes, scores = np.zeros((3, 4), np.float32), np.array([0.9, 0.8, 0.7], np.float32)
    found = Prediction("coin", boxes, masks, scores, 0.9, (HEIGHT, WIDTH))

    def answer(event: gr.EventData) -> Annotation:
        asked.append(session.receive_request(event._data))
        session.propose("a.png", "coin", found)
        return session.annotation

    with gr.Blocks() as blocks:
        annotator = Annotator(session)
        annotator.ask(answer, outputs=annotator)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    desk = Desk(page, launched(blocks))
    desk.drag((50, 50), (110, 110))
    until(lambda: len(marks_of(session)) == 1)
    plain = desk.colour(240, 85)
    page.get_by_text("Find more like these").click()
    until(lambda: asked)
    assert (asked[0].ask, asked[0].image_id, asked[0].phrase, asked[0].mark) == ("similar", "a.png", "coin", 1)
    page.wait_for_selector('[data-mark="4"]')
    changed = [desk.colour(240 + shift, 85) for shift in range(8)]
    assert any(np.abs(np.subtract(colour, plain)).max() > 20 for colour in changed)

    page.locator('[data-mark="2"] button').first.click()
    page.get_by_text("Accept", exact=False).and_(page.locator(".sw-over button")).click()
    until(lambda: [mark.status for mark in marks_of(session)] == ["kept", "proposed", "proposed"])
    assert [mark.kind for mark in marks_of(session)] == [
        "mask",
        "mask",
        "mask",
    ]  # the outline took the place of the box
    desk.key("r")
    until(lambda: [mark.status for mark in marks_of(session)] == ["kept", "rejected", "proposed"])
    page.get_by_text("Accept all").click()
    until(lambda: [mark.status for mark in marks_of(session)] == ["kept", "rejected", "kept"])
    assert np.array_equal(marks_of(session)[2].rle.mask(), masks[2])  # type: ignore[union-attr]
    desk.key("Control+z")
    until(lambda: marks_of(session)[2].status == "proposed")

    desk.key("Escape", "m")
    desk.drag((150, 180), (180, 180))
    until(lambda: len(marks_of(session)) == 4)
    painted = marks_of(session)[3].rle.mask()  # type: ignore[union-attr]
    assert painted[180, 150:180].all() and 150 < painted.sum() < 900
    assert desk.errors == []
    page.close()


@pytest.mark.browser
def test_the_keyboard_alone_marks_an_object(browser: Any, pictures: Path, launched: Callable[[Any], str]) -> None:
    from apps.annotator import page as annotator_page

    session = AnnotationSession(pictures, [])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(launched(annotator_page(session)))
    page.get_by_label("add a phrase").fill("coin, red  star,")
    page.keyboard.press("Enter")
    until(lambda: session.annotation.phrases == ("coin", "red star"))
    page.locator(".sw-annotator").focus()

    def boxes() -> list[Any]:
        return [mark.box_xyxy_px for mark in marks_of(session)]

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    press("b")
    for _ in range(3):
        page.keyboard.down("Enter")  # held: the second and the third come as repeats
    page.keyboard.up("Enter")
    until(lambda: boxes() == [(130.0, 90.0, 190.0, 150.0)])  # in the middle of 320x240
    press("Shift+ArrowLeft", "ArrowUp", "Control+Shift+ArrowRight", "Control+ArrowUp")
    until(lambda: boxes() == [(120.0, 89.0, 190.0, 148.0)])
    press("e")
    until(lambda: session.annotation.picture("a.png").pair("coin").is_exhaustive)
    press("Control+z", "Control+z", "Control+z", "Control+z", "Control+z", "Control+z")
    until(lambda: boxes() == [])
    press("?")
    page.get_by_text("make the box larger, smaller").wait_for()
    assert errors == []
    page.close()


@pytest.mark.browser
def test_fingers_draw_and_zoom_on_a_phone(browser: Any, pictures: Path, launched: Callable[[Any], str]) -> None:
    from apps.annotator import page as annotator_page

    session = AnnotationSession(pictures, ["coin"])
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    desk = Desk(page, launched(annotator_page(session)))
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    desk.choose_by_finger("click")
    page.touchscreen.tap(*desk.at(100, 100))
    until(lambda: [mark.kind for mark in marks_of(session)] == ["click"])
    assert np.abs(np.subtract(marks_of(session)[0].point_xy_px, (100, 100))).max() <= 1.5

    client = page.context.new_cdp_session(page)
    (x0, y0), (x1, y1) = desk.at(140, 120), desk.at(180, 120)
    for kind, spread in (("touchStart", 0), ("touchMove", 25), ("touchMove", 60), ("touchEnd", None)):
        points = [] if spread is None else [{"x": x0 - spread, "y": y0, "id": 0}, {"x": x1 + spread, "y": y1, "id": 1}]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert len(marks_of(session)) == 1
    desk.choose_by_finger("box")
    (x0, y0), (x1, y1) = desk.at(140, 100), desk.at(180, 140)
    for kind, points in (
        ("touchStart", [{"x": x0, "y": y0}]),
        ("touchMove", [{"x": x1, "y": y1}]),
        ("touchEnd", []),
    ):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    box = until(lambda: marks_of(session)[1:])[0].box_xyxy_px
    assert 5 < box[2] - box[0] < 25  # drawn over 40 pixels of the fitted picture, which is enlarged now
    assert desk.errors == []
    page.close()


SHOWN = """() => {
  const video = document.querySelector(".sw-screen video"), overlay = document.querySelector(".sw-screen canvas");
  const canvas = Object.assign(document.createElement("canvas"), {width: 160, height: 96});
  const pen = canvas.getContext("2d");
  pen.drawImage(video, 0, 0);
  const sight = overlay.getContext("2d"), scale = overlay.width / 160;
  const at = x => [...sight.getImageData((x + 0.5) * scale, 50.5 * scale, 1, 1).data];
  const isColoured = x => at(x)[3] > 0 && at(x)[2] < 200; // the rim is white
  const left = Array.from({length: 160}, (_, x) => isColoured(x)).indexOf(true);
  const red = pen.getImageData(80, 10, 1, 1).data[0];
  return {frame: Number(document.querySelector(".sw-player").dataset.frame), red,
    left, inside: left < 0 ? null : at(left + 10).slice(0, 3)};
}"""


@pytest.mark.browser
def test_the_player_shows_each_frame_with_its_own_objects(
    browser: Any, counting_clip: Path, launched: Callable[[Any], str]
) -> None:
    from apps.player import MaskletPlayer
    from workbench.video_overlay import colour_of

    seen: list[Any] = []
    with gr.Blocks() as blocks:
        player = MaskletPlayer(counting_clip)
        player.shown(_noting(seen))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(launched(blocks))
    page.wait_for_function("document.querySelector('.sw-screen video')?.readyState >= 2", timeout=60_000)

    # Decoding and drawing take their time on a busy machine: what is expected is waited for, whatever is shown before.
    def settled(is_so: str, frame: int) -> dict[str, Any]:
        page.wait_for_function(
            f"frame => {{ const now = ({SHOWN})(); return now.frame === frame && ({is_so}) }}",
            arg=frame,
            timeout=60_000,
        )
        return dict(page.evaluate(SHOWN))

    def check(frame: int) -> None:
        state = settled("Math.abs(now.red - 8 * frame) <= 3 && Math.abs(now.left - 4 * frame) <= 1", frame)
        assert np.abs(np.subtract(state["inside"], colour_of(3))).max() <= 2

    def check_nothing(frame: int) -> None:
        settled("Math.abs(now.red - 8 * frame) <= 3 && now.left === -1", frame)

    page.locator(".sw-player").focus()
    for keys, frame in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 29), ("ArrowLeft", 28)):
        page.keyboard.press(keys)
        check(frame)
    page.locator(".sw-range").fill("20")
    check(20)
    page.locator(".sw-player").focus()
    page.keyboard.press("b")
    check_nothing(20)  # before, the object was lost by then
    page.keyboard.press("b")
    check(20)
    page.locator('[data-object="3"]').click()
    check_nothing(20)
    page.locator('[data-object="3"]').click()
    page.keyboard.press("Home")
    check(0)
    page.locator("[data-play]").click()
    page.wait_for_function("Number(document.querySelector('.sw-player').dataset.frame) >= 5", timeout=60_000)
    page.evaluate("document.querySelector('.sw-screen video').pause()")
    frame = until(lambda: _steady(page))
    check(frame)
    until(lambda: seen and seen[-1]["frame"] == frame)
    assert errors == []
    page.close()


def _steady(page: Any) -> int | None:
    """The frame that is shown, when it no longer changes."""
    frames = []
    for _ in range(2):
        frames.append(int(page.locator(".sw-player").get_attribute("data-frame")))
        page.wait_for_timeout(300)
    return frames[0] if frames[0] == frames[1] else None


def _noting(seen: list[Any]) -> Callable[[gr.EventData], None]:
    def note(event: gr.EventData) -> None:
        seen.append(event._data)

    return note


def test_the_components_take_and_give_checked_values(pictures: Path, counting_clip: Path) -> None:
    from apps.annotator import Annotator
    from apps.player import MaskletPlayer

    session = AnnotationSession(pictures, ["coin"])
    annotator = Annotator(session)
    assert annotator.preprocess(annotator.postprocess(session.annotation)) == session.annotation
    with pytest.raises(ValueError, match="expected 'workbench-marks-1'"):
        annotator.preprocess({"format": "other"})
    player = MaskletPlayer(counting_clip)
    assert Path(player.postprocess(counting_clip)["video"]) == counting_clip.with_suffix(".mp4").resolve()
    with pytest.raises(ValueError, match="expected 'workbench-masklets-1'"):
        player.postprocess({"format": "other"})
