"""Annotator and player in JupyterLab with a real kernel: drawn in the browser, read in Python, kept over a restart."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from workbench.annotation import load_annotation

CELLS = (
    "from workbench.widgets import Annotator\nannotator = Annotator('pictures', ['coin'])\nannotator",
    "from dataclasses import replace\nfrom workbench.annotation import Mark, PairMarks\n"
    "marks = annotator.annotation\npicture = marks.picture('a.png')\nmark = picture.pair('coin').objects[0]\n"
    "print('read', mark.kind, [round(value / 10) * 10 for value in mark.box_xyxy_px])\n"
    "pair = PairMarks('present', True, (mark, Mark(2, 'box', box_xyxy_px=(200, 20, 300, 200))))\n"
    "annotator.annotation = marks.with_picture(replace(picture, pairs={'coin': pair}))",
    "from workbench.widgets import MaskletPlayer\nplayer = MaskletPlayer('clip.json')\nplayer",
    "print('shown', player.frame, player.side)\nplayer.frame = 20",
)


def notebook() -> dict[str, Any]:
    cells = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "source": code,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for number, code in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture()
def lab(counting_clip: Path, running_lab: Callable[[Path], Any]) -> Iterator[tuple[Path, str]]:
    """The folder and the address of a running JupyterLab that has a notebook, two pictures and a clip."""
    folder = counting_clip.parent
    (folder / "pictures").mkdir()
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.new("RGB", (320, 240), (shade, 80, 120)).save(folder / "pictures" / name)
    (folder / "mark.ipynb").write_text(json.dumps(notebook()), "utf-8")
    with running_lab(folder) as url:
        yield folder, url


def until(wanted: Callable[[], Any], seconds: float = 30, why: Callable[[], str] = str) -> Any:
    """The first true answer, within some seconds."""
    end = time.monotonic() + seconds
    while not (answer := wanted()):
        assert time.monotonic() < end, f"waited in vain {why()[-2000:]}"
        time.sleep(0.1)
    return answer


@pytest.mark.browser
def test_marks_and_frames_go_both_ways_and_survive_a_restart(lab: tuple[Path, str], browser: Any) -> None:
    folder, url = lab
    file = folder / "pictures" / "marks.json"
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{url}/lab/tree/mark.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=90_000)

    def execute(number: int) -> None:
        page.locator(f".jp-Cell >> nth={number}").locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")

    def draw(x0: float, y0: float, x1: float, y1: float) -> None:
        canvas = page.locator(".sw-stage canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        scale = min((box["width"] - 16) / 320, (box["height"] - 16) / 240)
        left, top = (box["width"] - 320 * scale) / 2, (box["height"] - 240 * scale) / 2
        page.mouse.move(box["x"] + left + x0 * scale, box["y"] + top + y0 * scale)
        page.mouse.down()
        page.mouse.move(box["x"] + left + x1 * scale, box["y"] + top + y1 * scale, steps=3)
        page.mouse.up()

    execute(0)
    page.wait_for_selector(".sw-annotator .sw-strip img[src^=blob]", timeout=60_000)
    page.wait_for_timeout(500)
    draw(40, 40, 100, 90)
    until(lambda: file.exists() and load_annotation(file).picture("a.png").pair("coin").objects)
    page.keyboard.press("x")  # a command of the notebook too, which would cut the cell
    assert page.locator(".jp-Notebook .jp-Cell").count() == len(CELLS)
    execute(1)
    page.get_by_text("read box [40, 40, 100, 90]").wait_for(timeout=30_000)
    page.wait_for_selector('.sw-mark[data-mark="2"]')
    until(lambda: len(load_annotation(file).picture("a.png").pair("coin").objects) == 2)

    with urllib.request.urlopen(f"{url}/api/kernels") as answer:
        kernel = json.load(answer)[0]["id"]
    restart = urllib.request.Request(f"{url}/api/kernels/{kernel}/restart", data=b"", method="POST")
    urllib.request.urlopen(restart).close()
    page.reload()
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=90_000)
    execute(0)
    page.wait_for_selector('.sw-mark[data-mark="2"]', timeout=60_000)
    assert page.locator(".sw-tick input").first.is_checked()

    execute(2)
    page.wait_for_function("document.querySelector('.sw-screen video')?.readyState >= 2", timeout=60_000)
    player = page.locator(".sw-player")
    player.scroll_into_view_if_needed()
    player.focus()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector('.sw-player[data-frame="10"]')
    page.keyboard.press("b")
    execute(3)
    page.get_by_text("shown 10 before").wait_for(timeout=30_000)
    page.wait_for_selector('.sw-player[data-frame="20"]', timeout=10_000)
    assert errors == []
    page.close()
