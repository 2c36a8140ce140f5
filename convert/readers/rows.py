"""Packed rows -> one byte per code, in blocks of rows that fit a processor's cache: faster, and of bounded memory."""

from __future__ import annotations

import numpy as np

from ..sources.checkpoint import row_blocks
from .words import Packing

_BLOCK_CODES = 1 << 18
# Rows that are columns in memory: this many 32-bit words of one line fill a cache line.
_LEAST_ROWS = 16


def unpack_rows(
    words: np.ndarray, bits: int, columns: int, packing: Packing = Packing.DENSE, order: np.ndarray | None = None
) -> np.ndarray:
    """Unsigned words [N, n], each row packed by itself, into the first codes of each row: uint8 [N, columns].

    With `order`, int [columns], column i of the result is code order[i]. Words are uint32 for 3 bits and PADDED.
    """
    codes = np.empty((len(words), columns), np.uint8)
    # 32 codes of 3 bits fill 3 words; a row may end before that.
    missing = -words.shape[1] % 3 if bits == 3 and packing is Packing.DENSE else 0
    for rows in row_blocks(len(words), columns, max(_BLOCK_CODES, _LEAST_ROWS * columns)):
        block = np.pad(words[rows], ((0, 0), (0, missing))) if missing else words[rows]
        unpacked = packing.unpack(np.ascontiguousarray(block), bits, columns)[:, :columns]
        # np.take is five times as fast here as an index.
        codes[rows] = unpacked if order is None else np.take(unpacked, order, axis=1)
    return codes
