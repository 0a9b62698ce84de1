"""The app in the browser, as a first visitor uses it: label by drawing, train, stop, reload, resume, compare, play."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WAIT_MS = 300_000  # a busy machine may need them, a failure never does
SIDE = 120
STEPS = 12
HELD = 5  # the step at which the training waits until Stop was pressed, however slow the machine is
QUICK = "train.images=1\ntrain.phrases=1\ntrain.views=1\nguard.scenes=0\nguard.replay=0"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    from apps.limits import Limits
    from apps.page import build_app, launch

    root = tmp_path_factory.mktemp("visitors")
    blocks = build_app(root, limits=Limits(frames=20))
    yield launch(blocks, prevent_thread_lock=True), root
    blocks.close()


@pytest.fixture()
def drawn(tmp_path: Path) -> list[str]:
    """Three pictures with a bright disc on grey in the same place."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    files = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(90, 120, (SIDE, SIDE, 3)).astype(np.uint8)
        pixels[(rows - 60) ** 2 + (columns - 60) ** 2 < 30**2] = (220, 190, 60)
        Image.fromarray(pixels).save(tmp_path / f"münze {number}.png")
        files.append(str(tmp_path / f"münze {number}.png"))
    return files


class Visit:
    """A page, used by what can be read on it."""

    def __init__(self, browser: Any, url: str, width: int, height: int):
        self.context, self.url = browser.new_context(viewport={"width": width, "height": height}), url
        self.errors: list[str] = []
        self.open()

    def open(self) -> None:
        """A new page of the same visitor."""
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(self.url)
        self.page.get_by_role("button", name="Find", exact=True).wait_for()

    def _note(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:")):
            self.errors.append(f"asked for {url}")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def text(self, words: str) -> None:
        """Waits until the words can be read."""
        self.page.get_by_text(words).locator("visible=true").first.wait_for()

    def saved(self, name: str) -> str:
        """The name of the file that a press of a button saves."""
        with self.page.expect_download() as download:
            self.press(name)
        return str(download.value.suggested_filename)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draws in the annotator, in pixels of the picture."""
        canvas = self.page.locator(".sw-stage canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        scale = min((box["width"] - 16) / SIDE, (box["height"] - 16) / SIDE)
        left, top = box["x"] + (box["width"] - SIDE * scale) / 2, box["y"] + (box["height"] - SIDE * scale) / 2
        mouse = self.page.mouse
        mouse.move(left + start[0] * scale, top + start[1] * scale)
        mouse.down()
        mouse.move(left + end[0] * scale, top + end[1] * scale, steps=3)
        mouse.up()


def until(wanted: Callable[[], Any], page: Any) -> Any:
    end = time.monotonic() + WAIT_MS / 1000
    while not (answer := wanted()):
        assert time.monotonic() < end, f"waited in vain; the page says {page.locator('.sw-foot').all_inner_texts()}"
        time.sleep(0.1)
    return answer


@pytest.fixture()
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Trainings of the server stay before the step `HELD` until this is set."""
    from workbench.adapt import run_recipe
    from workbench.run_events import RunEvent

    event = threading.Event()

    def run(recipe: Any, out: Path, *, on_event: Callable[[RunEvent], None], **options: Any) -> None:
        def hear(told: RunEvent) -> None:
            if told.line is not None and told.line["step"] == HELD:
                event.wait(WAIT_MS / 1000)
            on_event(told)

        run_recipe(recipe, out, on_event=hear, **options)

    monkeypatch.setattr("apps.adapt.RUN", run)
    yield event
    event.set()


@pytest.mark.browser
def test_a_visitor_labels_trains_and_compares(
    browser: Any, address: tuple[str, Path], drawn: list[str], release: threading.Event
) -> None:
    from workbench.annotation import load_annotation

    visit = Visit(browser, address[0], 1280, 800)
    page = visit.page
    visit.tab("Label")
    visit.text("No pictures yet.")
    page.locator("input[type=file][multiple]").first.set_input_files(drawn)
    page.wait_for_selector(".sw-annotator .sw-strip button >> nth=2")
    page.get_by_placeholder("add a phrase").fill("coin")
    page.get_by_placeholder("add a phrase").press("Enter")
    page.wait_for_selector(".sw-annotator .sw-phrase")

    def marks() -> Any:
        return load_annotation(next(address[1].glob("*/pictures/marks.json"))).pictures

    for number in range(3):
        page.locator(".sw-strip button").nth(number).click()
        page.wait_for_selector(f'.sw-strip button:nth-child({number + 1})[aria-pressed="true"]')
        visit.drag((28, 28), (92, 92))
        until(
            lambda number=number: (
                next(address[1].glob("*/pictures/marks.json"), None) and marks()[number].pair("coin").objects
            ),
            page,
        )
        page.locator(".sw-tick input").first.check()
        until(lambda number=number: marks()[number].pair("coin").is_exhaustive, page)
    box = marks()[0].pair("coin").objects[0].box_xyxy_px
    assert np.abs(np.subtract(box, (28, 28, 92, 92))).max() <= 2 and marks()[0].image_id == "münze_0.png"

    assert visit.saved("Download labels") == "labels.zip"

    visit.tab("Adapt")
    page.get_by_label("number input for Steps").fill(str(STEPS))
    page.get_by_label("number input for Pictures kept back to measure on").fill("1")
    page.get_by_label("Phrases that are in none of the pictures").fill("star")
    page.locator("button.label-wrap", has_text="More settings").click()
    page.get_by_label("As in a recipe, one per line").fill(QUICK)
    visit.press("Start")
    page.wait_for_function(f"Number(/step (\\d+) of {STEPS}/.exec(document.body.innerText)?.[1]) >= 2")
    visit.text("This page may be closed meanwhile")
    start = 'button:text-is("Start"):visible'
    page.wait_for_selector(f"{start}:disabled")  # one training of a visitor at a time
    page.close()
    visit.open()
    page = visit.page
    visit.tab("Adapt")
    page.wait_for_function(f"Number(/step (\\d+) of {STEPS}/.exec(document.body.innerText)?.[1]) >= 3")
    page.wait_for_selector(f"{start}:disabled")
    visit.press("Stop")
    visit.text("Stopping after the step")
    release.set()
    visit.text(f"Stopped at step {HELD}")
    page.wait_for_selector(f"{start}:enabled")
    page.reload()
    page.get_by_role("button", name="Find", exact=True).wait_for()
    visit.tab("Adapt")
    visit.text("Stopped at step")  # the visitor and the job are known again
    visit.press("Resume")
    visit.text("Finished.")
    visit.tab("Compare")
    visit.text("on 1 picture not learnt from")
    page.wait_for_function("[...document.querySelectorAll('img')].filter(i => i.naturalWidth >= 600).length >= 2")
    page.get_by_text("box_cgF1", exact=True).locator("visible=true").first.wait_for()
    assert "nan" not in page.locator("body").inner_text()  # three boxes and no mask: what cannot be told is a dash
    assert visit.saved("Report (HTML)") == "report.html"
    assert visit.saved("Adapter (zip)") == "mine_adapter.zip"
    assert visit.errors == []
    visit.context.close()


@pytest.mark.browser
def test_a_phone_shows_what_is_found(browser: Any, address: tuple[str, Path]) -> None:
    visit = Visit(browser, address[0], 390, 844)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    visit.press("Try an example")
    page.wait_for_function(
        "[...document.querySelectorAll('textarea, input')].some(e => e.value.includes('red square'))"
    )
    visit.press("Find")
    visit.text("answered in")
    page.wait_for_function("document.querySelector('.sw-result').getBoundingClientRect().bottom <= innerHeight + 2")
    assert visit.saved("COCO file") == "example.json"
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    assert visit.errors == []
    visit.context.close()
