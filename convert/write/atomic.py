"""Output that appears under its name when it is complete, or not at all: common/files.py, with errors for the user.

Without `force` an existing file is kept, also one that another process makes in the meantime.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...common import files
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


def check_not_read(output: Path, reads: Iterable[Path]) -> None:
    """Raises ConvertError if `output` is one of the files that the work reads."""
    source = next((file for file in reads if output.exists() and file.exists() and output.samefile(file)), None)
    if source:
        raise ConvertError(f"{output} is {source}, which is read, expected another file", "choose another name with -o")


@contextmanager
def replacing(output: Path, force: bool) -> Iterator[Path]:
    """A path to write to, which becomes `output` at the end, or is deleted after any error.

    Raises ConvertError as check_target does, before and after the writing, and if `output` cannot be written.
    """
    with folder_beside(output, force) as folder:
        yield folder / output.name


@contextmanager
def folder_beside(output: Path, force: bool) -> Iterator[Path]:
    """A folder beside `output`, whose files are moved to the folder of `output` at the end: all of them or none.

    The first by name is moved last: a model in shards is opened by it, so it must be there only when all others are.
    With `force`, the files that were there are put back if one of the new ones cannot be moved.
    """
    check_target(output, force)
    try:
        with files.folder_beside(output) as folder:
            yield folder
            made = sorted(folder.iterdir(), reverse=True)
            for file in made:
                check_target(output.with_name(file.name), force)
            files.publish(made, output.parent, os.replace if force else _link)
    except OSError as error:
        # numpy raises OSError without an error number after a short write.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
        raise ConvertError(
            f"{output}: cannot be written: {error.strerror or error}",
            "the disk is full: free some space or choose another one" if full else "choose another place with -o",
        ) from error


def _link(temporary: Path, output: Path) -> None:
    """Gives the file its name by a hard link, which, unlike a rename, fails if the name is taken."""
    check_target(output, force=False)
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
