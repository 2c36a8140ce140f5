"""The functions that bring llama.cpp's own types into the T-MAC layout, and where that is done when a model is loaded.

Comes in: common/stock.py, isa.py. Goes out: `REPACKERS`, from which C's tables follow. All give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..common.stock import STOCK_TYPES, StockType
from .isa import ISAS, Isa

# Of the plugin (tmac-repacked.cpp): the variable that chooses which weights it repacks, and its values. Unset: what the
# table below says. Neither has an effect with llama.cpp's --no-repack.
VARIABLE, STOCK, ALL = "TMAC_REPACK", "stock", "all"

# Stock type -> the instruction sets on which llama.cpp's own kernels are faster for some number of tokens, so that it
# keeps such weights there. The instruction set of a CPU is the first one of isa.py that it has. Empty until a
# measurement fills it.
LEFT_TO_STOCK: dict[str, tuple[str, ...]] = {}

# Those that have a file in c/repack.
_INSTRUCTION_SETS = ("avx512", "avx2", "scalar")
REPACK_ISAS = tuple(isa for isa in ISAS if isa.name in _INSTRUCTION_SETS)


@dataclass(frozen=True)
class Repacker:
    """Rows of a stock type -> tiles of its target, compiled for an instruction set."""

    stock: StockType
    isa: Isa

    @property
    def name(self) -> str:
        return f"tmac_repack_{self.stock.name}_{self.isa.name}"

    @property
    def call(self) -> str:
        """The call in C that does it (c/repack/walk.h), with what is known of the two types as constants."""
        kind, target = self.stock, self.stock.target
        way, constants = "groups", [kind.block, kind.nbytes, target.bits]
        if target.ternary:
            way, constants = "trits", [kind.nbytes]
        elif target.block_weights > target.group:
            way, constants = "levels", [kind.nbytes, target.bits, target.scale_bytes]
        names = [f"codes_of_{kind.name}", f"scales_of_{kind.name}"]
        return f"repack_{way}(&of, first_tile, last_tile, {', '.join(map(str, [*constants, *names]))})"


# For each type in priority order.
REPACKERS = tuple(Repacker(stock, isa) for stock in STOCK_TYPES for isa in REPACK_ISAS)


def repack_isas_for(machine: str) -> tuple[Isa, ...]:
    """The instruction sets of an architecture that have repackers, in priority order."""
    return tuple(isa for isa in REPACK_ISAS if isa.machine in (machine, "any"))


def left_to_stock(stock: StockType) -> str:
    """The instruction sets of LEFT_TO_STOCK, as the C table has them: each between blanks."""
    return "".join(f" {name} " for name in LEFT_TO_STOCK.get(stock.name, ()))
