"""llama.cpp's own tensor types that have a T-MAC type with the same values. The only such table.

`convert` writes such tensors in T-MAC's type; the plugin in llama.cpp does so when it loads a model. Their blocks are
described in convert/readers/ggml_blocks.py, and repacked by kernels/c/repack.
"""

from __future__ import annotations

from dataclasses import dataclass

from .format import TmacType, parse_type


@dataclass(frozen=True)
class StockType:
    """A type of ggml: `block` weights, along a row, are stored in `nbytes` bytes. `target` has the same values."""

    name: str
    id: int
    block: int
    nbytes: int
    target: TmacType


STOCK_TYPES = tuple(
    StockType(name, number, block, nbytes, parse_type(target))
    for name, number, block, nbytes, target in (
        ("q4_0", 2, 32, 18, "w4g32"),
        ("q4_1", 3, 32, 20, "w4g32m"),
        ("q5_0", 6, 32, 22, "w5g32"),
        ("q5_1", 7, 32, 24, "w5g32m"),
        ("q2_k", 10, 256, 84, "w2g16km"),
        ("q3_k", 11, 256, 110, "w3g16k"),
        ("q4_k", 12, 256, 144, "w4g32km"),
        ("q5_k", 13, 256, 176, "w5g32km"),
        ("q6_k", 14, 256, 210, "w6g16k"),
        ("tq1_0", 34, 256, 54, "t3g256"),
        ("tq2_0", 35, 256, 66, "t3g256"),
        ("q1_0", 41, 128, 18, "w1g128"),
        ("q2_0", 42, 64, 18, "w2g64"),
    )
)
STOCK_TYPES_BY_ID = {kind.id: kind for kind in STOCK_TYPES}
