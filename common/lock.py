"""One `tmac` at a time on what two would spoil: source and build folders, conversions, compiled kernels, the tuning.

Also the locks of partial folders (files.py), by which one tells whether their process is still there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from . import console
from .paths import work_folder

FOLDER = "locks"
# What a file system says that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class NoLocks(Exception):
    """The file system has no locks."""


def take_if_free(path: Path) -> FileLock | None:
    """The lock of file `path`, taken; None while another process has it. Raises NoLocks or OSError."""
    taken = FileLock(path, fallback_to_soft=False)
    try:
        taken.acquire(blocking=False)
    except Timeout:
        return None
    except NotImplementedError as problem:
        raise NoLocks from problem
    except OSError as problem:
        if problem.errno in NO_LOCKS:
            raise NoLocks from problem
        raise
    return taken


@contextmanager
def held(name: str, work: str) -> Iterator[None]:
    """Holds the work folder's lock of that name. Waits for another process that does `work`, and says so once.

    The system releases the lock when the process ends, however it ends. Where a file system has no locks, one line
    says so. Raises OSError where the lock's file cannot be opened.
    """
    path = work_folder() / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = None
    try:
        taken = take_if_free(path)
        if taken is None:
            console.log(f"waiting for another tmac: {work}")
            taken = FileLock(path, fallback_to_soft=False)
            taken.acquire()
    except NoLocks:
        console.log(f"note: {path.parent} cannot be locked here; let no other tmac do this: {work}")
    try:
        yield
    finally:
        if taken:
            taken.release()
