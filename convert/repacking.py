"""Compiled repackers, where whoever calls a conversion has them: stock blocks -> the bytes of the T-MAC layout.

`convert` does not know the kernels: it is given a function, and without one its own numpy code gives the same bytes
(readers/ggml_blocks.py and write/layout.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..common.format import TmacType
from ..common.stock import STOCK_TYPES_BY_ID, StockType
from .write.tensors import OutputTensor

# Repacks the rows in an array, uint8, of `rows` x `columns` weights into another one of the target's size. Returns
# whether the target holds every weight and all scales are finite; None if there are no compiled repackers after all.
Repack = Callable[[StockType, np.ndarray, int, int, np.ndarray], bool | None]


def stock_type(type_id: int, target: TmacType) -> StockType | None:
    """The stock type of that number, if `target` is what it is repacked into."""
    stock = STOCK_TYPES_BY_ID.get(type_id)
    return stock if stock and stock.target == target else None


def repacked_tensor(
    name: str,
    shape: tuple[int, ...],
    stock: StockType,
    repack: Repack,
    reads: Sequence[Callable[[], np.ndarray]],
    packs: Sequence[Callable[[np.ndarray], None]],
) -> OutputTensor:
    """A tensor in the target of `stock`. For each matrix (several: experts), of which one is held at a time: its stored
    bytes by `reads`; and by `packs` the same result without `repack`, or a ConvertError that names what cannot be kept.
    """
    kind, (rows, columns) = stock.target, shape[-2:]
    matrix_bytes = kind.nbytes(rows, columns)

    def load() -> np.ndarray:
        out = np.empty((len(reads), matrix_bytes), np.uint8)
        for matrix, read, pack in zip(out, reads, packs):
            if not repack(stock, read(), rows, columns, matrix):
                pack(matrix)
        return out

    return OutputTensor(name, shape, kind.id, kind.ggml_name, matrix_bytes * len(reads), load)
