"""Packed rows -> one byte per code, in blocks of rows that fit a processor's cache: faster, and of bounded memory."""

from __future__ import annotations

import numpy as np

from .words import unpack_padded, unpack_words

_BLOCK_CODES = 1 << 18


def unpack_rows(words: np.ndarray, bits: int, columns: int, padded: bool = False) -> np.ndarray:
    """uint32 [N, n], each row a dense stream (or one of padded words), into its first codes, uint8 [N, columns]."""
    codes = np.empty((len(words), columns), np.uint8)
    # 32 codes of 3 bits fill 3 words; a row may end before that.
    missing = -words.shape[1] % 3 if bits == 3 and not padded else 0
    step = max(1, _BLOCK_CODES // max(1, columns))
    for start in range(0, len(words), step):
        block = words[start:start + step]
        if padded:
            codes[start:start + step] = unpack_padded(block, bits, columns)
        else:
            block = np.pad(block, ((0, 0), (0, missing))) if missing else block
            codes[start:start + step] = unpack_words(block, bits)[:, :columns]
    return codes
