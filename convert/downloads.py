"""Receipts of finished downloads: with them an earlier download can be used when the hub cannot be reached.

A receipt is a small JSON file: repository, revision asked for, commit, file names. It lies in the folder that was
downloaded to. For downloads into the hub client's cache, the cache's folder of the repository has one per revision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from ..common import files
from .errors import ConvertError
from .sources.checkpoint import read_json
from .sources.gguf_model import model_name

RECEIPT_FILE = ".tmac-download.json"
DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class Receipt:
    """One download. `files` is empty until it is finished."""

    repository: str
    revision: str
    commit: str
    files: tuple[str, ...] = ()

    def answers(self, repository: str, revision: str) -> bool:
        """Whether the download is that of this revision: a branch, tag or commit, and for a GGUF what chose it."""
        asked, chosen = _parts(revision)
        own, ours = _parts(self.revision)
        return self.repository == repository and chosen == ours and asked in (own, self.commit)

    @property
    def branch(self) -> str:
        """The revision without what chose a GGUF."""
        return _parts(self.revision)[0]


def gguf_revision(revision: str, kind: str | None) -> str:
    """What the receipt of a GGUF says: a repository may have been downloaded in several types."""
    return f"{revision}:{kind or ''}"


def _parts(revision: str) -> tuple[str, str | None]:
    """The branch, tag or commit, and what chose a GGUF: None of a checkpoint."""
    branch, separator, chosen = revision.partition(":")
    return branch, chosen if separator else None


def begin(folder: Path, receipt: Receipt) -> None:
    """Writes an unfinished receipt into `folder`, so that a broken update is not taken for a complete download.

    Raises ConvertError when the folder holds another repository, or cannot be written.
    """
    found = _read(folder / RECEIPT_FILE)
    if found and found.repository != receipt.repository:
        raise ConvertError(
            f"{folder}: holds a download of {found.repository}, expected one of {receipt.repository}",
            "choose another folder, or an empty one",
        )
    if found is None or found.commit != receipt.commit:
        _write(folder / RECEIPT_FILE, receipt)


def finish(receipt: Receipt, done: Path, folder: Path | None) -> None:
    """Writes the receipt of a download that is complete in `done`: into `folder`, or without one into the cache.

    A receipt that already says so is not written again: a conversion is reused while no file of the folder is newer.
    """
    path = _cache_receipt(receipt.repository, receipt.revision) if folder is None else done / RECEIPT_FILE
    found = _read(path)
    same = found and (found.commit, found.files) == (receipt.commit, receipt.files)
    if not same or not found.answers(receipt.repository, receipt.revision):
        _write(path, receipt)


def find_finished(repository: str, revision: str, folder: Path | None) -> tuple[Path, Receipt] | None:
    """The place of an earlier download of that revision (or commit) with all its files, and its receipt."""
    if folder is not None:
        candidates = [(folder, folder / RECEIPT_FILE)]
    else:
        cache = _cache_folder(repository)
        # First the receipt of the revision asked for; others may be of the same commit.
        paths = [_cache_receipt(repository, revision), *sorted(cache.glob(f"*{RECEIPT_FILE}"))]
        candidates = [(None, path) for path in paths]
    for place, path in candidates:
        receipt = _read(path)
        if receipt is None or not receipt.files or not receipt.answers(repository, revision):
            continue
        place = place or _cache_folder(repository) / "snapshots" / receipt.commit
        if all(is_there(place / file) for file in receipt.files):
            return place, receipt
    return None


def find_listed(repository: str, revision: str, model: str) -> tuple[Path, Receipt] | None:
    """The place and the receipt of an earlier download of a GGUF by its own name, as `tmac list` has it."""
    for _, receipt in receipts(_cache_folder(repository)):
        same = revision in (receipt.branch, receipt.commit)
        if same and receipt.files[0].endswith(".gguf") and model_name(Path(receipt.files[0])) == model:
            return find_finished(repository, receipt.revision, None)
    return None


def receipts(place: Path) -> Iterator[tuple[Path, Receipt]]:
    """The receipts of finished downloads in the cache's folder of a repository, with their paths."""
    for path in sorted(place.glob(f"*{RECEIPT_FILE}")):
        receipt = _read(path)
        if receipt is not None and receipt.files:
            yield path, receipt


def is_there(path: Path) -> bool:
    """Whether it is a file; false for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _cache_folder(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _cache_receipt(repository: str, revision: str) -> Path:
    return _cache_folder(repository) / f"{quote(revision, safe='')}{RECEIPT_FILE}"


def _read(path: Path) -> Receipt | None:
    """The receipt in `path`; None if there is none, or it is damaged: then it proves nothing."""
    try:
        values = read_json(path)
    except ConvertError:
        return None
    files = values.get("files")
    texts = [values.get(key) for key in ("repository", "revision", "commit")]
    if not isinstance(files, list) or not all(isinstance(text, str) and text for text in [*texts, *files]):
        return None
    if Path(texts[2]).name != texts[2] or not all(map(_is_inside, files)):
        return None
    return Receipt(*texts, tuple(files))


def _is_inside(name: str) -> bool:
    """Whether the name of a file cannot lead out of the folder that it is in."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts)


def _write(path: Path, receipt: Receipt) -> None:
    try:
        files.write_text(path, json.dumps(asdict(receipt), indent=1))
    except OSError as error:
        raise ConvertError(
            f"{path}: cannot be written: {error.strerror}", "choose a folder that can be written, with space left on it"
        ) from error
