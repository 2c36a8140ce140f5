"""Where llama.cpp's own converter runs: its tree, and an interpreter with the packages that it needs.

That is the one that runs T-MAC if the extra `all-models` is installed in it, in the versions that it asks for, else one
in the work folder, which `tmac build --all-models` makes. T-MAC itself needs none of these packages, and imports none.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

from tmac.common import console, files, lock, process
from tmac.common.paths import log_file, work_folder
from tmac.convert.upstream.answer import Upstream

from ..errors import ToolError
from . import source as llama_source

EXTRA = "all-models"
# In the environment, when it is complete: what was asked for.
STAMP = ".tmac-installed"
COMMAND = "tmac build --all-models"
_OF_EXTRA = re.compile(rf"""^([^;]+);\s*extra\s*==\s*["']{EXTRA}["']\s*$""")


def find(build_lock: str) -> Upstream:
    """The tree and the interpreter. Raises ToolError, with how to make it, if there is no such interpreter."""
    python = interpreter()
    if python is None:
        raise ToolError(
            "this model's family is converted by llama.cpp's own converter, which needs torch and transformers "
            "(1.2 GB, in a folder of their own), and they are not installed",
            f"{COMMAND}    installs them, once; nothing else of T-MAC needs them",
        )
    with lock.held(build_lock, "unpacking llama.cpp"):
        return Upstream(llama_source.obtain(None), python)


def interpreter() -> Path | None:
    """The Python that has the packages; None if none has."""
    required = _required()
    if all(map(_is_here, required.split())):
        return Path(sys.executable)
    folder = _folder()
    stamp, python = folder / STAMP, _python(folder)
    # The Python that it was made with may be gone since.
    is_whole = python.is_file() and stamp.is_file() and stamp.read_text("utf-8") == required
    return python if is_whole else None


def install(index: str = "") -> Path:
    """Makes the environment unless it is there, and returns its Python. `index`: one that pip asks too.

    Raises TmacError.
    """
    if (found := interpreter()) is not None:
        return found
    folder = _folder()
    with lock.held(EXTRA, "installing torch and transformers"):
        # Another tmac may have made it meanwhile.
        if (found := interpreter()) is not None:
            return found
        shutil.rmtree(folder, ignore_errors=True)
        process.run([sys.executable, "-m", "venv", folder], log=log_file(EXTRA))
        console.log("installing torch and transformers (small if pip finds a torch for CPUs alone)")
        hint = (
            "on Linux, PyPI's torch brings the libraries of GPUs (5 GB); the page of PyTorch names an index of small "
            "ones: set PIP_EXTRA_INDEX_URL to it"
        )
        process.run(
            [
                _python(folder),
                "-m",
                "pip",
                "install",
                *(["--extra-index-url", index] if index else []),
                *_required().split(),
            ],
            log=log_file(EXTRA),
            hint=hint,
            starts_others=True,
        )
        files.write_text(folder / STAMP, _required())
    return _python(folder)


def _folder() -> Path:
    return work_folder() / EXTRA


def _python(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def _is_here(requirement: str) -> bool:
    """Whether T-MAC's own environment has it; one with `==` in that version, for whatever hardware it was built."""
    name, _, version = re.split(r"(==|[<>=!~].*)", requirement, maxsplit=1)
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return not version or found.partition("+")[0] == version


def _required() -> str:
    """As `wanted`. Raises ToolError if that is nothing."""
    if not (found := wanted()):
        raise ToolError(
            f"the installed package tmac does not say what its extra {EXTRA} asks for, expected torch and transformers",
            "it was installed by an earlier version; install T-MAC again",
        )
    return found


def wanted() -> str:
    """What the extra asks for, a requirement a line."""
    listed = importlib.metadata.requires("tmac") or []
    return "\n".join(match[1].replace(" ", "") for entry in listed if (match := _OF_EXTRA.match(entry)))
