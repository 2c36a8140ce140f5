"""The models that T-MAC has on this machine: conversions and files in its own folder, and what it downloaded.

In: the folder of models, and the receipts in the hub client's cache; other downloads there are not T-MAC's. Out: one
entry per model, with every byte counted once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir

from tmac.common.paths import work_folder
from tmac.convert.downloads import RECEIPT_FILE, find_finished
from tmac.convert.sources.gguf_model import SPLIT_NAME, model_name

from . import records
from .errors import ToolError

CONVERSION, FILE, DOWNLOAD, CHECKPOINT = "conversion", "file", "download", "checkpoint"
# What `tmac bench` makes: not listed one by one.
RANDOM = "random"


@dataclass(frozen=True)
class Entry:
    """One model. kind: CONVERSION or FILE in our folder, DOWNLOAD of a GGUF, CHECKPOINT: a download to convert.

    path: its first file, or the folder of a checkpoint; record: what made a conversion; commit: of a download.
    """

    name: str
    kind: str
    path: Path
    nbytes: int
    record: records.Record | None = None
    commit: str = ""

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
    """The file of a model of our own folder that is listed under a name which is no repository's."""
    if "/" in name:
        return None
    found = [entry.path for entry in _own() if name in (entry.name, model_name(entry.path))]
    return found[0] if len(found) == 1 else None


def find_entries(name: str) -> list[Entry]:
    """The entries of a name, of a path, or of the end of a name that only one has. Raises ToolError for none."""
    all_entries = entries()
    exact = [entry for entry in all_entries if name in (entry.name, str(entry.path), model_name(entry.path))]
    if exact:
        return exact
    known = ", ".join(dict.fromkeys(entry.name for entry in all_entries)) or "none"
    raise ToolError(f"there is no model {name!r} in the caches; there are: {known}", "tmac list shows them")


def _own() -> Iterator[Entry]:
    folder = models_folder()
    for path in sorted(folder.glob("*.gguf")):
        split = SPLIT_NAME.fullmatch(path.name)
        if split and int(split["number"]) != 1:
            continue
        parts = sorted(folder.glob(f"{split['stem']}-*-of-{split['count']}.gguf")) if split else [path]
        record = records.read(path)
        kind = CONVERSION if record else FILE
        yield Entry(record.name if record else model_name(path), kind, path, _size(parts), record)


def random_files() -> list[Path]:
    """The models of random weights that benchmarks made."""
    return sorted((models_folder() / RANDOM).glob("*.gguf"))


def _downloads() -> Iterator[Entry]:
    """Each download of ours in the hub client's cache once, whatever names its revision has."""
    seen = set()
    for receipt in sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/*{RECEIPT_FILE}")):
        try:
            values = json.loads(receipt.read_text("utf-8"))
            found = find_finished(values["repository"], values["revision"], None)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found is None:
            continue
        folder, told = found
        key = (told.commit, told.files)
        if key in seen:
            continue
        seen.add(key)
        size = _size(folder / file for file in told.files)
        if told.files[0].endswith(".gguf"):
            kind = model_name(Path(told.files[0]))
            yield Entry(f"{told.repository}:{kind}", DOWNLOAD, folder / told.files[0], size, commit=told.commit)
        else:
            yield Entry(told.repository, CHECKPOINT, folder, size, commit=told.commit)


def _size(paths: Iterable[Path]) -> int:
    """Bytes of the files, those that are the same file once."""
    facts = (path.stat() for path in paths)
    return sum({(fact.st_dev, fact.st_ino): fact.st_size for fact in facts}.values())


def remove(entry: Entry) -> None:
    """Deletes the files of an entry, and what says what it is."""
    if entry.commit:
        cache = Path(constants.HF_HUB_CACHE)
        scan_cache_dir(cache).delete_revisions(entry.commit).execute()
        for receipt in cache.glob(f"models--*/*{RECEIPT_FILE}"):
            if f'"{entry.commit}"' in receipt.read_text("utf-8", "replace"):
                receipt.unlink()
        return
    split = SPLIT_NAME.fullmatch(entry.path.name)
    parts = entry.path.parent.glob(f"{split['stem']}-*-of-{split['count']}.gguf") if split else [entry.path]
    for path in list(parts):
        path.unlink()
    records.path_of(entry.path).unlink(missing_ok=True)
