"""The attention kernels: one per instruction set that has one, and the types of caches that all of them read.

Comes in: isa.py. Goes out: `CACHE_TYPES` and `ATTENTION_KERNELS`, from which C's enumeration and dispatch table follow.
"""

from __future__ import annotations

from dataclasses import dataclass

from .isa import ISAS, Isa

# Of the plugin (tmac-attention.cpp): the variable that chooses who computes attention, its value for llama.cpp's own,
# and the beginning of the line that says who does.
VARIABLE, STOCK = "TMAC_ATTENTION", "stock"
LINE = "tmac: attention by "
LINE_OF_STOCK = f"{LINE}llama.cpp"
# Heads of other widths than multiples of this are llama.cpp's.
LEAST_WIDTH = 16


@dataclass(frozen=True)
class CacheType:
    """A type that K and V may have: `block` values in `block_bytes` bytes, as ggml lays them out.

    ggml_id: its number in ggml's `enum ggml_type` (ggml/include/ggml.h).
    """

    name: str
    ggml_id: int
    block: int
    block_bytes: int


# All that llama.cpp offers for its cache. Layouts of blocks: ggml/src/ggml-common.h; c/attention/caches.h reads them.
CACHE_TYPES = (
    CacheType("f32", 0, 1, 4),
    CacheType("f16", 1, 1, 2),
    CacheType("bf16", 30, 1, 2),
    CacheType("q8_0", 8, 32, 34),
    CacheType("q4_0", 2, 32, 18),
    CacheType("q4_1", 3, 32, 20),
    CacheType("q5_0", 6, 32, 22),
    CacheType("q5_1", 7, 32, 24),
    CacheType("iq4_nl", 20, 32, 18),
)


@dataclass(frozen=True)
class AttentionKernel:
    """The attention of an instruction set. All shapes and cache types are arguments."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"tmac_attention_{self.isa.name}"

    @property
    def file(self) -> str:
        """Its path in the generated tree."""
        return f"attention/{self.name}.c"


# In priority order.
ATTENTION_KERNELS = tuple(AttentionKernel(isa) for isa in ISAS if isa.tiled_from_rows)


def attention_kernels_for(machine: str) -> tuple[AttentionKernel, ...]:
    """Those that can be compiled for an architecture, in priority order."""
    return tuple(kernel for kernel in ATTENTION_KERNELS if kernel.isa.machine in (machine, "any"))
