"""The kernels of gated delta nets, one per instruction set that has one. All shapes are arguments.

Comes in: isa.py. Goes out: `DELTA_NET_KERNELS`, from which C's dispatch table follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from .isa import ISAS, Isa

# Of the plugin (tmac-delta-net.cpp): the variable that chooses who computes delta nets, its value for llama.cpp's own,
# and the beginning of the line that says who does.
VARIABLE, STOCK = "TMAC_DELTA_NET", "stock"
LINE = "tmac: delta nets by "

# Rows of a state that are computed together, and lie together in memory: 8 KiB of 128 columns.
BLOCK_ROWS = 16
# Channels of the convolution that are computed together.
CHANNEL_BLOCK = 16

# Those that have a file in c/delta_net. CPUs with AMX use that of AVX-512.
_INSTRUCTION_SETS = ("avx512", "avx2", "neon", "scalar")


@dataclass(frozen=True)
class DeltaNetKernel:
    """The delta net of an instruction set, and the convolution before it."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"tmac_delta_net_{self.isa.name}"

    @property
    def functions(self) -> dict[str, str]:
        """C functions: what each does, as the catalog's field says, and its name."""
        parts = {"update": "", "fill": "fill_", "convolve": "convolve_"}
        return {what: f"tmac_delta_net_{part}{self.isa.name}" for what, part in parts.items()}

    @property
    def file(self) -> str:
        """Its path in the generated tree."""
        return f"delta_net/{self.name}.c"


# In priority order.
DELTA_NET_KERNELS = tuple(DeltaNetKernel(isa) for isa in ISAS if isa.name in _INSTRUCTION_SETS)


def delta_net_kernels_for(machine: str) -> tuple[DeltaNetKernel, ...]:
    """Those that can be compiled for an architecture, in priority order."""
    return tuple(kernel for kernel in DELTA_NET_KERNELS if kernel.isa.machine in (machine, "any"))
