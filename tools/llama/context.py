"""How many tokens of context a model gets when the user does not say: what memory allows, at most DEFAULT_TOKENS.

llama.cpp's own default is all that the model was trained for, whose cache can be larger than the memory. A longer
prompt asks for a longer context by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import model_files

MEMORY_FILE = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
# The control groups of this process, a line each; that of version 2 begins with 0::.
OWN_CGROUPS = Path("/proc/self/cgroup")
DEFAULT_TOKENS = 8192
LEAST_TOKENS = 512
STEP = 256
# Of memory that is free, what a cache may take: activations and the rest of the machine need some.
SHARE = 0.75
BYTES_OF_A_VALUE = 2  # f16, llama.cpp's default
# English has about 4 bytes in a token, other scripts fewer; what is too short is an error, not a wrong answer.
BYTES_OF_A_TOKEN = 2
OPTIONS = ("-c", "--ctx-size")


@dataclass(frozen=True)
class Context:
    """tokens: of the context, None where the model does not say enough; reason: what bounds it, in words."""

    tokens: int | None
    reason: str = ""

    @property
    def words(self) -> str:
        """For people; empty where the user chose, and where the model has no more."""
        return f"context of {self.tokens} tokens, {self.reason} (--ctx-size N)" if self.reason else ""

    def arguments(self) -> list[str]:
        """For llama.cpp."""
        return [] if self.tokens is None else ["-c", str(self.tokens)]


# llama.cpp's own choice.
UNSAID = Context(None)


def choose(model: Path, prompt: str | None = None, is_local: bool = True) -> Context:
    """The context of a run for which the user chose none, by the model, the machine and the prompt.

    Not `is_local`: the model lies on other machines too, so that this one's memory says nothing.
    """
    metadata = read_gguf_header(model).metadata
    trained = trained_tokens(metadata)
    needed = len(prompt.encode()) // BYTES_OF_A_TOKEN + LEAST_TOKENS if prompt else 0
    wanted, reason = max(DEFAULT_TOKENS, _round_up(needed)), "the default"
    if wanted > DEFAULT_TOKENS:
        reason = "for a prompt of this length"
    if trained and trained <= wanted:
        wanted, reason = trained, ""
    allowed = _allowed(metadata, sum(path.stat().st_size for path in model_files(model))) if is_local else None
    if allowed is not None and allowed < wanted:
        wanted, reason = allowed, "what the free memory allows"
    return Context(wanted, reason)


def _round_up(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _allowed(metadata: Mapping[str, Any], model_bytes: int) -> int | None:
    """How many tokens the free memory holds beside the weights; None if it or the size of a token is not known."""
    free, per_token = free_memory(), bytes_per_token(metadata)
    if not free or not per_token:
        return None
    tokens = int(max(0, free - model_bytes) * SHARE) // per_token
    return max(LEAST_TOKENS, tokens // STEP * STEP)


def trained_tokens(metadata: Mapping[str, Any]) -> int:
    """How many tokens a model was trained for; 0 where it does not say."""
    return _value(metadata, "context_length")


def bytes_per_token(metadata: Mapping[str, Any]) -> int | None:
    """Of the cache of an ordinary decoder; an upper bound where some layers have none, or a smaller one."""
    layers, heads = _value(metadata, "block_count"), _value(metadata, "attention.head_count")
    width = _value(metadata, "embedding_length")
    if not layers or not heads or not width:
        return None
    default = width // heads
    key = _value(metadata, "attention.key_length") or default
    value = _value(metadata, "attention.value_length") or default
    kv_heads = _value(metadata, "attention.head_count_kv") or heads
    return layers * kv_heads * (key + value) * BYTES_OF_A_VALUE


def _value(metadata: Mapping[str, Any], key: str) -> int:
    """The largest, where layers have one each; 0 for what is missing or no number."""
    found = metadata.get(f"{metadata.get('general.architecture')}.{key}")
    values = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return max(numbers, default=0)


def free_memory() -> int | None:
    """Bytes that may be used without swapping, by the system and by the control group; None if nobody says."""
    found = []
    with suppress(OSError, AttributeError):
        found.append(int(re.search(r"MemAvailable:\s+(\d+) kB", MEMORY_FILE.read_text())[1]) * 1024)
    found += filter(None, map(_free_in_group, _groups()))
    return min(found, default=None)


def _groups() -> list[Path]:
    """The control group of this process and those that it is in, each of which may have a limit of its own."""
    own = ""
    with suppress(OSError):
        lines = OWN_CGROUPS.read_text().splitlines()
        own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    # In a container, the name can be one outside of it: then the group is at the root of what is mounted.
    inner = CGROUP / own.strip("/")
    folders = [inner, *inner.parents] if ".." not in inner.parts else [CGROUP]
    return [folder for folder in folders if folder == CGROUP or CGROUP in folder.parents]


def _free_in_group(group: Path) -> int | None:
    """Bytes up to the limit of a control group; None without a limit. What caches of files take is given back."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        used -= sum(int(line[1]) for line in lines if line[0] in ("inactive_file", "active_file"))
    return max(limit - used, 1)
