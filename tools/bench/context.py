"""What of a context is measured: how many tokens are in the cache, the cache's type, and which attention reads it.

Comes in: names. Goes out: llama-bench's arguments and the plugin's variable. Nothing here runs a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tmac.convert.sources import ggml_types
from tmac.convert.sources.ggml_types import GgmlType
from tmac.kernels import attention

from ..errors import ToolError
from .shapes import Shape

# What llama-bench takes after -ctk and -ctv.
CACHE_NAMES = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_BY_NAME = {kind.name: kind for kind in ggml_types.TYPES.values()}
CACHE_TYPES = {name: _BY_NAME[name] for name in CACHE_NAMES}


@dataclass(frozen=True)
class Attention:
    """One of those in a binary. is_flash: the one operation FLASH_ATTN_EXT instead of two products and a softmax."""

    name: str
    is_flash: bool
    is_tmac: bool

    def serves(self, cache: GgmlType) -> bool:
        """llama.cpp keeps V transposed without flash attention, which blocks of a quantized type do not allow."""
        return self.is_flash or cache.block == 1


ATTENTIONS = (
    Attention("tmac", is_flash=True, is_tmac=True),
    Attention("stock-fa", is_flash=True, is_tmac=False),
    Attention("stock-no-fa", is_flash=False, is_tmac=False),
)


@dataclass(frozen=True)
class Context:
    """depth: tokens in the cache before the first one that is timed. K and V have the same type."""

    depth: int
    cache: GgmlType
    attention: Attention

    @property
    def label(self) -> str:
        return f"after {self.depth} tokens ({self.cache.name} cache, {self.attention.name})"

    def arguments(self) -> list[str]:
        """Of llama-bench."""
        flash = "on" if self.attention.is_flash else "off"
        return ["-d", str(self.depth), "-fa", flash, "-ctk", self.cache.name, "-ctv", self.cache.name]

    def environment(self) -> dict[str, str | None]:
        """What it changes of the benchmark's own environment."""
        return {} if self.attention.is_tmac else {attention.VARIABLE: attention.STOCK}


def parse_cache_types(text: str) -> tuple[GgmlType, ...]:
    """Types with commas between them, each once. Raises ToolError."""
    for name in text.split(","):
        if name not in CACHE_TYPES:
            raise ToolError(f"no cache of llama-bench has the type {name!r}", f"known: {', '.join(CACHE_TYPES)}")
    return tuple(dict.fromkeys(CACHE_TYPES[name] for name in text.split(",")))


def check(shape: Shape, caches: Sequence[GgmlType]) -> None:
    """Raises ToolError for a type whose blocks do not fill a head."""
    for cache in caches:
        if shape.head_dim % cache.block:
            raise ToolError(
                f"--cache {cache.name}: {shape.name} has heads of {shape.head_dim} values, "
                f"expected a multiple of {cache.block}",
                f"types that fit: {', '.join(kind.name for kind in CACHE_TYPES.values() if kind.block == 1)}",
            )


def cache_bytes(shape: Shape, layers: int, context: Context) -> int:
    """Bytes of K and V of all tokens in the cache and all layers that have attention."""
    return (
        2
        * shape.key_size
        * shape.attention_layers(layers)
        * context.depth
        // context.cache.block
        * context.cache.nbytes
    )
