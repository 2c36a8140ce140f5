"""Files that are complete or not there: written beside their place on the same file system, then renamed.

What is not complete lies in a folder of its own, `.<name>.<random>.partial`, with a lock that its process holds. The
next process that writes the same name finds the folder of one that was killed: it puts back what that one had taken
away, deletes the rest, and says so.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import console, lock

# In a partial folder: the lock, what is being made, what it replaces, and the names that were given, each with an END.
LOCK, NEW, OLD, GIVEN = "lock", "new", "old", "given"
END = "\0"
SUFFIX = ".partial"
# The characters that tempfile puts into a name, as a pattern.
RANDOM = "[a-z0-9_]" * 8
# A partial folder without a lock file may be one whose process is just making it, or of an older T-MAC.
UNLOCKED_SECONDS = 3600


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`. It is removed at the end, with all that was not moved out of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, glob.escape(target.name))
    outer, held = _locked_folder(target)
    try:
        for name in (NEW, OLD):
            (outer / name).mkdir()
        yield outer / NEW
    finally:
        if held:
            held.release()
        shutil.rmtree(outer, ignore_errors=True)


def _locked_folder(target: Path) -> tuple[Path, lock.FileLock | None]:
    """A new partial folder and its lock; no lock where the file system has none."""
    while True:
        outer = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent))
        try:
            held = lock.take_if_free(outer / LOCK)
        except lock.NoLocks:
            return outer, None
        # Another process may have swept the folder before it was locked.
        if held and (outer / LOCK).exists():
            return outer, held
        if held:
            held.release()


def sweep(place: Path, name: str) -> None:
    """Removes partial folders of `name` (a glob pattern) in `place` whose processes were killed, and says so."""
    for outer in sorted(place.glob(f".{name}.{RANDOM}{SUFFIX}")):
        if not outer.is_dir():
            continue
        if not (outer / LOCK).exists() and time.time() - _newest(outer) < UNLOCKED_SECONDS:
            continue
        try:
            held = lock.take_if_free(outer / LOCK)
        except lock.NoLocks:
            console.log(f"note: if no other tmac is running, delete {outer}: one that was killed left it")
            continue
        # A process that ends removes its folder by itself; a folder of another user stays.
        except OSError:
            continue
        if held is None:
            continue
        try:
            _roll_back(outer, place)
        finally:
            held.release()
        shutil.rmtree(outer, ignore_errors=True)
        done = "could not remove" if outer.exists() else "removed"
        console.log(f"{done} {outer}, which a tmac that was killed had left")


def _newest(folder: Path) -> float:
    times = [time.time()]
    with suppress(OSError):
        times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return max(times)


def _roll_back(outer: Path, place: Path) -> None:
    """Undoes a publication that was cut off before its last file, so that no set is half new and half old."""
    new, old, given = outer / NEW, outer / OLD, outer / GIVEN
    made = sorted(new.iterdir()) if new.is_dir() else []
    if all(_is_published(file, place) for file in made):
        return
    names = given.read_text("utf-8", "surrogateescape").split(END)[:-1] if given.is_file() else []
    for file in [new / name for name in names]:
        # Without hard links it was moved.
        if _is_published(file, place) or not file.exists():
            (place / file.name).unlink(missing_ok=True)
    for file in sorted(old.iterdir()) if old.is_dir() else []:
        os.replace(file, place / file.name)


def _is_published(file: Path, place: Path) -> bool:
    """Whether the file has its final name too: a publication of several files gives names by hard links."""
    target = place / file.name
    return target.is_file() and file.is_file() and target.samefile(file)


def publish(files: Sequence[Path], folder: Path, rename: Callable[[Path, Path], None] = os.replace) -> None:
    """Moves files that are on disk from a folder of folder_beside into `folder`, in their order, all or none.

    `rename` gives a file its final path; the default replaces what is there. One file replaces another at once. Of
    several, what was there is first set aside, the file that comes last before all others; a failure puts it back.
    """
    for file in files:
        _flush(file)
    if len(files) > 1:
        _publish_set(files, folder, rename)
    else:
        for file in files:
            rename(file, folder / file.name)
    _flush_folder(folder)


def _publish_set(files: Sequence[Path], folder: Path, rename: Callable[[Path, Path], None]) -> None:
    done: list[Path] = []
    old, given = (files[0].parent.with_name(name) for name in (OLD, GIVEN))
    try:
        if rename is os.replace:
            for file in reversed(files):
                if (folder / file.name).exists():
                    os.replace(folder / file.name, old / file.name)
        for file in files:
            with given.open("a", encoding="utf-8", errors="surrogateescape") as names:
                names.write(file.name + END)
            _flush(given)
            link_or_move(file, folder / file.name) if rename is os.replace else rename(file, folder / file.name)
            done.append(folder / file.name)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        for file in sorted(old.iterdir()):
            os.replace(file, folder / file.name)
        raise


def link_or_move(file: Path, target: Path) -> None:
    """Gives the file its final name; where hard links are possible, it keeps its first one, too."""
    try:
        os.link(file, target)
    except OSError:
        os.replace(file, target)


def _flush(file: Path) -> None:
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _flush_folder(folder: Path) -> None:
    """Brings the names in a folder onto the disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. The file there becomes `path` if all goes well; otherwise `path` stays as it was."""
    with folder_beside(path) as folder:
        yield folder / path.name
        publish([folder / path.name], path.parent)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` if all goes well. What was there is set aside, and deleted at the end."""
    with folder_beside(target) as folder:
        yield folder
        if target.exists():
            os.replace(target, folder.with_name(OLD) / target.name)
        try:
            folder.rename(target)
        except BaseException:
            if (kept := folder.with_name(OLD) / target.name).exists():
                os.replace(kept, target)
            raise


def write_text(path: Path, text: str) -> None:
    """Replaces the file at once: no other process ever reads half of it."""
    with replacing(path) as file:
        file.write_text(text, "utf-8")
