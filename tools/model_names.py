"""From what a user calls a model to a file, a folder or `org/name[:TYPE][@revision]`. Only `to_convert` downloads.

A path that exists is that path. Addresses of the hub are the repositories that they show: hf.co/org/name,
https://huggingface.co/org/name/tree/main, .../blob/main/file.gguf.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from tmac.common.paths import expand
from tmac.convert.fetch import has_only_ggufs, local_source
from tmac.convert.gguf_choice import is_model
from tmac.convert.sources.gguf_model import is_gguf, model_files, model_name
from tmac.convert.sources.lfs import require_no_pointer

from .errors import ToolError

EXPECTED = "give a .gguf file, a checkpoint folder or a hub repository org/name[:TYPE]"
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/(?P<rest>.*)|hf://(?P<short>.*)")
_PAGE = re.compile(
    r"(?P<repo>[^/]+/[^/:@]+)(?P<type>:[^/@]+)?(?P<at>@.+)?(?:/(?:tree|blob|resolve)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?"
)


def resolve(name: str) -> str:
    """The same model as an existing path or a repository's name. Raises ToolError for what can be neither."""
    if not name.strip():
        raise ToolError("MODEL is empty", EXPECTED)
    path = expand(name)
    if path.is_dir():
        return str(_in_folder(path))
    if path.exists():
        require_no_pointer(path)
        return str(path)
    found = of_address(name)
    if found == name and path.suffix == ".gguf":
        raise ToolError(f"{path} does not exist{_close(path)}", EXPECTED)
    return found


def of_address(name: str) -> str:
    """The repository that an address of the hub shows; a name as it is. Raises ToolError for other addresses."""
    if match := _ADDRESS.fullmatch(name):
        return _repository(name, match["rest"] or match["short"] or "")
    if "://" in name:
        raise ToolError(f"{name} is not an address of the hub", "download the file, and give its path")
    return name


def to_convert(name: str) -> str:
    """What `tmac convert` reads: an address of one file is downloaded, as its name would be that of a path here."""
    found = of_address(name)
    return str(local_source(found)) if found != name and found.endswith(".gguf") else found


def _in_folder(folder: Path) -> Path:
    """The only GGUF model of a folder without weights of a checkpoint, as of a repository; otherwise the folder."""
    if not has_only_ggufs(path.name for path in folder.iterdir()):
        return folder
    files = sorted(path for path in folder.glob("*.gguf") if is_model(path.name))
    models = {model_name(path): path for path in reversed(files)}
    if len(models) > 1:
        raise ToolError(
            f"{folder} holds {len(models)} GGUF models, expected one: {', '.join(sorted(models))}",
            f"choose one: {next(iter(sorted(models.values())))}",
        )
    if not models:
        return folder
    found = next(iter(models.values()))
    require_no_pointer(found)
    return model_files(found)[0] if is_gguf(found) else found


def _repository(name: str, rest: str) -> str:
    """Of the path of an address: org/name[:TYPE][@revision]."""
    match = _PAGE.fullmatch(rest.partition("?")[0].partition("#")[0].strip("/"))
    if match is None:
        raise ToolError(f"{name} shows no repository, expected https://huggingface.co/org/name", EXPECTED)
    kind, revision = match["type"] or "", match["at"] or ""
    if match["file"]:
        if not match["file"].endswith(".gguf"):
            raise ToolError(f"{name} shows a file that is no GGUF", f"give the repository: {match['repo']}")
        kind = f":{match['file'].rpartition('/')[2]}"
    if match["revision"] not in (None, "main"):
        revision = f"@{match['revision']}"
    return f"{match['repo']}{kind}{revision}"


def _close(path: Path) -> str:
    """A name beside it that was probably meant."""
    try:
        names = [found.name for found in path.absolute().parent.glob("*.gguf")]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
