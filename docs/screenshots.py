"""Makes the pictures of the app from the app itself: `python docs/screenshots.py [--phone] [--steps 120]
[--settings "..."] [--out DIR]`.

Starts a server with an empty folder, does in a browser what a first visitor would do, and takes a picture of every tab.
Needs Chromium, as the browser tests do.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from apps.page import build_app, launch

_WAIT_MS = 900_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phone", action="store_true", help="390x844 in place of 1280x800")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--settings", default="guard.scenes=8 guard.replay=8", help="of the training, with blanks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        blocks = build_app(folder)
        url = launch(blocks, prevent_thread_lock=True)
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        size = {"width": 390, "height": 844} if options.phone else {"width": 1280, "height": 800}
        page = browser.new_page(viewport=size)  # type: ignore[arg-type]
        page.set_default_timeout(_WAIT_MS)
        page.goto(url)
        visit(page, options.out, options.steps, options.settings.replace(" ", "\n"))
        browser.close()
        blocks.close()


def visit(page: Any, out: Path, steps: int, settings: str) -> None:
    """Every tab, with results."""

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()

    def tab(name: str) -> None:
        if not page.get_by_role("tab", name=name, exact=True).is_visible():
            page.locator(".overflow-menu > button").click()
            page.locator(".overflow-dropdown button", has_text=name).click()
        else:
            page.get_by_role("tab", name=name, exact=True).click()

    def keep(name: str) -> None:
        page.wait_for_timeout(1500)
        page.screenshot(path=out / f"{name}.png")

    page.get_by_role("button", name="Try an example", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('textarea, input')].some(e => e.value.includes('square'))")
    press("Find")
    page.get_by_text("answered in").wait_for()
    keep("segment")
    tab("Label")
    press("Example: coins")
    page.wait_for_selector(".sw-annotator .sw-phrase")
    keep("label")
    tab("Adapt")
    page.get_by_label("number input for Steps").fill(str(steps))
    page.locator("button.label-wrap", has_text="More settings").click()
    page.get_by_label("As in a recipe, one per line").fill(settings)
    press("Start")
    page.wait_for_function("Number(/step (\\d+) of/.exec(document.body.innerText)?.[1]) >= 8")
    keep("adapt")
    page.get_by_text("Finished.").wait_for()
    tab("Compare")
    page.get_by_text("answered worse than before").wait_for()
    page.wait_for_selector("[data-testid=imageslider-image], .slider-wrap img, img.fixed")
    keep("compare")
    tab("Video")
    press("Try a rendered clip")
    page.locator(".file-preview").wait_for()
    press("Follow")
    page.get_by_text("followed them in").wait_for()
    page.wait_for_function("document.querySelector('.sw-screen video')?.readyState >= 2")
    page.locator(".sw-range").fill("8")
    keep("video")


if __name__ == "__main__":
    main()
