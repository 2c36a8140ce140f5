"""Whether the binaries in use are those that an installed wheel carries, or a build of this machine's own.

This is the one place that decides it. A wheel made by `tmac wheel` has a folder `binaries`: `bin` holds llama.cpp's
programs and libraries and the kernels, `native` small libraries that Python calls, and ABOUT says what made them.
`tmac build` leaves a file of its choice in the work folder: from then on its build is used, also with such a wheel.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from .paths import ROOT, work_folder

FOLDER, ABOUT = "binaries", "about.json"
CHOICE_FILE = "build-choice.json"
KERNELS = f"libtmac-kernels.{'dylib' if sys.platform == 'darwin' else 'so'}"


def carried(root: Path = ROOT) -> Path | None:
    """The folder of binaries of an installed wheel; None for a checkout and for a wheel without them."""
    folder = root / FOLDER
    return folder if (folder / ABOUT).is_file() else None


def used(root: Path = ROOT) -> Path | None:
    """The same if it is used: None where the user has built. Raises TmacError for a user without a home."""
    folder = carried(root)
    return folder if folder and not (work_folder() / CHOICE_FILE).exists() else None


def kernels() -> Path | None:
    """The library of kernels, if packaged binaries are used and have one: on Windows each backend has its own copy."""
    folder = used()
    path = folder / "bin" / KERNELS if folder else None
    return path if path and path.is_file() else None


def native_name(inputs: object) -> str:
    """The name of a small library that is made of `inputs`: texts and flags, the same wherever the package is."""
    return f"{hashlib.sha256(repr(inputs).encode()).hexdigest()[:24]}.so"


def native(inputs: object) -> Path | None:
    """The small library that is made of `inputs`, if packaged binaries are used and it is among them."""
    folder = used()
    path = folder / "native" / native_name(inputs) if folder else None
    return path if path and path.is_file() else None


def compiler() -> str | None:
    """What compiled the packaged binaries, such as `gcc 12.2.0`, if they are used."""
    folder = used()
    return json.loads((folder / ABOUT).read_text("utf-8"))["compiler"] if folder else None
