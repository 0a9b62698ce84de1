"""The folder for the Hub: its front matter and requirements, and that it runs from itself alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from workbench.domains import shapes
from workbench.space import write_space

SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("space") / "space"
    write_space(out)
    return out


def test_the_folder_says_what_the_hub_asks(folder):
    _, front, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    content = yaml.safe_load(front)
    assert content["sdk"] == "gradio" and content["app_file"] == "app.py" and content["python_version"] == "3.12"
    assert content["sdk_version"] == version("gradio") and len(content["short_description"]) <= 60
    assert content["license"] == "apache-2.0" and (folder / "LICENSE").is_file()
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 40e6
    assert "tiny" in text
    wanted = (folder / "requirements.txt").read_text("utf-8").split()
    assert "torch>=2.8" in wanted and not [
        line for line in wanted if line.startswith(("torchvision", "gradio", "pytest"))
    ]
    assert (folder / "data" / "coins" / "train.json").is_file() and not list(folder.rglob("__pycache__"))
    with pytest.raises(ValueError, match="not empty"):
        write_space(folder)


def test_the_folder_runs_from_itself_alone(folder, tmp_path):
    from gradio_client import Client, handle_file
    from PIL import Image

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
    # The module paths are noted by the process itself, when it ends.
    program = (
        "import atexit, runpy, sys, pathlib\n"
        "sys.path.insert(0, '')\n"
        "names = ('sam3', 'workbench', 'apps', 'sam3.model', 'workbench.adapt', 'apps.page')\n"
        f"note = lambda: pathlib.Path({str(tmp_path / 'paths')!r}).write_text("
        "'\\n'.join(sys.modules[name].__file__ for name in names))\n"
        "import apps.page\nnote()\n"
        "runpy.run_path('app.py', run_name='__main__')\n"
    )
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-c", program], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                client = Client(f"http://127.0.0.1:{port}/", verbose=False)
                break
            except Exception:  # not there yet
                assert time.monotonic() < end and server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        picture = tmp_path / "scene.png"
        Image.fromarray(shapes.held_out_set(6, 5)[3].load_image()).save(picture)
        *_, words = client.predict(
            "space-visitor", "tiny", handle_file(str(picture)), "large red square", "", 0.5, api_name="/segment"
        )
        assert "1 × large red square" in words
    finally:
        server.terminate()
        server.wait(30)
    paths = (tmp_path / "paths").read_text().splitlines()
    assert len(paths) == 6 and all(Path(path).is_relative_to(folder) for path in paths), paths
