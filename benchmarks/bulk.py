"""Pictures per second that `workbench label` gets through with the tiny model, beside a plain loop over the files.

Both ask the same phrases of the same rendered pictures, in processes of their own that take turns.

    python benchmarks/bulk.py --out benchmarks/results/bulk.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from sam3.files import write_text


def loop(folder: Path, phrases: list[str]) -> float:
    """Seconds of the loop anybody would write first."""
    from sam3 import ImagePredictor, load_sam3
    from workbench.predict import objects_of

    predictor = ImagePredictor(load_sam3("tiny"))
    start, answers = time.perf_counter(), {}
    for path in sorted(folder.glob("*.jpg")):
        predictor.set_image(path)
        answers[path.name] = [objects_of(answer) for answer in predictor.predict(phrases)]
    (folder / "answers.json").write_text(json.dumps(answers))
    return time.perf_counter() - start


def label(folder: Path, phrases: list[str]) -> float:
    """Seconds of `workbench label`."""
    from sam3 import load_sam3
    from workbench.bulk import BulkConfig, label_folder

    with tempfile.TemporaryDirectory() as out:
        config = BulkConfig(tuple(phrases))
        return label_folder(load_sam3("tiny"), folder, out, config, model_name="tiny", progress=False).seconds


def measured(way: str, folder: Path, phrases: list[str]) -> float:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--phrases", *phrases]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=640, help="of the pictures in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--way", choices=("loop", "label"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--phrases", nargs="+", default=["red circle"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print((loop if options.way == "loop" else label)(options.folder, options.phrases))
        return
    from PIL import Image

    from workbench.domains import shapes

    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, example in enumerate(shapes.held_out_set(options.pictures, 11)):
            picture = Image.fromarray(example.load_image()).resize((options.side, options.side))
            picture.save(folder / f"{number:05d}.jpg", quality=92)
        for phrases in (["red circle"], ["red circle", "star", "blue square", "ring"]):
            seconds: dict[str, list[float]] = {"loop": [], "label": []}
            for _ in range(options.rounds):
                for way, values in seconds.items():
                    values.append(measured(way, folder, phrases))
            pace = {way: round(options.pictures / median(values), 1) for way, values in seconds.items()}
            ratio = median(a / b for a, b in zip(seconds["loop"], seconds["label"], strict=True))
            results.append({"phrases": len(phrases), "pictures_per_s": pace, "times_faster": round(ratio, 2)})
            print(f"{len(phrases)} phrases: loop {pace['loop']}, label {pace['label']} pictures/s, {ratio:.2f} times")
    if options.out:
        facts = {"pictures": options.pictures, "side": options.side, "cores": os.cpu_count(), "load": os.getloadavg()}
        write_text(options.out, json.dumps({**facts, "model": "tiny", "results": results}, indent=2))


if __name__ == "__main__":
    main()
