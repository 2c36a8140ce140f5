"""Where things are: the root of the package, and the work folder, which holds everything that T-MAC makes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from .errors import TmacError

# In a checkout the repository's folder; in an installed wheel the package `tmac`. Both hold the same folders.
ROOT = Path(__file__).resolve().parent.parent


def checkout(root: Path = ROOT) -> Path | None:
    """The checkout that runs, or None for an installed wheel."""
    return root if (root / "pyproject.toml").is_file() else None


def work_folder(root: Path = ROOT) -> Path:
    """Where sources, builds, compiled kernels, the tuning, models, locks and logs go, whether or not it is there yet.

    TMAC_HOME, else the checkout's build folder, else the user's cache. Raises TmacError for a user without a home.
    """
    chosen = os.environ.get("TMAC_HOME")
    if chosen:
        return expand(chosen, "TMAC_HOME=").absolute()
    if checkout(root):
        return root / "build"
    # Where nothing says what ~ is, new versions of platformdirs raise RuntimeError, old ones return it as it is.
    with suppress(RuntimeError):
        folder = user_cache_path("tmac", appauthor=False)
        if folder.parts[0] != "~":
            return folder
    raise TmacError("the user's home folder is not known", "set TMAC_HOME to the whole path of a folder")


def expand(name: str, label: str = "") -> Path:
    """A path as the user wrote it, with `~` replaced. Raises TmacError for a user without a home; `label` opens it."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        what = f"{label}{name}: the home folder that ~ stands for is not known"
        raise TmacError(what, "write the whole path of the folder") from None


def place_key(folder: Path) -> str:
    """Eight hexadecimal digits that tell one folder of the user's from another, for names in the work folder."""
    return hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]


def log_file(name: str) -> Path:
    """The log of one kind of work, new and empty; a process that still writes the last one keeps its own file.

    A work folder that only others can write still has models and binaries to run: then logs are in a temporary folder.
    """
    try:
        return _new_log(work_folder() / "logs", name)
    except OSError as problem:
        if problem.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    return _new_log(_temporary_logs(), name)


def _new_log(folder: Path, name: str) -> Path:
    path = folder / f"{name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    # Windows keeps a file that is open; then two logs are in one.
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
    path.touch()
    return path


def _temporary_logs() -> Path:
    """This user's folder in the system's for temporary files, where others could have put one of the same name."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "tmac-logs"
    folder = Path(tempfile.gettempdir()) / f"tmac-logs-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="tmac-logs-"))
    return folder
