"""llama.cpp's own weight types that T-MAC is compared with: where the scales of a block lie, and how large they are.

Source: the block_* structs of llama.cpp's ggml/src/ggml-common.h. What a block is: common/stock.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tmac.common.stock import STOCK_TYPES

# Behind the name of a type: T-MAC's plugin repacks its weights.
REPACKED_SUFFIX = "@tmac"


@dataclass(frozen=True)
class BenchType:
    """One type. Fields with the names of TmacType's (common/format.py) mean the same.

    scales_at: offsets of the fp16 fields in a block; any other byte of a block may have any value.
    scale_exponent: scales of 2**scale_exponent, times the integers of a block, make weights of about 0.01 to 0.2.
    own: of a type that T-MAC's plugin repacks when it loads the weights, the name without REPACKED_SUFFIX; else empty,
    and llama.cpp keeps them.
    """

    name: str
    id: int
    block_weights: int
    block_bytes: int
    scales_at: tuple[int, ...]
    scale_exponent: int
    own: str = ""

    @property
    def stored_name(self) -> str:
        """The name of the type in a file."""
        return self.own or self.name


def _of_table(name: str, scales_at: tuple[int, ...], scale_exponent: int) -> BenchType:
    """A type that T-MAC repacks."""
    (stock,) = (stock for stock in STOCK_TYPES if stock.name == name.lower())
    return BenchType(name, stock.id, stock.block, stock.nbytes, scales_at, scale_exponent)


BENCH_TYPES = {
    kind.name.lower(): kind
    for kind in (
        _of_table("Q1_0", (0,), -7),
        _of_table("TQ1_0", (52,), -7),
        _of_table("TQ2_0", (64,), -7),
        _of_table("Q2_0", (0,), -7),
        _of_table("Q2_K", (80, 82), -9),
        _of_table("Q3_K", (108,), -11),
        _of_table("Q4_0", (0,), -8),
        _of_table("Q4_1", (0, 2), -8),
        _of_table("Q4_K", (0, 2), -13),
        _of_table("Q5_K", (0, 2), -13),
        _of_table("Q6_K", (208,), -14),
        # T-MAC has no 8-bit type.
        BenchType("Q8_0", 8, 32, 34, (0,), -11),
    )
}


def repacked(stock: BenchType) -> BenchType:
    """The same type, whose weights T-MAC's plugin repacks."""
    return replace(stock, name=f"{stock.name}{REPACKED_SUFFIX}", own=stock.name)


# Bits of a T-MAC type -> the names of the nearest types of llama.cpp.
RIVALS = {1: ("Q1_0",), 2: ("TQ2_0", "Q2_K"), 3: ("Q3_K",), 4: ("Q4_0", "Q4_K")}
# The types of llama.cpp that ternary ones are compared with; `t3g256` holds the same.
TERNARY_RIVALS = ("TQ1_0", "TQ2_0")
