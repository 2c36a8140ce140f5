"""Files that are complete or not there: written beside their place on the same file system, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`. It is removed at the end, with all that was not moved out of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(files: Sequence[Path], folder: Path, rename: Callable[[Path, Path], None] = os.replace) -> None:
    """Moves files that are on disk into `folder`, in their order, all or none: after a failure those moved are deleted.

    `rename` gives a file its final path; the default replaces what is there.
    """
    for file in files:
        with file.open("rb+") as written:
            os.fsync(written.fileno())
    done: list[Path] = []
    try:
        for file in files:
            rename(file, folder / file.name)
            done.append(folder / file.name)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. The file there becomes `path` if all goes well; otherwise `path` stays as it was."""
    with folder_beside(path) as folder:
        yield folder / path.name
        publish([folder / path.name], path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces the file at once: no other process ever reads half of it."""
    with replacing(path) as file:
        file.write_text(text, "utf-8")
