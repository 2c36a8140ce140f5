"""How much memory a server or a chat may keep earlier prompts in, when the user does not say.

llama.cpp keeps the computed state of a conversation that another one displaces, so that it goes on without computing
its prompt again. Its own bound is LIMIT on every machine, also where weights and context leave less than that: here it
is half of what they leave.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import model_files

from .context import bytes_per_token, free_memory, trained_tokens

LIMIT = 8192  # MiB
MIB = 1 << 20
# Of memory that is free beside weights and context: a state is added before an older one goes.
SHARE = 0.5
OPTIONS = ("-cram", "--cache-ram")
VARIABLE = "LLAMA_ARG_CACHE_RAM"


@dataclass(frozen=True)
class PromptCache:
    """mib: its bound, None for llama.cpp's own choice; is_bounded: whether memory allows less than LIMIT."""

    mib: int | None = None
    is_bounded: bool = False

    @property
    def words(self) -> str:
        """For people; empty where the user chose, and where the bound is the ordinary one."""
        if not self.is_bounded:
            return ""
        return f"earlier prompts: {self.mib} MiB, what the free memory allows ({OPTIONS[-1]} MIB)"

    def arguments(self) -> list[str]:
        """For llama-server and llama-cli."""
        return [] if self.mib is None else [OPTIONS[-1], str(self.mib)]


# llama.cpp's own choice.
UNSAID = PromptCache()


def is_asked(extra: Sequence[str]) -> bool:
    """Whether the user says it to llama.cpp: by arguments for it, which come last there and count, or a variable."""
    return bool(os.environ.get(VARIABLE)) or any(argument.partition("=")[0] in OPTIONS for argument in extra)


def choose(model: Path, tokens: int | None) -> PromptCache:
    """The bound for a model whose context has `tokens`, none: all that it was trained for."""
    free = free_memory()
    if free is None:
        return UNSAID
    metadata = read_gguf_header(model).metadata
    context = (tokens or trained_tokens(metadata)) * (bytes_per_token(metadata) or 0)
    rest = free - sum(path.stat().st_size for path in model_files(model)) - context
    allowed = int(max(0, rest) * SHARE) // MIB
    return PromptCache(min(allowed, LIMIT), allowed < LIMIT)
