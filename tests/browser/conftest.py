"""What several browser tests start: JupyterLab with a folder of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

_SECONDS = 300  # a busy machine may need them, a failure never does


@pytest.fixture(scope="session")
def running_lab(repo_root: Path) -> Callable[[Path], AbstractContextManager[str]]:
    """Starts JupyterLab in a folder and gives its address; kernels import this checkout."""

    @contextmanager
    def run(folder: Path) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{(port := free.getsockname()[1])}"
        options = [f"--ServerApp.port={port}", "--ServerApp.token=", f"--ServerApp.root_dir={folder}", "--no-browser"]
        paths = os.pathsep.join([str(repo_root), *filter(None, [os.environ.get("PYTHONPATH")])])
        settings = {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTER_DATA_DIR": str(folder / ".data")}
        with open(folder / "lab.log", "w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--allow-root", "--ServerApp.disable_check_xsrf=True", *options],
                env=os.environ | settings | {"PYTHONPATH": paths, "IPYTHONDIR": str(folder / ".ipython")},
                stdout=log,
                stderr=log,
            )
        try:
            end = time.monotonic() + _SECONDS
            while not _answers(f"{url}/api/status"):
                assert time.monotonic() < end, (folder / "lab.log").read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait(60)

    return run


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
