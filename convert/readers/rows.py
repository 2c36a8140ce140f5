"""Packed rows -> one byte per code, in blocks of rows that fit a processor's cache: faster, and of bounded memory."""

from __future__ import annotations

import numpy as np

from .words import Packing

_BLOCK_CODES = 1 << 18


def unpack_rows(words: np.ndarray, bits: int, columns: int, packing: Packing = Packing.DENSE) -> np.ndarray:
    """uint32 [N, n], each row packed by itself, into the first codes of each, uint8 [N, columns]."""
    codes = np.empty((len(words), columns), np.uint8)
    # 32 codes of 3 bits fill 3 words; a row may end before that.
    missing = -words.shape[1] % 3 if bits == 3 and packing is Packing.DENSE else 0
    step = max(1, _BLOCK_CODES // max(1, columns))
    for start in range(0, len(words), step):
        block = words[start : start + step]
        block = np.pad(block, ((0, 0), (0, missing))) if missing else block
        codes[start : start + step] = packing.unpack(block, bits, columns)[:, :columns]
    return codes
