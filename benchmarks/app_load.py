"""How the app holds up when several visitors segment while one trains: latencies, and whose answer each one gets.

python benchmarks/app_load.py --visitors 8 --requests 5 --out benchmarks/results/app_load.json
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import typer
from gradio_client import Client, handle_file
from PIL import Image

from apps.page import build_app, launch
from sam3.files import write_text


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    visitors: Annotated[int, typer.Option(help="That segment at the same time.")] = 8,
    requests: Annotated[int, typer.Option(help="Of each visitor, with and without a training beside it.")] = 5,
    steps: Annotated[int, typer.Option(help="Of the training; it must outlast the requests.")] = 1000,
) -> None:
    """Measure the app under load."""
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        blocks = build_app(Path(folder) / "visitors")
        url = launch(blocks, prevent_thread_lock=True)
        files = _pictures(Path(folder), visitors)
        alone = _ask(url, files, requests)
        trainer = Client(url, verbose=False)
        trainer.predict(
            "the-trainer-0001", "tiny", "coins", "load", "decoder", steps, 2, "", "", api_name="/adapt_start"
        )
        while (shot := trainer.predict("the-trainer-0001", "", api_name="/adapt_status"))["step"] < 1:
            time.sleep(1.0)
        first = shot["step"]
        beside = _ask(url, files, requests)
        shot = trainer.predict("the-trainer-0001", "", api_name="/adapt_status")
        trainer.predict("the-trainer-0001", "load", api_name="/adapt_stop")
        blocks.close()
    result = {
        "visitors": visitors,
        "cpus": os.cpu_count(),
        "load before": load,
        "model": "tiny",
        "no training": alone,
        "one training": {**beside, "steps meanwhile": shot["step"] - first, "still running": shot["is_running"]},
    }
    write_text(out, json.dumps(result, indent=1))
    typer.echo(json.dumps(result, indent=1))


def _pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of different sizes, so that an answer tells whose it is."""
    files = []
    for number in range(count):
        pixels = np.full((120 + 8 * number, 160, 3), 230, np.uint8)
        pixels[30:90, 40:100] = (210, 40, 40)
        files.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def _ask(url: str, files: list[Path], requests: int) -> dict[str, Any]:
    """Seconds until the answer, of all visitors at once, and how many answers were about another one's picture."""
    seconds: list[float] = []
    foreign: list[str] = []
    failed: list[str] = []

    def visit(number: int, file: Path) -> None:
        client, expected = Client(url, verbose=False), (160, 120 + 8 * number)
        for _ in range(requests):
            start = time.perf_counter()
            try:
                answer = client.predict(
                    f"visitor-{number:04d}", "tiny", handle_file(str(file)), "red square", "", 0.3, api_name="/segment"
                )
            except Exception as error:
                failed.append(str(error))
                continue
            seconds.append(time.perf_counter() - start)
            if Image.open(answer[0]).size != expected:
                foreign.append(file.name)

    threads = [threading.Thread(target=visit, args=one) for one in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    quantiles = np.quantile(seconds, [0.5, 0.95, 1.0]).round(2).tolist() if seconds else []
    return {"answers": len(seconds), "median, 95 %, most (s)": quantiles, "foreign": len(foreign), "failed": failed[:3]}


if __name__ == "__main__":
    typer.run(main)
