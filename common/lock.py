"""One `tmac` at a time on what two would spoil: source and build folders, conversions, compiled kernels, the tuning."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from . import console
from .paths import work_folder

FOLDER = "locks"
# What a file system says that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def held(name: str, work: str) -> Iterator[None]:
    """Holds the work folder's lock of that name. Waits for another process that does `work`, and says so once.

    The system releases the lock when the process ends, however it ends. Where a file system has no locks, one line
    says so. Raises OSError where the lock's file cannot be opened.
    """
    path = work_folder() / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)
    try:
        _take(lock, work)
    except (OSError, NotImplementedError) as problem:
        if isinstance(problem, OSError) and problem.errno not in NO_LOCKS:
            raise
        console.log(f"note: {path.parent} cannot be locked here; let no other tmac do this: {work}")
    try:
        yield
    finally:
        lock.release()


def _take(lock: FileLock, work: str) -> None:
    """Raises OSError or NotImplementedError where there are no locks."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        console.log(f"waiting for another tmac: {work}")
        lock.acquire()
