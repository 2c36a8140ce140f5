"""Where things are: what is shipped with the package, and the one folder that everything made is put in."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from .errors import ToolError

# In a checkout the repository's folder; in an installed wheel the package `tmac`. Both hold the same folders.
ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "patches" / "llama.cpp"
PIN = ROOT / "third_party" / "llama.cpp.toml"
DEMO_CHECKPOINT = ROOT / "convert" / "demo"


def checkout(root: Path = ROOT) -> Path | None:
    """The checkout that runs, or None for an installed wheel."""
    return root if (root / "pyproject.toml").is_file() else None


def work_folder(root: Path = ROOT) -> Path:
    """Where sources, builds, models and logs go: TMAC_HOME, else the checkout's build folder, else the user's cache."""
    chosen = os.environ.get("TMAC_HOME")
    if chosen:
        return expand(chosen).absolute()
    if checkout(root):
        return root / "build"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tmac"
    except RuntimeError:
        hint = "set TMAC_HOME to the whole path of a folder"
        raise ToolError("the user's home folder is not known", hint) from None


def expand(name: str) -> Path:
    """A path as the user wrote it, with `~` replaced. Raises ToolError for a user without a home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ToolError(f"{name}: the home folder that ~ stands for is not known", "write the whole path") from None


def place_key(folder: Path) -> str:
    """Eight digits that tell one folder of the user's from another, for names in the work folder."""
    return hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]


def log_file(name: str) -> Path:
    """The log of one kind of work, new and empty; a process that still writes the last one keeps its own file."""
    path = work_folder() / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Windows keeps a file that is open; then two logs are in one.
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
    path.touch()
    return path
