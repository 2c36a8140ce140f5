"""Output that appears under its name when it is complete, or not at all.

Files are written in a folder beside their target and moved to it at the end.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConvertError

# What os.link reports on file systems that have no hard links.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


def check_target(output: Path, force: bool) -> None:
    """Raises ConvertError if `output` exists and must be kept or is no file, or its folder does not exist."""
    if output.exists() and not output.is_file():
        raise ConvertError(f"{output} exists and is not a file", "give the name of a file")
    if output.exists() and not force:
        raise _exists(output)
    if not output.parent.is_dir():
        raise ConvertError(
            f"{output.parent} is not a folder, so {output.name} cannot be written there",
            "make the folder, or choose another place with -o",
        )


@contextmanager
def replacing(output: Path, force: bool) -> Iterator[Path]:
    """A path to write to, which becomes `output` at the end, or is deleted after any error.

    Raises ConvertError if in the meantime another process has made an `output` that must be kept.
    """
    with folder_beside(output, force) as folder:
        yield folder / output.name


@contextmanager
def folder_beside(output: Path, force: bool) -> Iterator[Path]:
    """A folder beside `output`, whose files are moved to the folder of `output` at the end: all of them or none."""
    folder = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        folder.mkdir()
        yield folder
        files = sorted(folder.iterdir())
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        _publish_all(files, output, force)
    except OSError as error:
        # numpy raises OSError without an error number after a short write.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
        raise ConvertError(
            f"{output}: cannot be written: {error.strerror or error}",
            "the disk is full: free some space or choose another one" if full else "choose another place with -o",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish_all(files: list[Path], output: Path, force: bool) -> None:
    """Moves the first shard last: a model is opened by it, so it must be there only when all others are."""
    done: list[Path] = []
    try:
        for file in reversed(files):
            target = output.with_name(file.name)
            _publish(file, target, force)
            done.append(target)
    except BaseException:
        for target in done:
            target.unlink(missing_ok=True)
        raise


def _publish(temporary: Path, output: Path, force: bool) -> None:
    """Gives the file its name. Without `force` by a hard link, which, unlike a rename, fails if the name is taken."""
    check_target(output, force)
    if not force:
        try:
            os.link(temporary, output)
            return
        except FileExistsError as error:
            raise _exists(output) from error
        # Without hard links, only the check above protects an existing file.
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.replace(temporary, output)


def _exists(output: Path) -> ConvertError:
    return ConvertError(f"{output} exists", "choose another name, or overwrite a file with --force")
