"""How much memory a server or a chat may keep earlier prompts in, when the user does not say.

llama.cpp keeps the computed state of a conversation that another one displaces, so that it goes on without computing
its prompt again. Its own bound is LIMIT on every machine, also where weights and context leave less than that: here it
is half of what they leave. Where that does not hold the state of a whole context, nothing is kept: with any bound,
llama.cpp empties an idle conversation after trying to keep it, also where the state is larger than the bound; with 0,
it leaves it in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import model_files

from .context import bytes_per_token, free_memory, trained_tokens
from .options import last_value

LIMIT = 8192  # MiB
MIB = 1 << 20
# Of memory that is free beside weights and context: activations, checkpoints of what is under way, which this bound
# does not count, and the rest of the machine need some.
SHARE = 0.5
OPTIONS = ("-cram", "--cache-ram")
VARIABLE = "LLAMA_ARG_CACHE_RAM"


@dataclass(frozen=True)
class PromptCache:
    """mib: its bound, None for llama.cpp's own choice; reason: what bounds it, in words."""

    mib: int | None = None
    reason: str = ""

    @property
    def words(self) -> str:
        """For people; empty where the user chose, and where the bound is the ordinary one."""
        return f"earlier prompts: {self.mib} MiB, {self.reason} ({OPTIONS[-1]} MIB)" if self.reason else ""

    def arguments(self) -> list[str]:
        """For llama-server and llama-cli."""
        return [] if self.mib is None else [OPTIONS[-1], str(self.mib)]


# llama.cpp's own choice.
UNSAID = PromptCache()


def is_asked(extra: Sequence[str]) -> bool:
    """Whether the user says it to llama.cpp: by arguments for it, which come last there and count, or a variable."""
    return bool(os.environ.get(VARIABLE)) or last_value(extra, OPTIONS) is not None


def choose(models: Sequence[Path], tokens: int, servers: int = 1) -> PromptCache:
    """The bound for a server of a model, and the model of its drafts if it has one, with a context of `tokens` each.

    tokens: 0 for all that the first was trained for. `servers` share the memory, an equal part each.
    """
    free = free_memory()
    if free is None:
        return UNSAID
    headers = [read_gguf_header(model).metadata for model in models]
    tokens = tokens or trained_tokens(headers[0])
    # The state of a conversation that fills the context is as large as the context.
    state = sum(tokens * (bytes_per_token(metadata) or 0) for metadata in headers)
    weights = sum(path.stat().st_size for model in models for path in model_files(model))
    allowed = int(max(0, free // servers - weights - state) * SHARE) // MIB
    if allowed >= LIMIT:
        return PromptCache(LIMIT)
    if allowed * MIB < state:
        return PromptCache(0, f"as the free memory allows {allowed}, and a whole context takes {-(-state // MIB)}")
    return PromptCache(allowed, "what the free memory allows")
