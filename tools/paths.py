"""Where things are: what is shipped with the package, and the one folder that everything made is put in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

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
        return Path(chosen).expanduser().absolute()
    if checkout(root):
        return root / "build"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tmac"


def place_key(folder: Path) -> str:
    """Eight digits that tell one folder of the user's from another, for names in the work folder."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]


def log_file(name: str) -> Path:
    """The log of one kind of work, emptied for a new run."""
    path = work_folder() / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path
