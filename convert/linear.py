"""QuantLinear: one quantized linear layer in memory, the type that passes from reading to writing.

Readers, block types and the quantizer make it; write/layout.py packs it. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..common.format import (
    LEVELS,
    LEVELS_BLOCK,
    LEVELS_MINIMA,
    MINIMA,
    SYMMETRIC,
    ZERO_UNITS,
    ZEROS,
    TmacType,
    symmetric_zero,
)
from .errors import ConvertError

# The largest number of fp16.
LARGEST_HALF = 65504.0


@dataclass
class QuantLinear:
    """One linear layer W[M, K] (M outputs, K inputs) on an integer grid.

    W[m, k] = scales[m, k // group] * (codes[m, k] - zeros[m, k // group] / 16)
    W[m, k] = scales[m, k // group] * codes[m, k] + minima[m, k // group]                      with minima

    codes   uint8 [M, K], each below 2**bits
    scales  float16 [M, ceil(K / group)]
    zeros   zero-points in 4.4 fixed point (16 = 1.0): uint8 [M, ceil(K / group)], uint16 for 8 bits; None for the
            symmetric grid, whose zero-point is symmetric_zero(bits), and with minima
    minima  float16, the shape of scales; None: there are none

    Scales of two levels, with `levels` (a block is LEVELS_BLOCK columns; zeros is None):

    W[m, k] = scales[m, k // block] * levels[m, k // group] * (codes[m, k] - symmetric_zero)
    W[m, k] = scales[m, k // block] * levels[m, k // group] * codes[m, k]
              - minima[m, k // block] * minimum_levels[m, k // group]                          with minima

    levels          int8 [M, K / group]
    minimum_levels  uint8 [M, K / group] with minima, else None

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
    minima: np.ndarray | None = None
    levels: np.ndarray | None = None
    minimum_levels: np.ndarray | None = None

    @property
    def grid(self) -> str:
        """One of format.GRIDS."""
        if self.levels is not None:
            return LEVELS if self.minima is None else LEVELS_MINIMA
        return MINIMA if self.minima is not None else SYMMETRIC if self.zeros is None else ZEROS

    def dequantize(self) -> np.ndarray:
        """W as float32 [M, K].

        Exact but with minima, where the sum of two exact products or numbers is rounded, as ggml does.
        """
        shifted = self.codes.astype(np.float32)
        if self.zeros is not None:
            shifted -= self._by_column(self.zeros.astype(np.float32) / ZERO_UNITS)
        elif self.minima is None:
            shifted -= symmetric_zero(self.bits) / ZERO_UNITS
        if not self.group:
            return shifted
        shifted *= self._by_column(self._of_groups(self.scales, self.levels))
        if self.minima is None:
            return shifted
        minima = self._by_column(self._of_groups(self.minima, self.minimum_levels))
        return shifted + minima if self.levels is None else shifted - minima

    def take_rows(self, order: np.ndarray | slice) -> QuantLinear:
        """Some or all rows: row i of the result is row order[i]."""
        return self._with(self.codes[order], lambda values, _: values[order])

    def take_columns(self, order: np.ndarray) -> QuantLinear:
        """All columns in another order, which keeps groups and blocks whole: column i of the result is order[i]."""
        return self._with(
            _take_columns(self.codes, order),
            lambda values, size: values[:, order[::size] // size if size else slice(None)],
        )

    def as_type(self, kind: TmacType) -> QuantLinear:
        """The same layer as `kind` stores it: its zero-point written out, or as a minimum; or as a ternary one.

        Raises ConvertError for zero-points that are no fp16 number as minima.
        """
        zeros = self.zeros
        if zeros is None and self.minima is None and (kind.asymmetric or kind.has_minima):
            zeros = np.full(self.scales.shape, symmetric_zero(self.bits), np.uint8)
        if kind.has_minima and self.minima is None:
            exact = self.scales.astype(np.float32) * (zeros.astype(np.float32) / -ZERO_UNITS)
            with np.errstate(over="ignore"):
                minima = exact.astype(np.float16)
            if not np.array_equal(minima, exact):
                raise ConvertError(
                    "one expert of a layer needs minima for its zero-points, and another has some that fp16 minima do "
                    "not hold, expected one grid that holds all",
                    "use a GPTQ or AWQ checkpoint of the model",
                )
            return replace(self, zeros=None, minima=minima)
        return replace(self, zeros=zeros, ternary=kind.ternary)

    def _with(self, codes: np.ndarray, change: Callable[[np.ndarray, int], np.ndarray]) -> QuantLinear:
        """With other codes and what `change` makes of each array and the columns that share one of its numbers."""
        scale_columns = LEVELS_BLOCK if self.levels is not None else self.group
        columns = {"scales": scale_columns, "minima": scale_columns} | dict.fromkeys(
            ("zeros", "levels", "minimum_levels"), self.group
        )
        arrays = {name: (getattr(self, name), size) for name, size in columns.items()}
        changed = {name: None if values is None else change(values, size) for name, (values, size) in arrays.items()}
        return replace(self, codes=codes, **changed)

    def _of_groups(self, values: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
        """float32 [M, groups]: numbers of groups, or those of blocks times the levels of their groups."""
        exact = values.astype(np.float32)
        return exact if levels is None else np.repeat(exact, LEVELS_BLOCK // self.group, axis=1) * levels

    def _by_column(self, per_group: np.ndarray) -> np.ndarray:
        return np.repeat(per_group, self.group, axis=1)[:, : self.codes.shape[1]]


# Columns that may move as one item: those of the largest number of bytes that numpy moves at once.
_ITEM = 16


def _take_columns(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """codes[:, order], several times as fast where neighbours stay neighbours."""
    runs = order.reshape(-1, _ITEM) if len(order) % _ITEM == 0 else order[:, None]
    # `order` has each column once, so runs that cover all columns begin at multiples of their length.
    if runs.shape[1] < _ITEM or (np.diff(runs) != 1).any():
        return codes[:, order]
    items = np.ascontiguousarray(codes).view(np.complex128)
    return np.take(items, runs[:, 0] // _ITEM, axis=1).view(np.uint8)


# The fields that have a row for each row of W.
_ARRAYS = ("codes", "scales", "zeros", "minima", "levels", "minimum_levels")


def join_rows(blocks: Iterable[QuantLinear], rows: int) -> QuantLinear:
    """One matrix of `rows` rows from blocks of its rows, in order; all blocks are of one type."""
    joined, first = None, 0
    for block in blocks:
        place = slice(first, first + len(block.codes))
        arrays = {name: values for name in _ARRAYS if (values := getattr(block, name)) is not None}
        if joined is None:
            empty = {name: np.empty((rows, values.shape[1]), values.dtype) for name, values in arrays.items()}
            joined = replace(block, **empty)
        for name, values in arrays.items():
            getattr(joined, name)[place] = values
        first = place.stop
    return joined
