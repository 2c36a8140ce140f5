"""The models that T-MAC has on this machine: conversions and files in its own folder, and what it downloaded.

In: the folder of models, and the receipts in the hub client's cache; other downloads there are not T-MAC's. Out: one
entry per model, with every byte counted once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from tmac.common.paths import work_folder
from tmac.convert.downloads import DEFAULT_REVISION, Receipt, find_finished, receipts
from tmac.convert.sources.gguf_model import SPLIT_NAME, model_name, present_files

from . import records
from .errors import ToolError

CONVERSION, FILE, DOWNLOAD, CHECKPOINT = "conversion", "file", "download", "checkpoint"
# What `tmac bench` makes: not listed one by one.
RANDOM = "random"


@dataclass(frozen=True)
class Entry:
    """One model. kind: CONVERSION or FILE in our folder, DOWNLOAD of a GGUF, CHECKPOINT: a download to convert.

    path: its first file, or the folder of a checkpoint; files: all of them; record: what made a conversion; commit: of
    a download.
    """

    name: str
    kind: str
    path: Path
    files: tuple[Path, ...]
    record: records.Record | None = None
    commit: str = ""

    @property
    def nbytes(self) -> int:
        """Of its files, those that are the same file once."""
        facts = (path.stat() for path in self.files)
        return sum({(fact.st_dev, fact.st_ino): fact.st_size for fact in facts}.values())

    @property
    def runs(self) -> bool:
        """Whether llama.cpp can be given it as it is."""
        return self.kind != CHECKPOINT

    @property
    def origin(self) -> str:
        """Where it is from, in words."""
        if self.record:
            return f"by tmac {self.record.tmac} on {self.record.made[:10]} from {self.record.source}"
        return f"of the hub, commit {self.commit[:12]}" if self.commit else ""


def models_folder() -> Path:
    """Where conversions lie, and where a user may put files."""
    return work_folder() / "models"


def entries() -> list[Entry]:
    """All models, those that run first, by name."""
    found = [*_own(), *_downloads()]
    return sorted(found, key=lambda entry: (not entry.runs, entry.name.lower(), str(entry.path)))


def find(name: str) -> Path | None:
    """The file of a model of our own folder that is listed under a name which is no repository's.

    Raises ToolError for a name that several have.
    """
    if "/" in name:
        return None
    own = list(_own())
    found = [entry for entry in own if entry.name == name] or [entry for entry in own if model_name(entry.path) == name]
    _require_one(name, found)
    return found[0].path if found else None


def find_entries(name: str) -> list[Entry]:
    """What has this name or path, or else this file name: one model, and the download that it was converted from.

    Raises ToolError for none, and for several.
    """
    all_entries = entries()
    found = [entry for entry in all_entries if name in (entry.name, str(entry.path))]
    found = found or [entry for entry in all_entries if model_name(entry.path) == name]
    if not found:
        known = ", ".join(dict.fromkeys(entry.name for entry in all_entries)) or "none"
        raise ToolError(f"there is no model {name!r} in the caches; there are: {known}", "tmac list shows them")
    _require_one(name, [entry for entry in found if entry.commit])
    _require_one(name, [entry for entry in found if not entry.commit])
    return found


def _require_one(name: str, found: list[Entry]) -> None:
    if len(found) > 1:
        paths = ", ".join(str(entry.path) for entry in found)
        raise ToolError(f"{len(found)} models are called {name!r}, expected one: {paths}", "give the path of one")


def has_conversion(download: Entry) -> bool:
    """Whether a conversion of it is there, so that the model runs without the download."""
    return any(entry.record and Path(entry.record.source) == download.path for entry in _own())


def _own() -> Iterator[Entry]:
    for path in sorted(models_folder().glob("*.gguf")):
        split = SPLIT_NAME.fullmatch(path.name)
        if (split and int(split["number"]) != 1) or not path.is_file():
            continue
        record = records.read(path)
        kind = CONVERSION if record else FILE
        yield Entry(record.name if record else model_name(path), kind, path, tuple(present_files(path)), record)


def random_files() -> list[Path]:
    """The models of random weights that benchmarks made."""
    return sorted((models_folder() / RANDOM).glob("*.gguf"))


def _downloads() -> Iterator[Entry]:
    """Each download of ours in the hub client's cache once, whatever names its revision has."""
    seen = set()
    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        for _, receipt in receipts(place):
            finished = find_finished(receipt.repository, receipt.revision, None)
            if finished is None or (finished[1].commit, finished[1].files) in seen:
                continue
            seen.add((finished[1].commit, finished[1].files))
            yield _download(*finished)


def _download(folder: Path, told: Receipt) -> Entry:
    files = _files(folder, told)
    at = "" if told.branch == DEFAULT_REVISION else f"@{told.branch}"
    if told.files[0].endswith(".gguf"):
        name = f"{told.repository}:{model_name(files[0])}{at}"
        return Entry(name, DOWNLOAD, files[0], files, commit=told.commit)
    return Entry(f"{told.repository}{at}", CHECKPOINT, folder, files, commit=told.commit)


def remove(entry: Entry) -> None:
    """Deletes the files of an entry, and what says what it is."""
    if entry.commit:
        _remove_download(entry)
        return
    for path in entry.files:
        path.unlink()
    records.path_of(entry.path).unlink(missing_ok=True)


def _remove_download(entry: Entry) -> None:
    """Deletes its receipts and its files, but no file of another download of the snapshot, nor what others put there.

    The hub client's cache keeps contents in blobs/, to which the files of snapshots are links: one that another
    snapshot links to stays.
    """
    snapshot = next(folder for folder in entry.files[0].parents if folder.parent.name == "snapshots")
    place = snapshot.parents[1]
    wanted: set[Path] = set()
    for path, receipt in receipts(place):
        files = _files(snapshot, receipt) if receipt.commit == entry.commit else ()
        if files == entry.files:
            path.unlink()
        else:
            wanted.update(files)
    gone = [path for path in entry.files if path not in wanted]
    contents = {path.resolve() for path in gone}
    for path in gone:
        path.unlink()
    for linked in (path.resolve() for path in place.glob("snapshots/**/*")):
        contents.discard(linked)
    for content in contents:
        if content.parent == (place / "blobs").resolve():
            content.unlink(missing_ok=True)
    _remove_empty(snapshot, place)


def _files(snapshot: Path, receipt: Receipt) -> tuple[Path, ...]:
    return tuple(snapshot / file for file in receipt.files)


def _remove_empty(snapshot: Path, place: Path) -> None:
    """The folders of a snapshot without files, the names of its revision, and the repository that has nothing left."""
    folders = [path for path in snapshot.rglob("*") if path.is_dir()]
    for folder in [*sorted(folders, reverse=True), snapshot]:
        with suppress(OSError):
            folder.rmdir()
    if snapshot.exists():
        return
    for name in [path for path in (place / "refs").rglob("*") if path.is_file()]:
        if name.read_text("utf-8", "replace").strip() == snapshot.name:
            name.unlink()
    if not any(path.is_file() or path.is_symlink() for path in place.rglob("*")):
        shutil.rmtree(place)
