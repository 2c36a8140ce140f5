"""A hub repository, at a revision -> a local checkpoint folder with only the files that conversion reads, or a GGUF.

The huggingface-hub client downloads: it verifies sizes, keeps complete files, and resumes a file whose connection
broke. Of the files only the index is looked into, which names the shards.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub

from ..common import console
from ..common.progress import ByteCount
from .downloads import DEFAULT_REVISION, Receipt, begin, find_finished, find_listed, finish, gguf_revision, is_there
from .errors import ConvertError
from .gguf_choice import choose_gguf
from .hub_progress import bars_into
from .inputs import is_settings
from .sources.checkpoint import INDEX_FILE, WEIGHTS_FILE, read_index

# Not ./x and ../x: a name that begins with a dot is a path.
_REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(:(?P<type>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_REPOSITORY_HINT = "write org/name or org/name@revision, and org/name:TYPE for one of several GGUF files"
# Names of exceptions, or of their base classes, that say that the hub was not reached. By name, as the client lets
# through those of its transport: requests, httpx or httpx2, which have no base class in common.
_UNREACHABLE = {"ConnectionError", "ConnectError", "NetworkError", "Timeout", "TimeoutException", "TimeoutError"}
# These are among them by their bases, but something has answered.
_REACHED = {"SSLError", "ProxyError"}
Log = Callable[[str], None]


def local_source(source: Path | str, log: Log = console.log) -> Path:
    """The folder `source`; if there is none, the download of the hub repository of that name: a folder or a GGUF.

    Raises ConvertError if `source` is neither, or as `fetch` does.
    """
    hint = "give the folder that holds config.json, or a hub repository as org/name or org/name@revision"
    # Path("") would be the current folder.
    if not str(source).strip():
        raise ConvertError(f"{str(source)!r}: the name is empty, expected a checkpoint folder", hint)
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConvertError(f"{source}: found a file, expected a checkpoint folder", hint)
    if not _REPOSITORY.fullmatch(str(source)):
        raise ConvertError(f"{source}: there is no such folder, expected a checkpoint folder", hint)
    return fetch(str(source), log=log)


def fetch(repo: str, *, folder: Path | None = None, endpoint: str | None = None, log: Log = console.log) -> Path:
    """Downloads `org/name[:TYPE][@revision]` and returns its folder: `folder`, or the hub client's cache.

    If the repository has no checkpoint, or with a TYPE, it downloads one GGUF (gguf_choice.py) and returns that file.
    Files that are complete are not downloaded again. When the hub cannot be reached, a finished download of the same
    revision is used, which `log` says. `endpoint` is the hub's address, by default HF_ENDPOINT or huggingface.co.
    Raises ConvertError when the repository or revision does not exist, is gated, does not have exactly one set of
    safetensors or a GGUF that can be chosen, or cannot be reached, and when `folder` holds another repository.
    """
    match = _REPOSITORY.fullmatch(repo)
    if not match:
        raise ConvertError(f"{repo!r} is not a repository", _REPOSITORY_HINT)
    name, revision, kind = match["name"], match["revision"] or DEFAULT_REVISION, match["type"]
    folder = None if folder is None else Path(folder)
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True)
    except Exception as error:
        earlier = _earlier(name, revision, kind, folder) if _is_unreachable(error) else None
        if earlier is None:
            raise _failed(repo, error) from error
        done, receipt = earlier
        log(f"hub unreachable, using the download of {receipt.commit} in {done}")
        return _result(done, receipt.files)
    sizes = _sizes(repo, info)
    ggufs = None
    if kind is not None or has_only_ggufs(sizes):
        ggufs, rule = choose_gguf(repo, sizes, kind)
        log(rule)
        revision = gguf_revision(revision, kind)
    started = Receipt(name, revision, info.sha)
    # The listing and the download are of one commit, even if the branch moves in between.
    place = {"revision": info.sha, "local_dir": folder, "endpoint": endpoint}
    done, wanted = _download(repo, started, sizes, place, ggufs)
    finish(Receipt(name, revision, info.sha, tuple(wanted)), done, folder)
    return _result(done, wanted)


def _sizes(repo: str, info: huggingface_hub.hf_api.ModelInfo) -> dict[str, int | None]:
    """The files that the hub lists. Raises ConvertError for an answer that is none, as that of a proxy can be."""
    sizes = {}
    for file in info.siblings or ():
        name, size = file.rfilename, file.size
        if not isinstance(name, str) or not name or not (size is None or type(size) is int):
            raise _no_answer(repo, f"a file {name!r} of {size!r} bytes")
        sizes[name] = size
    if not isinstance(info.sha, str) or not re.fullmatch(r"\w+", info.sha):
        raise _no_answer(repo, f"the commit {info.sha!r}")
    return sizes


def _no_answer(repo: str, found: str) -> ConvertError:
    return ConvertError(f"{repo}: the hub's answer has {found}", "check HF_ENDPOINT, and the proxy in between")


def _earlier(name: str, revision: str, kind: str | None, folder: Path | None) -> tuple[Path, Receipt] | None:
    """An earlier download of the checkpoint, or else of the GGUF."""
    found = None if kind is not None else find_finished(name, revision, folder)
    if found is None:
        found = find_finished(name, gguf_revision(revision, kind), folder)
    if found is None and kind is not None and folder is None:
        found = find_listed(name, revision, kind)
    return found


def _result(done: Path, files: Sequence[str]) -> Path:
    """The first file of a GGUF, or the folder of a checkpoint."""
    return done / files[0] if files[0].endswith(".gguf") else done


def has_only_ggufs(listing: Iterable[str]) -> bool:
    """Whether the files of a repository, or of a folder, are no checkpoint, but models in GGUF."""
    files = [file for file in listing if "/" not in file]
    return any(file.endswith(".gguf") for file in files) and not any(file.endswith(".safetensors") for file in files)


def _download(
    repo: str, started: Receipt, sizes: dict[str, int | None], place: dict, ggufs: list[str] | None
) -> tuple[Path, list[str]]:
    """Downloads `ggufs`, or else what a checkpoint needs, and checks the size of each file.

    In `sizes`, None is one that the hub does not tell.
    """
    if ggufs is None:
        _require_weights(repo, sizes)
    if place["local_dir"] is not None:
        begin(place["local_dir"], started)
    try:
        shards = None
        if INDEX_FILE in sizes and ggufs is None:
            index = huggingface_hub.hf_hub_download(started.repository, INDEX_FILE, **place)
            shards = set(read_index(Path(index)).values())
        wanted = ggufs or needed_files(repo, sizes, shards)
        patterns = [glob.escape(file) for file in wanted]
        with ByteCount(f"downloading {started.repository}", sum(sizes[file] or 0 for file in wanted)) as count:
            bars = bars_into(count)
            given = {"allow_patterns": patterns, "tqdm_class": bars, **place}
            done = Path(huggingface_hub.snapshot_download(started.repository, **given))
    except ConvertError:
        raise
    except Exception as error:
        raise _failed(repo, error) from error
    for file in wanted:
        found = (done / file).stat().st_size if is_there(done / file) else None
        # If the hub goes away after the listing, the client returns the files of an earlier commit.
        if found is None or sizes[file] not in (None, found):
            what = "was not downloaded" if found is None else f"has {found} bytes, expected {sizes[file]}"
            raise ConvertError(f"{repo}: {file} {what} in {done}", "run the command again")
    return done, wanted


def needed_files(repo: str, listing: Iterable[str], shards: set[str] | None = None) -> list[str]:
    """Of a repository's files, those that conversion reads: settings, tokenizer, and one set of weights.

    `shards` are the files that the repository's index names, if it has one. Raises ConvertError when the listing has
    more than one set of weights, or not all shards.
    """
    listing = list(listing)
    top = sorted(file for file in listing if "/" not in file)
    settings = sorted(filter(is_settings, listing))
    # Mistral's own copy of the same weights, in another naming.
    weights = [file for file in top if file.endswith(".safetensors") and not file.startswith("consolidated")]
    if shards is not None:
        missing = sorted(shards.difference(top))
        if missing:
            raise ConvertError(
                f"{repo}: {missing[0]} is missing: {len(missing)} of the {len(shards)} shards in {INDEX_FILE} are not "
                "in the repository",
                "its maker has to complete it; look for another revision",
            )
        if WEIGHTS_FILE in weights and WEIGHTS_FILE not in shards:
            raise _two_sets(repo, [WEIGHTS_FILE, INDEX_FILE])
        return [*settings, *sorted(shards), INDEX_FILE]
    if WEIGHTS_FILE in weights:
        return [*settings, WEIGHTS_FILE]
    if len(weights) > 1:
        raise _two_sets(repo, weights)
    return [*settings, *weights]


def _two_sets(repo: str, files: list[str]) -> ConvertError:
    return ConvertError(
        f"{repo}: found {', '.join(files)}, expected one set of weights: one file, or {INDEX_FILE} with its shards",
        "choose a revision that has one, or download the files of one yourself and give the folder",
    )


def _require_weights(repo: str, listing: Iterable[str]) -> None:
    files = [file for file in listing if is_settings(file) or ("/" not in file and file.endswith(".safetensors"))]
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        raise ConvertError(
            f"{repo}: found {', '.join(files) or 'none of the files needed'}, expected config.json and .safetensors",
            "the converter reads Hugging Face checkpoints in safetensors format, and GGUF files",
        )


def _is_unreachable(error: Exception) -> bool:
    """Whether the hub gave no answer at all. An answer, such as a refusal, must not be hidden by an old download."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return not isinstance(error, hub.HfHubHTTPError) and bool(kinds & _UNREACHABLE) and not kinds & _REACHED


def _failed(repo: str, error: Exception) -> ConvertError:
    if isinstance(error, hub.GatedRepoError):
        hint = "accept its terms on its page, then run `hf auth login`"
        return ConvertError(f"{repo}: the repository is gated", hint)
    if isinstance(error, hub.RevisionNotFoundError):
        return ConvertError(f"{repo}: the repository has no such revision", "look at its branches, tags and commits")
    if isinstance(error, hub.RepositoryNotFoundError):
        return ConvertError(
            f"{repo}: there is no such folder here and no such repository on the hub",
            "check the spelling; for a private repository run `hf auth login` first",
        )
    if isinstance(error, hub.HFValidationError):
        return ConvertError(f"{repo}: not a repository name ({_first_line(error)})", _REPOSITORY_HINT)
    return ConvertError(
        f"{repo}: the download failed ({type(error).__name__}: {_first_line(error)})",
        "check the network and the free disk space, then run the command again; complete files are kept",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
