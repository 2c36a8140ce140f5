"""Whether a build can be used as it is, by a look of some milliseconds: `tmac run` and `tmac serve` ask it each time.

A build is ready while what decides its bytes is as it was when it was compiled: T-MAC's sources and patches; for a
native build tuning, crossings and the CPU. Compilers and variables such as CFLAGS are not asked: a change there breaks
no build.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tmac.common import cpu, files
from tmac.common.paths import ROOT
from tmac.kernels import crossings_file, tuning_file

from .build import UNFINISHED, Build

STAMP = ".tmac-ready"
# Of the package, what a build is made from.
FOLDERS = ("common", "kernels", "patches", "third_party", "tools/llama")


def is_ready(build: Build, portable: bool) -> bool:
    """Whether `mark` was called for the build with everything as it is now, and no compilation has begun since."""
    stamp = build.folder / STAMP
    try:
        found = stamp.read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return found == state(portable) and build.is_complete() and not (build.folder / UNFINISHED).exists()


def mark(folder: Path, found: str) -> None:
    """Says that the build in `folder`, if there is one, was just compiled from what `state` found before it was begun.

    What changed meanwhile may not be in it. For who holds the lock of the build.
    """
    if folder.is_dir():
        files.write_text(folder / STAMP, found)


def unmark(folder: Path) -> None:
    """Before a build is changed."""
    (folder / STAMP).unlink(missing_ok=True)


def state(portable: bool) -> str:
    """A hash of all that decides the bytes of a build."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if _counts(path)]
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    found_here = None if portable else [_time(tuning_file.path()), _time(crossings_file.path())]
    features = [] if portable else sorted(cpu.features())
    return hashlib.sha256(json.dumps([facts, found_here, cpu.machine(), features]).encode()).hexdigest()


def _counts(path: Path) -> bool:
    return path.suffix != ".pyc" and "__pycache__" not in path.parts and path.is_file()


def _time(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None
