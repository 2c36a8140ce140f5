"""Git LFS pointers: the small text files that stand for large ones in a repository cloned without git-lfs."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ConvertError

# Source: the specification of Git LFS, docs/spec.md: the first line, and all keys in at most 1024 bytes.
FIRST_LINE = b"version https://git-lfs.github.com/spec/"
MAX_BYTES = 1024


def require_no_pointer(path: Path) -> None:
    """Raises ConvertError for a pointer; does nothing for any other file, also for one that cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError:
        return
    if len(text) > MAX_BYTES or not text.startswith(FIRST_LINE):
        return
    size = re.search(rb"^size (\d+)$", text, re.MULTILINE)
    stands_for = f" for a file of {int(size[1])} bytes" if size else ""
    raise ConvertError(
        f"{path}: is a Git LFS pointer{stands_for}, expected the file itself",
        f"git lfs install && git -C {path.parent} lfs pull; or let tmac download it: tmac run org/name",
    )
