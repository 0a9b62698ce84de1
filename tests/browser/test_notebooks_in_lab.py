"""Notebooks in JupyterLab with a real kernel: boxes drawn with the mouse arrive in the next cell, and a training is
stopped by its button while it runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.annotation import load_annotation

SECONDS = 400  # a busy machine may need them; nothing waits for a time, only for what must come
QUICK = ["train.steps=400", "train.images=1", "train.views=1", "train.phrases=2", "shots=3", "negatives.mine=false"]
QUICK += ["test.rendered=shapes", "test.pictures=1", "test.seed=8", "phrases={}", "guard={scenes: 0, replay: 0}"]


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, repo_root: Path, running_lab: Callable[[Path], Any]
) -> Iterator[tuple[Path, str]]:
    """The folder and the address of a running JupyterLab with two of the notebooks, made short."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name in ("data", "recipes"):
        (folder / name).symlink_to(repo_root / name)
    shutil.copy(repo_root / "notebooks" / "01_label_ten_images.ipynb", folder / "notebooks")
    book = json.loads((repo_root / "notebooks" / "02_finetune_adapter.ipynb").read_text("utf-8"))
    (parameters,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    parameters["source"] = [*parameters["source"], f"\nSETTINGS = {QUICK!r}"]
    (folder / "notebooks" / "02_finetune_adapter.ipynb").write_text(json.dumps(book), "utf-8")
    with running_lab(folder) as url:
        yield folder, url


def until(wanted: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    end = time.monotonic() + SECONDS
    while not (answer := wanted()):
        assert time.monotonic() < end, f"waited in vain {why()[-2000:]}"
        time.sleep(0.1)
    return answer


@pytest.fixture
def opened(lab: tuple[Path, str], browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens a notebook with a fresh kernel; gives the page, with all cells drawn."""
    pages = []

    def open_one(name: str) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(1000 * SECONDS)
        page.goto(f"{lab[1]}/lab/tree/notebooks/{name}.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.get_by_text("(ipykernel) | Idle").wait_for()
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        page.close()


def execute(page: Any, text: str) -> Any:
    """Runs the code cell with this text and gives it; the next ones may be run before it is done."""
    cell = page.locator(".jp-CodeCell").filter(has_text=text).first
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    return cell


def draw(page: Any, x0: float, y0: float, x1: float, y1: float) -> None:
    """Draws a box on the picture of 224 x 224 pixels that the annotator shows."""
    canvas = page.locator(".sw-stage canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = min((box["width"] - 16) / 224, (box["height"] - 16) / 224)
    left, top = (box["width"] - 224 * scale) / 2, (box["height"] - 224 * scale) / 2
    page.mouse.move(box["x"] + left + x0 * scale, box["y"] + top + y0 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + left + x1 * scale, box["y"] + top + y1 * scale, steps=3)
    page.mouse.up()


@pytest.mark.browser
def test_boxes_drawn_in_notebook_01_are_read_in_its_next_cell(lab: tuple[Path, str], opened: Any) -> None:
    page = opened("01_label_ten_images")
    execute(page, "STAND_IN = True")
    execute(page, "annotator.on_request")
    page.wait_for_selector(".sw-annotator .sw-strip img[src^=blob]")
    page.wait_for_selector(".sw-stage canvas")
    marks = lab[0] / "runs" / "notebooks" / "01_label_ten_images" / "marks.json"

    def boxes() -> list[Any]:
        return [mark.box_xyxy_px for mark in load_annotation(marks).pictures[0].pair("coin").objects]

    until(lambda: page.locator(".sw-stage canvas").first.bounding_box()["height"] > 200)
    page.wait_for_function("() => document.querySelector('.sw-stage canvas').width > 200")
    draw(page, 30, 10, 118, 86)
    until(lambda: marks.exists() and len(boxes()) == 1)
    draw(page, 146, 18, 220, 84)
    until(lambda: len(boxes()) == 2)
    cell = execute(page, "by_hand = [")
    cell.get_by_text("train_01.png {'coin': 2}").wait_for()
    cell.get_by_text("1 of 10 pictures marked by hand").wait_for()
    found = [round(value / 10) * 10 for value in boxes()[0]]
    assert found == [30, 10, 120, 90]


@pytest.mark.browser
def test_the_training_of_notebook_02_stops_at_its_button(lab: Any, opened: Any) -> None:
    page = opened("02_finetune_adapter")
    execute(page, "OUT = ")
    execute(page, "recipe = load_recipe")
    execute(page, "view = TrainingView")
    page.wait_for_selector("button.sw-training-stop:not([disabled])")
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('.sw-training-words')?.textContent)")
    waiting = execute(page, "end = await job.ended()")
    waiting.locator(".jp-InputPrompt").get_by_text("[*]").wait_for()
    page.locator("button.sw-training-stop").click()
    page.wait_for_function("() => /^stopped/.test(document.querySelector('.sw-training-words').textContent)")
    page.wait_for_selector("button.sw-training-go:not([disabled])")
    page.wait_for_selector(".sw-training-curve[src]")
    assert page.locator("button.sw-training-go").inner_text().strip() == "Go on"
    waiting.get_by_text("stopped: step").wait_for()
    log = (lab[0] / "runs" / "notebooks" / "coins" / "log.jsonl").read_text("utf-8").splitlines()
    assert 1 <= len(log) < 400
