"""What each visitor has: a folder with pictures, marks and runs, and the job that trains. Visitors share nothing.

A visitor is known by a code that the browser keeps; whoever has the code has the folder, so it is long and random.
Folders that nobody used for some days are deleted.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from apps.lent_gpu import RUN
from apps.limits import Limits, whole_picture
from workbench.annotation_session import SIDECAR, AnnotationSession
from workbench.training_job import TrainingJob

_CODE = re.compile(r"[A-Za-z0-9_-]{8,64}")
_CLEAN_EVERY_S = 600.0


class Workspace:
    """The folder of one visitor.

    Args:
        folder: is made.
        limits: how much it may hold.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self.pictures, self.runs = folder / "pictures", folder / "runs"
        self.lock = threading.RLock()
        self._session: AnnotationSession | None = None
        self._jobs: dict[str, TrainingJob] = {}
        for place in (self.pictures, self.runs):
            place.mkdir(parents=True, exist_ok=True)

    def touch(self) -> None:
        """Notes that somebody was here."""
        self.folder.joinpath("used").touch()

    @property
    def is_busy(self) -> bool:
        return any(job.snapshot.is_running for job in self._jobs.values())

    def session(self) -> AnnotationSession | None:
        """The marks of the pictures; None while there is no picture."""
        with self.lock:
            if self._session is None and any(path.name != SIDECAR for path in self.pictures.iterdir()):
                self._session = AnnotationSession(self.pictures)
            return self._session

    def add_pictures(self, files: Iterable[tuple[str, Path]]) -> list[str]:
        """Takes copies of picture files, (name, file) each, and gives the names they have here.

        Raises:
            ValueError: a file is no whole picture or too large, or there are too many. Nothing is taken then.
        """
        with self.lock:
            files = [(name, whole_picture(path, self.limits, name)) for name, path in files]
            have = {path.name for path in self.pictures.iterdir()} - {SIDECAR}
            if len(have) + len(files) > self.limits.pictures:
                raise ValueError(
                    f"{len(files)} pictures were brought to {len(have)}; {self.limits.pictures} are allowed. Remove "
                    "some, or work with `python -m apps.annotator`, which has no limit."
                )
            names = []
            for name, path in files:
                free = _free_name(_plain(name), have)
                have.add(free)
                shutil.copyfile(path, self.pictures / free)
                names.append(free)
            self._session = None
            return names

    def remove_pictures(self) -> None:
        """Deletes all pictures and marks."""
        with self.lock:
            shutil.rmtree(self.pictures)
            self.pictures.mkdir()
            self._session = None

    def run_names(self, *, finished: bool = False) -> list[str]:
        """The runs there are, newest first."""
        folders = [path for path in self.runs.iterdir() if (path / "job.yaml").is_file()]
        if finished:
            folders = [path for path in folders if (path / "report.html").is_file()]
        return [path.name for path in sorted(folders, key=lambda path: -path.stat().st_mtime)]

    def run(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.run_names():
            raise ValueError(f"there is no run {name!r} here; choose one of the list.")
        return self.runs / name

    def free_run(self, name: str) -> Path:
        """A folder for a new run."""
        return self.runs / _free_name(_plain(name) or "run", {path.name for path in self.runs.iterdir()})

    def job(self, name: str | None = None) -> TrainingJob | None:
        """The job of a run, by default the one that runs or the newest; found again after a restart."""
        with self.lock:
            running = [known for known, job in self._jobs.items() if job.snapshot.is_running]
            name = name or next(iter([*running, *self.run_names()]), None)
            if name is None:
                return None
            if name not in self._jobs:
                folder = self.run(name)
                self._jobs[name] = TrainingJob(folder / "job.yaml", folder, run=RUN)
            return self._jobs[name]

    def keep_job(self, job: TrainingJob) -> None:
        """Makes a new job the one that is shown."""
        with self.lock:
            self._jobs[job.out.name] = job


class Workspaces:
    """The folders of all visitors.

    Args:
        root: is made.
        limits: for each of them.
        keep_days: a folder that nobody used for so long is deleted.
    """

    def __init__(self, root: Path, limits: Limits, keep_days: float = 7.0):
        self.root, self.limits, self.keep_days = root.resolve(), limits, keep_days
        self._known: dict[str, Workspace] = {}
        self._lock, self._cleaned = threading.Lock(), 0.0
        self.root.mkdir(parents=True, exist_ok=True)

    def of(self, code: str) -> Workspace:
        """The folder of a visitor.

        Raises:
            ValueError: that is no code.
        """
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError("the page has no visitor's code; load it anew (through the API: 8 to 64 letters, digits)")
        self.clean()
        with self._lock:
            if code not in self._known:
                self._known[code] = Workspace(self.root / code, self.limits)
            workspace = self._known[code]
        workspace.touch()
        return workspace

    def clean(self) -> None:
        """Deletes what nobody used for long; does so now and then only."""
        now = time.time()
        with self._lock:
            if now - self._cleaned < _CLEAN_EVERY_S:
                return
            self._cleaned = now
            for folder in self.root.iterdir():
                mark, workspace = folder / "used", self._known.get(folder.name)
                is_ours = _CODE.fullmatch(folder.name) and mark.is_file()
                if is_ours and now - mark.stat().st_mtime > self.keep_days * 86400:
                    if workspace is not None and workspace.is_busy:
                        continue
                    self._known.pop(folder.name, None)
                    shutil.rmtree(folder, ignore_errors=True)


def new_code() -> str:
    """For a visitor who has none."""
    return secrets.token_urlsafe(18)


def is_code(code: object) -> bool:
    return isinstance(code, str) and bool(_CODE.fullmatch(code))


def _plain(name: str) -> str:
    """The name without folders and without what file systems or addresses mind; letters of any script stay."""
    stem = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.()-]+", "_", stem).strip("._")[-100:]


def _free_name(name: str, taken: set[str]) -> str:
    name, number = name or "picture", 2
    free, path = name, Path(name)
    while free in taken:
        free, number = f"{path.stem}-{number}{path.suffix}", number + 1
    return free
