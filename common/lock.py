"""One `tmac` at a time on what two would spoil: source and build folders, conversions, compiled kernels, the tuning.

Also the locks of partial folders (files.py), by which one tells whether their process is still there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from . import console
from .paths import work_folder

try:
    import fcntl
except ImportError:  # Windows, where a child inherits no lock
    fcntl = None

FOLDER = "locks"
# What a file system says that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


# Open files of the locks that children hold too.
_held: list[int] = []


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

    The system releases the lock when the process ends, however it ends, and the children that it started meanwhile:
    compilers outlive a tmac that was killed. Where a file system has no locks, one line says so. Raises OSError where
    the lock's file cannot be opened.
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
        with _held_by_children(path.with_suffix(".children"), work):
            yield
    finally:
        if taken:
            taken.release()


def inherited() -> tuple[int, ...]:
    """The descriptors that a child is to inherit, by which it holds what is held here."""
    return tuple(_held)


@contextmanager
def _held_by_children(path: Path, work: str) -> Iterator[None]:
    """Holds a lock that belongs to an open file, and so to everyone who has inherited it; waits for such.

    At the end nobody holds it any more: a daemon that a compiler started may stay.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.log(f"waiting for what a tmac that was killed has left running: {work}; `fuser {path}` names it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as problem:
            if problem.errno not in NO_LOCKS:
                raise
            yield
            return
        _held.append(descriptor)
        try:
            yield
        finally:
            _held.remove(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
