"""Settings every test runs under: no network, no display, the same random numbers each time."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Set before any test module imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores; the processes they start do as well

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of committed inputs and expected outputs."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; with SAM3_BROWSER_TESTS=required a missing one is a failure, else a skip."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            hint = "no Chromium is installed: `apt-get install chromium`, or `.venv/bin/playwright install chromium`"
            if os.environ.get("SAM3_BROWSER_TESTS") == "required":
                pytest.fail(hint)
            pytest.skip(hint)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture()
def counting_clip(tmp_path: Path) -> Path:
    """A player's JSON file beside its video: 30 frames whose red is 8 times their number, and a square that moves along
    under number 3, before on the left half only."""
    import json

    from sam3.rle import Rle
    from sam3.video.results import masklet_of_rles
    from sam3.video.source import open_video
    from workbench.video_overlay import write_overlay
    from workbench.video_sides import Side, player_data

    frames = np.full((30, 96, 160, 3), 90, np.uint8)
    frames[..., 0] = (8 * np.arange(30))[:, None, None]
    rles = []
    for frame in range(30):
        mask = np.zeros((96, 160), bool)
        mask[40:60, 4 * frame : 4 * frame + 20] = True
        rles.append(Rle.of(mask))
    after = masklet_of_rles(3, "square", rles, score=0.9)
    before = masklet_of_rles(3, "square", [*rles[:15], *[None] * 15], score=0.9)
    video = open_video(frames, frame_rate=10)
    write_overlay(video, [], tmp_path / "clip.mp4")
    data = player_data(video, (Side("before", (before,)), Side("after", (after,))), "clip.mp4")
    (tmp_path / "clip.json").write_text(json.dumps(data), "utf-8")
    return tmp_path / "clip.json"
