"""One `tmac` at a time on what two would spoil: the source and build folders, the output of a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from . import console
from .paths import work_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FOLDER = "locks"


@contextmanager
def held(name: str, work: str) -> Iterator[None]:
    """Holds the work folder's lock of that name; waits for another process that does `work`, and says so once.

    The system releases it with the process, however that ends. Where a file system has no locks, one line says so.
    """
    path = work_folder() / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            _take(file, work)
        except OSError:
            console.log(f"note: {path.parent} cannot be locked here; let no other tmac do this: {work}")
        yield


def _take(file: BinaryIO, work: str) -> None:
    """Raises OSError where there are no locks."""
    if fcntl is None:
        raise OSError("this system has no fcntl")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.log(f"waiting for another tmac: {work}")
        fcntl.flock(file, fcntl.LOCK_EX)
