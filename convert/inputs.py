"""Which files of a checkpoint a conversion reads: what is downloaded, never overwritten, and decides the result."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from .architectures.pooling import POOLING_FILE
from .readers import settings_files
from .sources.checkpoint import INDEX_FILE
from .sources.folded import FOLDED_FILES
from .tokenizer import TOKENIZER_FILES
from .upstream.models import FILES as UPSTREAM_FILES
from .upstream.models import NAMED_FILES
from .vocabularies.chat_template import OTHER_TEMPLATE, OTHERS_FOLDER

_SETTINGS = ("config.json", *settings_files(), *FOLDED_FILES, *TOKENIZER_FILES, POOLING_FILE, *UPSTREAM_FILES)


def is_settings(name: str) -> bool:
    """Whether a file, by its path in the folder, is read beside the weights and their index."""
    is_named = "/" not in name and fnmatchcase(name, NAMED_FILES)
    return name in _SETTINGS or is_named or OTHER_TEMPLATE.fullmatch(name) is not None


def files_read(folder: Path) -> list[Path]:
    """The files in a checkpoint folder that a conversion reads, if need be, in the order of their names."""
    weights = [folder / INDEX_FILE, *folder.glob("*.safetensors")]
    named = [*folder.glob(NAMED_FILES), *folder.joinpath(OTHERS_FOLDER).glob("*")]
    settings = [*map(folder.joinpath, _SETTINGS), *named]
    found = [*weights, *(path for path in settings if is_settings(path.relative_to(folder).as_posix()))]
    return sorted({path for path in found if path.is_file()})
