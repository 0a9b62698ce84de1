"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path in the same folder, then renames it to `path`.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file at `path` is left as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(target, lambda temporary: temporary.write_text("kept"))
        >>> target.read_text()
        'kept'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # some writers make their files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder_atomically(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a new empty folder beside `folder`, then puts it in place of `folder`.

    Raises:
        OSError: the place cannot be written or the disk is full; an older folder is left as it was.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary, older = folder.with_name(f".{folder.name}.{mark}.part"), folder.with_name(f".{folder.name}.{mark}.old")
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, older)
        try:
            os.replace(temporary, folder)
        except OSError:
            if older.exists():
                os.replace(older, folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)
