"""QuantLinear: one quantized linear layer in memory, the type that passes from reading to writing.

Readers, block types and the quantizer make it; write/layout.py packs it. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..common.format import ZERO_UNITS, TmacType, symmetric_zero

# The largest number of fp16.
LARGEST_HALF = 65504.0


@dataclass
class QuantLinear:
    """One linear layer W[M, K] (M outputs, K inputs) on an integer grid.

    W[m, k] = scales[m, k // group] * (codes[m, k] - zeros[m, k // group] / 16)

    codes   uint8 [M, K], each below 2**bits
    scales  float16 [M, ceil(K / group)]
    zeros   zero-points in 4.4 fixed point (16 = 1.0): uint8 [M, ceil(K / group)], uint16 for 8 bits; None for the
            symmetric grid, whose zero-point is symmetric_zero(bits)

    group 0: one scale for the whole tensor, which is kept elsewhere; scales are [M, 0], W is in units of that scale.
    8 bits have no T-MAC type: such a layer becomes Q8_0 or a float type of ggml.

    ternary: it has 2 bits, no zero-points and no code 0, and is stored in five bits for three columns.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    bits: int
    group: int
    ternary: bool = False

    def dequantize(self) -> np.ndarray:
        """W as float32 [M, K]. Exact: each value is a product of 11 and at most 8 significant bits."""
        shifted = self.codes.astype(np.float32)
        if self.zeros is None:
            shifted -= symmetric_zero(self.bits) / ZERO_UNITS
        else:
            shifted -= self._by_column(self.zeros.astype(np.float32) / ZERO_UNITS)
        return shifted * self._by_column(self.scales.astype(np.float32)) if self.group else shifted

    def take_rows(self, order: np.ndarray | slice) -> QuantLinear:
        """Some or all rows: row i of the result is row order[i]."""
        zeros = None if self.zeros is None else self.zeros[order]
        return QuantLinear(self.codes[order], self.scales[order], zeros, self.bits, self.group, self.ternary)

    def take_columns(self, order: np.ndarray) -> QuantLinear:
        """All columns in another order, which keeps groups whole: column i of the result is column order[i]."""
        groups = order[:: self.group] // self.group if self.group else slice(None)
        zeros = None if self.zeros is None else self.zeros[:, groups]
        return QuantLinear(self.codes[:, order], self.scales[:, groups], zeros, self.bits, self.group, self.ternary)

    def as_type(self, kind: TmacType) -> QuantLinear:
        """The same layer as `kind` stores it: with its symmetric zero-point written out, or as a ternary one."""
        zeros = self.zeros
        if zeros is None and kind.asymmetric:
            zeros = np.full(self.scales.shape, symmetric_zero(self.bits), np.uint8)
        return QuantLinear(self.codes, self.scales, zeros, self.bits, self.group, kind.ternary)

    def _by_column(self, per_group: np.ndarray) -> np.ndarray:
        return np.repeat(per_group, self.group, axis=1)[:, : self.codes.shape[1]]


def join_rows(blocks: Iterable[QuantLinear], rows: int, columns: int, kind: TmacType) -> QuantLinear:
    """One matrix of `rows` x `columns` from blocks of its rows, in order; every block is in the type `kind`."""
    groups = columns // kind.group
    codes, scales = np.empty((rows, columns), np.uint8), np.empty((rows, groups), np.float16)
    zeros = np.empty((rows, groups), np.uint8) if kind.asymmetric else None
    first = 0
    for block in blocks:
        place = slice(first, first + len(block.codes))
        codes[place], scales[place], first = block.codes, block.scales, place.stop
        if zeros is not None:
            zeros[place] = block.zeros
    return QuantLinear(codes, scales, zeros, kind.bits, kind.group, kind.ternary)
