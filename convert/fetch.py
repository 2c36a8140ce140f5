"""A hub repository, at a revision -> a local checkpoint folder with only the files that conversion reads.

Uses the huggingface-hub client: it verifies sizes, keeps complete files, and asks for the rest of a file whose
connection broke. Knows nothing of what is in the files.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub

from .checkpoint import INDEX_FILE, WEIGHTS_FILE
from .errors import ConvertError
from .tokenizer import ADDED_FILE, BPE_FILE, CONFIG_FILE, MODEL_FILE, TEMPLATE_FILE

SETTINGS_FILES = (
    "config.json", "quantize_config.json", "generation_config.json",
    MODEL_FILE, BPE_FILE, CONFIG_FILE, ADDED_FILE, TEMPLATE_FILE,
)
# The hub answered, and will answer the same next time.
_REFUSALS = (hub.GatedRepoError, hub.RevisionNotFoundError, hub.RepositoryNotFoundError, hub.HFValidationError)
_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def local_folder(source: Path | str) -> Path:
    """The folder `source`, or if there is none and the name is that of a hub repository, its download.

    Raises ConvertError if it is neither, or as `fetch` does.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists() or not _REPOSITORY.fullmatch(str(source)):
        raise ConvertError(
            f"{source}: found {'a file' if folder.exists() else 'no such folder'}, expected a checkpoint folder",
            "give the folder that holds config.json, or a hub repository as org/name or org/name@revision",
        )
    return fetch(str(source))


def fetch(repo: str, *, folder: Path | None = None, endpoint: str | None = None) -> Path:
    """Downloads `org/name` or `org/name@revision` and returns its folder: `folder`, or the hub client's cache.

    Files that are complete are not downloaded again; without a network a complete earlier download is used.
    `endpoint` is the hub's address, by default huggingface.co or HF_ENDPOINT. Raises ConvertError when the
    repository or revision is not there, is gated, has no safetensors, or cannot be reached.
    """
    match = _REPOSITORY.fullmatch(repo)
    if not match:
        raise ConvertError(f"{repo!r} is not a repository", "write org/name or org/name@revision")
    name, revision = match["name"], match["revision"]
    place = {"revision": revision, "local_dir": folder, "endpoint": endpoint}
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(name, revision=revision)
    # The client lets through the exceptions of its transport, which was requests, httpx and httpx2 in turn and has no
    # base class of its own.
    except Exception as error:
        earlier = None if isinstance(error, _REFUSALS) else _earlier_download(name, place)
        if earlier is None:
            raise _failed(repo, error) from error
        return earlier
    wanted = needed_files([file.rfilename for file in info.siblings or ()])
    _require_weights(repo, wanted)
    try:
        patterns = [glob.escape(file) for file in wanted]
        done = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **place))
    except Exception as error:
        raise _failed(repo, error) from error
    missing = [file for file in wanted if not (done / file).is_file()]
    if missing:
        raise ConvertError(f"{repo}: {missing[0]} was not downloaded to {done}", "run the command again")
    return done


def needed_files(listing: list[str]) -> list[str]:
    """Of a repository's files, those that conversion reads: settings, tokenizer, and one set of weights."""
    top = sorted(file for file in listing if "/" not in file)
    settings = [file for file in top if file in SETTINGS_FILES]
    if WEIGHTS_FILE in top:
        return [*settings, WEIGHTS_FILE]
    # Mistral's own copy of the same weights, in another naming.
    weights = [file for file in top if file.endswith(".safetensors") and not file.startswith("consolidated")]
    return [*settings, *weights, *(file for file in top if file == INDEX_FILE)]


def _require_weights(repo: str, files: list[str]) -> None:
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        raise ConvertError(
            f"{repo}: found {', '.join(files) or 'none of the files needed'}, expected config.json and .safetensors",
            "the converter reads Hugging Face checkpoints in safetensors format",
        )


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
        hint = "write org/name or org/name@revision"
        return ConvertError(f"{repo}: not a repository name ({_first_line(error)})", hint)
    return ConvertError(
        f"{repo}: the download failed ({type(error).__name__}: {_first_line(error)})",
        "check the network and the free disk space, then run the command again; complete files are kept",
    )


def _earlier_download(name: str, place: dict) -> Path | None:
    """A download of the same revision that is already on the disk; its weights are checked when it is opened."""
    try:
        found = huggingface_hub.snapshot_download(name, allow_patterns=["config.json"], local_files_only=True, **place)
    except (OSError, ValueError):
        return None
    return Path(found) if (Path(found) / "config.json").is_file() else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
