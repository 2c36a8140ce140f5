"""The types of ggml that convert to a T-MAC type without loss, and how: blocks -> codes, scales and zero-points.

The layouts of the blocks, whose sizes are in sources/ggml_types.py:

    q4_0    d fp16, 16 bytes: weight j in the low nibble of byte j, weight 16 + j in the high one; (q - 8) d
    q4_1    d fp16, m fp16, 16 bytes as q4_0; q d + m
    q5_0    d fp16, 4 bytes: bit j is the fifth bit of weight j; 16 bytes as q4_0; (q - 16) d
    q5_1    d fp16, m fp16, then as q5_0; q d + m
    q1_0    d fp16, 16 bytes: weight j is bit j % 8 of byte j / 8; 1 is +d, 0 is -d
    q2_0    d fp16, 16 bytes: weight j is bits 2 (j % 4) and above of byte j / 4; (c - 1) d
    pq2_0   as q2_0 with 32 bytes
    tq2_0   2 x 32 bytes, then d fp16: byte i has the weights i, i + 32, i + 64, i + 96, the first lowest; (c - 1) d
    tq1_0   48 bytes of 5 digits and 4 of 4 digits to base 3, then d fp16; (digit - 1) d
    ptq1_0  24 bytes of 5 digits and 2 of 4, then d fp16, otherwise as tq1_0

The k-quants have blocks of 256 weights, described in k_blocks.py.

Sources: ggml-common.h and ggml-quants.c of the pinned llama.cpp; for the two of Prism (ids 142, 143) their fork.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...common.format import TmacType, type_of
from ...common.stock import STOCK_TYPES_BY_ID
from ..errors import ConvertError
from ..linear import LARGEST_HALF, QuantLinear
from ..sources.ggml_types import (
    PQ2_0,
    PTQ1_0,
    Q1_0,
    Q2_0,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    TQ1_0,
    TQ2_0,
    GgmlType,
)
from . import k_blocks
from .blocks import Decoded, halves
from .words import unpack_words

_LARGEST_HALF_SCALE = np.float16(LARGEST_HALF / 2)


@dataclass(frozen=True)
class BlockType:
    """A type of ggml and the T-MAC type that holds the same values.

    decode     uint8 [n, stored.nbytes] -> Decoded
    exact      uint8 [n, stored.nbytes] -> whether T-MAC can hold these blocks; None if it can hold all
    obstacle   said of a tensor with blocks for which `exact` is false
    """

    stored: GgmlType
    target: TmacType
    decode: Callable[[np.ndarray], Decoded]
    exact: Callable[[np.ndarray], bool] | None = None
    obstacle: str = ""

    @property
    def name(self) -> str:
        return self.stored.name


def linear_of(kind: BlockType, where: str, data: np.ndarray, columns: int) -> QuantLinear:
    """The rows in `data`, uint8 [M * row bytes], as a QuantLinear. Raises ConvertError, beginning with `where`.

    What cannot be: scales that are not finite, and codes that a ternary type does not have.
    """
    with _quietly():
        arrays = kind.decode(data.reshape(-1, kind.stored.nbytes))
    if not all(np.isfinite(arrays[name]).all() for name in ("scales", "minima") if name in arrays):
        raise ConvertError(
            f"{where} has {kind.name} scales that are infinite or not a number, expected finite ones",
            "the file is damaged; download it again, or ask its maker",
        )
    if arrays["codes"].max(initial=0) >> kind.target.bits:
        raise ConvertError(
            f"{where} has the {kind.name} code 3, expected 0 to 2: -1, 0 and +1",
            "the file is damaged; download it again",
        )
    rows = arrays["codes"].size // columns
    return QuantLinear(
        **({"zeros": None} | {name: values.reshape(rows, -1) for name, values in arrays.items()}),
        bits=kind.target.bits,
        group=kind.target.group,
        ternary=kind.target.ternary,
    )


def is_exact(kind: BlockType, blocks: np.ndarray) -> bool:
    """Whether T-MAC can hold these blocks, uint8 [n, nbytes]; also true of damaged ones, which `linear_of` refuses."""
    with _quietly():
        return kind.exact is None or kind.exact(blocks)


def _quietly() -> np.errstate:
    """No warnings of numpy on damaged scales, which are reported by name afterwards."""
    return np.errstate(invalid="ignore", over="ignore")


def as_q2_0(kind: BlockType, where: str, data: np.ndarray) -> np.ndarray:
    """Blocks of a 2-bit type with groups of 128 as Q2_0, which has groups of 64: every scale twice. uint8 [bytes].

    For tensors in types of forks that do not become T-MAC matrices: llama.cpp would not read them as they are.
    """
    linear = linear_of(kind, where, data, kind.stored.block)
    return q2_0_of(linear, kind.decode is not _decode_q2_0)


def q2_0_of(linear: QuantLinear, ternary: bool) -> np.ndarray:
    """Symmetric 2-bit weights, in groups of 64 or of a multiple, as Q2_0: uint8 [bytes].

    (c - 1) d is s (q - 2) with s = d and q = c + 1 if no code is 0 (`ternary`), else with s = -d and q = 3 - c.
    """
    codes = linear.codes - 1 if ternary else linear.codes ^ 3
    quads = codes.reshape(-1, Q2_0.block // 4, 4)
    blocks = np.empty((quads.shape[0], Q2_0.nbytes), np.uint8)
    scales = linear.scales if ternary else _negated(linear.scales)
    blocks[:, :2] = np.repeat(scales, linear.group // Q2_0.block).astype("<f2").view(np.uint8).reshape(-1, 2)
    blocks[:, 2:] = quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6
    return blocks.reshape(-1)


def _negated(scales: np.ndarray) -> np.ndarray:
    """-scales, without negative zeros."""
    return np.negative(scales) + np.float16(0)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.concatenate((packed & 15, packed >> 4), axis=1)


def _decode_q4_0(blocks: np.ndarray) -> Decoded:
    return {"codes": _nibbles(blocks[:, 2:]), "scales": halves(blocks, 0)}


def _decode_q4_1(blocks: np.ndarray) -> Decoded:
    return {"codes": _nibbles(blocks[:, 4:]), "scales": halves(blocks, 0), "minima": halves(blocks, 2)}


def _five_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """Codes of 5 bits: the fifth bits from byte `at` on, the others behind them."""
    fifth = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return _nibbles(blocks[:, at + 4 :]) | fifth << 4


def _decode_q5_0(blocks: np.ndarray) -> Decoded:
    return {"codes": _five_bits(blocks, 2), "scales": halves(blocks, 0)}


def _decode_q5_1(blocks: np.ndarray) -> Decoded:
    return {"codes": _five_bits(blocks, 4), "scales": halves(blocks, 0), "minima": halves(blocks, 2)}


def _decode_q1_0(blocks: np.ndarray) -> Decoded:
    """2 d (q - 1/2)."""
    codes = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return {"codes": codes, "scales": halves(blocks, 0) * np.float16(2)}


def _exact_q1_0(blocks: np.ndarray) -> bool:
    scales = halves(blocks, 0)
    finite = np.isfinite(scales)
    return bool((np.abs(scales) <= _LARGEST_HALF_SCALE)[finite].all())


def _decode_q2_0(blocks: np.ndarray) -> Decoded:
    """(c - 1) d = -d ((3 - c) - 2): all four values, -1, 0, 1 and 2, are within the grid of -d."""
    words = np.ascontiguousarray(blocks[:, 2:]).view("<u4")
    return {"codes": unpack_words(words, 2) ^ 3, "scales": _negated(halves(blocks, 0))}


def _packed_ternary(blocks: np.ndarray) -> bool:
    """Whether no weight of q2_0 blocks has the code 3."""
    packed = blocks[:, 2:]
    return not (packed & packed >> 1 & 0x55).any()


def _decode_ternary_q2_0(blocks: np.ndarray) -> Decoded:
    """(c - 1) d = d ((c + 1) - 2) for c below 3."""
    words = np.ascontiguousarray(blocks[:, 2:]).view("<u4")
    return {"codes": unpack_words(words, 2) + np.uint8(1), "scales": halves(blocks, 0)}


def _ternary_pairs(blocks: np.ndarray) -> bool:
    """Whether each two q2_0 blocks have one scale, and no weight the code 3."""
    scales = blocks[:, :2].reshape(-1, 2, 2)
    return bool((scales[:, 0] == scales[:, 1]).all()) and _packed_ternary(blocks)


def _decode_ternary_pairs(blocks: np.ndarray) -> Decoded:
    single = _decode_ternary_q2_0(blocks)
    return {"codes": single["codes"].reshape(-1, 2 * Q2_0.block), "scales": single["scales"][::2]}


def _decode_tq2_0(blocks: np.ndarray) -> Decoded:
    """(c - 1) d = d ((c + 1) - 2)."""
    codes = np.empty((len(blocks), 2, 4, 32), np.uint8)
    packed = blocks[:, :64].reshape(-1, 2, 32)
    for i in range(4):
        codes[:, :, i] = (packed >> 2 * i & 3) + 1
    return {"codes": codes.reshape(-1, 256), "scales": halves(blocks, 64)}


def _trits(blocks: np.ndarray, *stages: tuple[int, int, int]) -> np.ndarray:
    """(digit + 1) of blocks that hold, for each (first byte, bytes, digits), all first digits, all second ones, ...

    A byte is a fraction of 256, to base 3.
    """
    parts = []
    for first, count, digits in stages:
        fraction = blocks[:, first : first + count].copy()
        for _ in range(digits):
            parts.append((fraction >= 86).view(np.uint8) + (fraction >= 171).view(np.uint8))
            # In 8 bits that wrap, as ggml computes it: what is left is the fraction after this digit.
            fraction *= np.uint8(3)
    codes = np.concatenate(parts, axis=1)
    codes += 1
    return codes


def _decode_tq1_0(blocks: np.ndarray) -> Decoded:
    return {"codes": _trits(blocks, (0, 32, 5), (32, 16, 5), (48, 4, 4)), "scales": halves(blocks, 52)}


def _decode_ptq1_0(blocks: np.ndarray) -> Decoded:
    return {"codes": _trits(blocks, (0, 16, 5), (16, 8, 5), (24, 2, 4)), "scales": halves(blocks, 26)}


def _stock(stored: GgmlType, decode: Callable[[np.ndarray], Decoded], *exact) -> BlockType:
    """A type of llama.cpp's own, whose target is in common/stock.py."""
    return BlockType(stored, STOCK_TYPES_BY_ID[stored.id].target, decode, *exact)


BLOCK_TYPES = {
    kind.stored.id: kind
    for kind in (
        _stock(Q4_0, _decode_q4_0),
        _stock(Q4_1, _decode_q4_1),
        _stock(Q5_0, _decode_q5_0),
        _stock(Q5_1, _decode_q5_1),
        _stock(Q2_K, k_blocks.decode_q2_k),
        _stock(Q3_K, k_blocks.decode_q3_k),
        _stock(Q4_K, k_blocks.decode_q4_k),
        _stock(Q5_K, k_blocks.decode_q5_k),
        _stock(Q6_K, k_blocks.decode_q6_k),
        _stock(TQ1_0, _decode_tq1_0),
        _stock(TQ2_0, _decode_tq2_0),
        _stock(
            Q1_0,
            _decode_q1_0,
            _exact_q1_0,
            f"it has scales above {_LARGEST_HALF_SCALE:g}, whose doubles are above fp16",
        ),
        _stock(Q2_0, _decode_q2_0),
        BlockType(PQ2_0, TmacType(2, 128), _decode_q2_0),
        BlockType(PTQ1_0, type_of(2, 128, ternary=True), _decode_ptq1_0),
    )
}

# Types of four values, where a tensor has but -1, 0 and +1: tried before those above.
TERNARY_BLOCK_TYPES = {
    kind.stored.id: kind
    for kind in (
        BlockType(PQ2_0, type_of(2, 128, ternary=True), _decode_ternary_q2_0, _packed_ternary),
        BlockType(Q2_0, type_of(2, 128, ternary=True), _decode_ternary_pairs, _ternary_pairs),
    )
}
