"""Many pictures, the same questions: a folder is labelled by a model, in shards that are written as they are done.

Threads take one picture each from file to run lengths, so that reading one and computing another go on side by side.
A job that was stopped goes on with the shards that are missing; several machines can share a folder by parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import local
from typing import Any

import torch
from tqdm.auto import tqdm

from sam3.files import write_text
from sam3.model import Sam3
from sam3.pictures import read_picture
from sam3.predictor import ImagePredictor
from workbench.adapters import Adapter, fingerprint
from workbench.calibrated_predictor import CalibratedPredictor, predictor_for
from workbench.predict import objects_of

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SMALL_MODEL = 100_000_000  # parameters; below, one thread per picture beats many threads on one
_FORMAT = "workbench-labels-1"


@dataclass(frozen=True)
class BulkConfig:
    """What is asked of every picture.

    Attributes:
        phrases: at least one.
        score_threshold: objects with a higher score are labels, 0..1.
        shard_size: pictures that are written together.
        part: (number, count): this job takes every count-th shard, from the number-th on, counted from 1.
    """

    phrases: tuple[str, ...]
    score_threshold: float = 0.5
    shard_size: int = 100
    part: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not self.phrases or not all(phrase.strip() for phrase in self.phrases):
            raise ValueError(f"received the phrases {list(self.phrases)}; expected at least one, none of them empty")
        if len(set(self.phrases)) < len(self.phrases):
            raise ValueError(f"received the phrases {list(self.phrases)}; name each one once")
        if self.shard_size < 1 or not 0 <= self.score_threshold <= 1:
            raise ValueError(
                f"received shard_size={self.shard_size} and score_threshold={self.score_threshold}; expected at least "
                "1 picture and a threshold of 0 to 1"
            )
        if not 1 <= self.part[0] <= self.part[1]:
            raise ValueError(f"received part {self.part[0]} of {self.part[1]}; expected for instance 2 of 4")


@dataclass(frozen=True)
class BulkResult:
    """What is done.

    Attributes:
        labels: the COCO file of the whole folder; None while shards of other parts are missing.
        num_pictures: in the shards there are. num_objects: found in them.
        num_new: pictures that this call has labelled. seconds: it took for them.
        unreadable: (file, why) of pictures that could not be read; they are in no file.
        missing_shards: of other parts.
    """

    labels: Path | None
    num_pictures: int
    num_objects: int
    num_new: int
    seconds: float
    unreadable: tuple[tuple[str, str], ...]
    missing_shards: int


def label_folder(
    model: Sam3 | Adapter,
    folder: str | Path,
    out: str | Path,
    config: BulkConfig,
    *,
    model_name: str,
    workers: int | None = None,
    progress: bool = True,
) -> BulkResult:
    """Asks for the same phrases in every picture of a folder and its subfolders.

    Args:
        model: or an adapter in it, whose calibration then counts.
        folder: of pictures; others files in it are left alone.
        out: folder for `shards/`, and `labels.json` once all shards are there: a COCO file with a score per object,
            which names the pictures by their place in `folder`. What is found there is gone on with.
        config: what is asked.
        model_name: written into the labels.
        workers: pictures that are worked on at the same time; default one per core for a small model on a CPU,
            otherwise two.
        progress: show a bar.

    Raises:
        ValueError: there are no pictures, or `out` holds labels of other pictures, questions or weights.
        OSError: a file cannot be written; the shards there are stay.

    Example:
        >>> from sam3 import load_sam3
        >>> done = label_folder(
        ...     load_sam3("tiny"), "data/words/images", "runs/words", BulkConfig(("star",)), model_name="tiny"
        ... )  # doctest: +SKIP
        >>> done.labels  # doctest: +SKIP
        PosixPath('runs/words/labels.json')
    """
    folder, out = Path(folder), Path(out)
    files = pictures_in(folder)
    shards = [files[start : start + config.shard_size] for start in range(0, len(files), config.shard_size)]
    _claim(out, files, config, {"model": model_name, "weights": _weights(model)})
    number, count = config.part
    wanted = [index for index in range(number - 1, len(shards), count) if not _shard(out, index).is_file()]
    todo = [(index, name) for index in wanted for name in shards[index]]
    network = model.model if isinstance(model, Adapter) else model
    start, done = time.perf_counter(), dict[int, list[dict[str, Any]]]()
    bar = tqdm(total=len(todo), desc="labelling", unit="picture", disable=not progress)
    with bar, _threads(network, workers) as num_workers:
        ask = _asker(model, folder, config)
        for (index, _), entry in zip(todo, _in_order(ask, [name for _, name in todo], num_workers), strict=True):
            done.setdefault(index, []).append(entry)
            if len(done[index]) == len(shards[index]):
                write_text(_shard(out, index), json.dumps(done.pop(index), ensure_ascii=False))
            bar.update()
    return _gathered(out, len(shards), config, model_name, len(todo), time.perf_counter() - start)


def pictures_in(folder: Path) -> list[str]:
    """The picture files in a folder and its subfolders, by their place in it, in order.

    Raises:
        ValueError: there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with pictures")
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ValueError(f"{folder} holds no picture; expected files that end with {', '.join(PICTURE_SUFFIXES)}")
    return found


def _weights(model: Sam3 | Adapter) -> str:
    """A code that other weights do not have."""
    if not isinstance(model, Adapter):
        return fingerprint(model)
    code = hashlib.sha256(model.base.encode())
    for name, tensor in sorted(model.state().items()):
        code.update(name.encode() + tensor.float().numpy().tobytes())
    return code.hexdigest()[:16]


def _claim(out: Path, files: list[str], config: BulkConfig, who: dict[str, str]) -> None:
    """Writes what the shards in `out` answer, or checks that it is the same."""
    asked = {name: value for name, value in asdict(config).items() if name != "part"}
    wanted = json.loads(json.dumps({"format": _FORMAT, **who, **asked, "pictures": files}))
    path = out / "job.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            raise ValueError(
                f"{out} holds labels that were made with other settings ({', '.join(other)}); choose another folder, "
                "or delete it to begin anew"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} already holds something else; choose a new folder")
    write_text(path, json.dumps(wanted, ensure_ascii=False))


def _shard(out: Path, index: int) -> Path:
    return out / "shards" / f"{index:06d}.json"


@contextmanager
def _threads(model: Sam3, workers: int | None) -> Iterator[int]:
    """How many pictures to work on at once; torch's own threads share what is left of the cores meanwhile."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    is_small = sum(p.numel() for p in model.parameters()) < _SMALL_MODEL
    if workers is None:
        workers = threads if model.device.type == "cpu" and is_small else 2
    if workers < 1:
        raise ValueError(f"received workers={workers}; expected at least 1")
    shared = model.device.type == "cpu" and is_small
    torch.set_num_threads(max(1, min(threads, cores) // workers) if shared else threads)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)


def _asker(model: Sam3 | Adapter, folder: Path, config: BulkConfig) -> Callable[[str], dict[str, Any]]:
    """What one picture is turned into; every thread has a predictor of its own around the one model."""
    mine, threads = local(), torch.get_num_threads()

    def ask(name: str) -> dict[str, Any]:
        if not hasattr(mine, "predictor"):
            torch.set_num_threads(threads)  # counts for each thread
            mine.predictor = _predictor(model, config.score_threshold)
        try:
            pixels = read_picture(folder / name)
        except ValueError as error:
            return {"file_name": name, "error": str(error)}
        mine.predictor.set_image(pixels)
        answers = mine.predictor.predict(list(config.phrases))
        return {
            "file_name": name,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "presence_scores": [round(answer.presence_score, 4) for answer in answers],
            "objects": [objects_of(answer) for answer in answers],
        }

    return ask


def _predictor(model: Sam3 | Adapter, threshold: float) -> ImagePredictor | CalibratedPredictor:
    if isinstance(model, Adapter):
        return predictor_for(model, threshold, keeps_text=True)
    return ImagePredictor(model, threshold, keeps_text=True)


def _in_order(ask: Callable[[str], dict[str, Any]], names: Sequence[str], workers: int) -> Iterator[dict[str, Any]]:
    """The answers in the order of the names; only a few are under way at any time."""
    waiting: deque[Future[dict[str, Any]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="labelling")
    try:
        for name in names:
            waiting.append(pool.submit(ask, name))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _gathered(
    out: Path, num_shards: int, config: BulkConfig, model_name: str, num_new: int, seconds: float
) -> BulkResult:
    """What the shards hold, and the COCO file when none is missing."""
    there = [index for index in range(num_shards) if _shard(out, index).is_file()]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    for index in there:
        for entry in json.loads(_shard(out, index).read_text(encoding="utf-8")):
            if "error" in entry:
                unreadable.append((entry["file_name"], entry["error"]))
                continue
            objects = entry.pop("objects")
            images.append({"id": len(images) + 1, **entry})
            annotations += [
                {"id": 0, "image_id": len(images), "category_id": category, **found}
                for category, answer in enumerate(objects, start=1)
                for found in answer
            ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    labels = None
    if len(there) == num_shards:
        labels = out / "labels.json"
        content = {
            "info": {"description": f"Labelled by {model_name}, not by a person.", "model": model_name},
            "images": images,
            "categories": [{"id": number, "name": name} for number, name in enumerate(config.phrases, start=1)],
            "annotations": annotations,
        }
        write_text(labels, json.dumps(content, ensure_ascii=False))
    return BulkResult(
        labels, len(images), len(annotations), num_new, seconds, tuple(unreadable), num_shards - len(there)
    )
