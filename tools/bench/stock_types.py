"""llama.cpp's own weight types that T-MAC is compared with: where the scales of a block lie, and how large they are.

Source: the block_* structs of llama.cpp's ggml/src/ggml-common.h. What a block is: common/stock.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tmac.common.stock import STOCK_TYPES

# Behind the name of a type: T-MAC's plugin repacks its weights; or nobody does, so that llama.cpp's tiled GEMM gets
# those of k- and i-quants.
REPACKED_SUFFIX, UNPACKED_SUFFIX = "@tmac", "@no-repack"


@dataclass(frozen=True)
class BenchType:
    """One type. Fields with the names of TmacType's (common/format.py) mean the same.

    scales_at: offsets of the fp16 fields in a block; any other byte of a block may have any value.
    scale_exponent: scales of 2**scale_exponent, times the integers of a block, make weights of about 0.01 to 0.2.
    suffix: who repacks the weights when they are loaded: REPACKED_SUFFIX, UNPACKED_SUFFIX, or empty for llama.cpp, as
    it likes. It ends the name.
    """

    name: str
    id: int
    block_weights: int
    block_bytes: int
    scales_at: tuple[int, ...]
    scale_exponent: int
    suffix: str = ""

    @property
    def stored_name(self) -> str:
        """The name of the type in a file."""
        return self.name.removesuffix(self.suffix)

    def repacked_by(self, suffix: str) -> BenchType:
        """The same type, of which the suffix says who repacks it."""
        return replace(self, name=self.stored_name + suffix, suffix=suffix)


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
        # T-MAC has no 8-bit type, and repacks none with a code book. IQ1_M is not among these: its scale lies in four
        # bits each of four words.
        BenchType("Q8_0", 8, 32, 34, (0,), -11),
        BenchType("IQ1_S", 19, 256, 50, (0,), -9),
        BenchType("IQ2_XXS", 16, 256, 66, (0,), -10),
        BenchType("IQ2_XS", 17, 256, 74, (0,), -10),
        BenchType("IQ2_S", 22, 256, 82, (0,), -10),
        BenchType("IQ3_XXS", 18, 256, 98, (0,), -11),
        BenchType("IQ3_S", 21, 256, 110, (0,), -12),
        BenchType("IQ4_NL", 20, 32, 18, (0,), -12),
        BenchType("IQ4_XS", 23, 256, 136, (0,), -14),
    )
}


# Bits of a T-MAC type -> the names of the nearest types of llama.cpp.
RIVALS = {1: ("Q1_0",), 2: ("TQ2_0", "Q2_K"), 3: ("Q3_K",), 4: ("Q4_0", "Q4_K")}
# The types of llama.cpp that ternary ones are compared with; `t3g256` holds the same.
TERNARY_RIVALS = ("TQ1_0", "TQ2_0")
