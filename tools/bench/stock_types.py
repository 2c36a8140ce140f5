"""llama.cpp's own weight types that T-MAC is compared with: what a block of each is, and where its scales lie.

Source: the block_* structs of llama.cpp's ggml/src/ggml-common.h and the numbers of ggml_type in ggml/include/ggml.h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Behind the name of a type: T-MAC's plugin repacks its weights.
REPACKED_SUFFIX = "@tmac"


@dataclass(frozen=True)
class StockType:
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


STOCK_TYPES = {
    stock.name.lower(): stock
    for stock in (
        StockType("Q1_0", 41, 128, 18, (0,), -7),
        StockType("TQ1_0", 34, 256, 54, (52,), -7),
        StockType("TQ2_0", 35, 256, 66, (64,), -7),
        StockType("Q2_0", 42, 64, 18, (0,), -7),
        StockType("Q2_K", 10, 256, 84, (80, 82), -9),
        StockType("Q3_K", 11, 256, 110, (108,), -11),
        StockType("Q4_0", 2, 32, 18, (0,), -8),
        StockType("Q4_1", 3, 32, 20, (0, 2), -8),
        StockType("Q4_K", 12, 256, 144, (0, 2), -13),
        StockType("Q5_K", 13, 256, 176, (0, 2), -13),
        StockType("Q6_K", 14, 256, 210, (208,), -14),
        StockType("Q8_0", 8, 32, 34, (0,), -11),
    )
}


def repacked(stock: StockType) -> StockType:
    """The same type, whose weights T-MAC's plugin repacks."""
    return replace(stock, name=f"{stock.name}{REPACKED_SUFFIX}", own=stock.name)


# Bits of a T-MAC type -> the names of the nearest types of llama.cpp.
RIVALS = {1: ("Q1_0",), 2: ("TQ2_0", "Q2_K"), 3: ("Q3_K",), 4: ("Q4_0", "Q4_K")}
# The types of llama.cpp that ternary ones are compared with; `t3g256` holds the same.
TERNARY_RIVALS = ("TQ1_0", "TQ2_0")
