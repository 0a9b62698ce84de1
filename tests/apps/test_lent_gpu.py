"""The page where a GPU is lent for each call: what a handler changes in memory is lost, and trainings go in parts.

The package `spaces` lends GPUs on Hugging Face's machines only. A stand-in does the same to the program: every call
runs in a fork of the server, and what goes in and comes out is pickled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

CODE = "lent-visitor-0001"
SECONDS = 300
SPACES = """
import functools, multiprocessing, os, pickle

import gradio, torch


def GPU(duration):
    def lend(task):
        @functools.wraps(task)
        def call(*values, **named):
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe()

            def work():
                torch.set_num_threads(1)  # the other threads were not forked
                try:
                    there.send((True, task(*pickle.loads(pickle.dumps(values)), **named)))
                except Exception as error:
                    there.send((False, str(error) if isinstance(error, gradio.Error) else f"worker error: {error!r}"))

            process = context.Process(target=work)
            process.start()
            with open(os.environ["CALLS"], "a") as calls:
                calls.write(f"{task.__name__} {process.pid} {duration}\\n")
            is_done, result = here.recv()
            process.join()
            if not is_done:
                raise gradio.Error(result, print_exception=False)
            return result

        return call

    return lend
"""
SERVER = """
import sys, threading
from apps import lent_gpu
from apps.page import build_app, launch

lent_gpu.PART_SECONDS = float(sys.argv[2])
print(launch(build_app(sys.argv[1]), prevent_thread_lock=True), flush=True)
threading.Event().wait()
"""


class Visitor:
    def __init__(self, address: str, calls: Path):
        self.client, self._calls = Client(address, verbose=False), calls
        self.runs = calls.parent / "data" / CODE / "runs"

    def __call__(self, name: str, *values: Any) -> Any:
        return self.client.predict(CODE, *values, api_name=f"/{name}")

    def end_of(self, run: str) -> dict[str, Any]:
        """The run once nothing of it goes on."""
        end = time.monotonic() + SECONDS
        while (shot := dict(self("adapt_status", run)))["is_running"] and time.monotonic() < end:
            time.sleep(0.5)
        return shot

    def calls(self, name: str) -> list[str]:
        """The process of each call of that function."""
        return [pid for called, pid, _ in map(str.split, self._calls.read_text().splitlines()) if called == name]


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    folder = tmp_path_factory.mktemp("lent")
    (folder / "spaces.py").write_text(SPACES)
    settings = {"SPACES_ZERO_GPU": "true", "CALLS": str(folder / "calls"), "PYTHONPATH": str(folder)}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder / "data"), "10"],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert server.stdout
        address = server.stdout.readline().strip()
        assert address, (folder / "log").read_text()
        try:
            yield Visitor(address, folder / "calls")
        finally:
            server.kill()


def test_answers_come_from_another_process_and_refusals_stay_words(visitor):
    picture, phrases = visitor("example_picture")
    *_, words = visitor("segment", "tiny", handle_file(picture), phrases, "", 0.5)
    assert "× " in words and "tiny" in words
    with pytest.raises(AppError, match="there is no model 'none' here"):
        visitor("segment", "none", handle_file(picture), phrases, "", 0.5)
    first, second = visitor.calls("segment")
    assert first != second


def test_proposals_of_another_process_are_kept_here(visitor):
    visitor("label_example", 0)
    entry = visitor("label_marks")["pictures"][0]
    marks = visitor("label_propose", "tiny", entry["id"], "coin")["pictures"][0]["pairs"]["coin"]["marks"]
    assert len(visitor.calls("answered")) == 1
    assert visitor("label_marks")["pictures"][0]["pairs"]["coin"]["marks"] == marks


def test_what_goes_wrong_in_a_training_is_told_in_words(visitor):
    visitor("adapt_start", "tiny", "my labelled pictures", "wrong", "decoder", 40, 3, "star", "")
    visitor("adapt_stop", "wrong")
    assert visitor.end_of("wrong")["phase"] == "stopped"
    (visitor.runs / "wrong" / "data" / "test.json").write_text("{")
    visitor("adapt_resume", "wrong")
    shot = visitor.end_of("wrong")
    assert shot["phase"] == "failed" and "test.json" in shot["error"] and "worker error" not in shot["error"], shot


def test_a_training_goes_in_parts_and_its_adapter_answers(visitor):
    quick = "train.images=1\ntrain.phrases=1\ntrain.views=1\nguard.scenes=0\nguard.replay=0"
    visitor("adapt_start", "tiny", "my labelled pictures", "coins", "decoder", 40, 3, "star", quick)
    shot = visitor.end_of("coins")
    assert shot["phase"] == "finished", shot
    assert [step for step, _ in shot["losses"]] == list(range(1, 41))
    assert len(set(visitor.calls("_part"))) > 1
    picture = Path(visitor.client.predict(CODE, api_name="/example_picture")[0])
    *_, words = visitor("segment", "tiny + coins", handle_file(str(picture)), "coin", "", 0.5)
    assert "tiny + coins" in words
    assert "on 3 pictures not learnt from" in visitor("compare_show", "coins")[1]


@pytest.mark.parametrize("is_lent", [False, True])
def test_nobody_is_told_to_close_a_page_to_which_a_gpu_is_lent(monkeypatch, tmp_path, is_lent):
    from apps import adapt
    from workbench.training_job import JobSnapshot

    monkeypatch.setattr(adapt, "IS_LENT", is_lent)
    shot = JobSnapshot("adapting", 3, 9, (), (), None, True, False, None, tmp_path / "mine")
    words = adapt.in_html(shot)
    assert "Adapting…" in words and ("may be closed" in words) != is_lent
