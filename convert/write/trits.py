"""Ternary codes <-> the bytes of a ternary T-MAC tensor, in numpy: three columns in five bits.

In: codes 1, 2 and 3 (-1, 0 and +1) of whole tiles. Out: their blocks of 128 columns, each 43 times 16 bytes of nibbles
and 11 times 16 bytes of signs. docs/format.md specifies the layout; write/layout.py cuts matrices into tiles.
"""

from __future__ import annotations

import numpy as np

from ...common.format import LINE_TRIPLES, TILE_ROWS, TRIPLES, TRIT_BLOCK

_HALF = TILE_ROWS // 2
_LINES = -(-TRIPLES // LINE_TRIPLES)
# The code of 0, and what the three columns of a triple count.
_ZERO, _WEIGHTS = 2, np.array((1, 3, 9), np.int8)
# The bit of the sign of triple l, rows 16 h + r, in byte r: [l, h].
_SIGN_BITS = 7 - np.arange(2 * LINE_TRIPLES).reshape(LINE_TRIPLES, 2)


def pack_trits(codes: np.ndarray, blocks: np.ndarray) -> None:
    """Codes uint8 [32 T, K] into blocks uint8 [T, K/128, 864], in place."""
    tiles, count = blocks.shape[:2]
    trits = np.zeros((tiles, TILE_ROWS, count, _LINES * LINE_TRIPLES * 3), np.int8)
    np.subtract(codes.reshape(tiles, TILE_ROWS, count, TRIT_BLOCK), _ZERO, out=trits[..., :TRIT_BLOCK])
    # int8 [tile, half, r, block, triple], -13 to 13.
    triples = (trits.reshape(tiles, 2, _HALF, count, -1, 3) * _WEIGHTS).sum(axis=5, dtype=np.int8)
    sizes = np.abs(triples).view(np.uint8)
    nibbles = (sizes[:, 0] | sizes[:, 1] << 4).transpose(0, 2, 3, 1)
    signs = (triples < 0).view(np.uint8).reshape(tiles, 2, _HALF, count, _LINES, LINE_TRIPLES)
    signs = (signs << _SIGN_BITS.T.astype(np.uint8)[:, None, None, None]).sum(axis=(1, 5), dtype=np.uint8)
    blocks[..., : TRIPLES * _HALF] = nibbles[:, :, :TRIPLES].reshape(tiles, count, -1)
    blocks[..., TRIPLES * _HALF :] = signs.transpose(0, 2, 3, 1).reshape(tiles, count, -1)


def unpack_trits(blocks: np.ndarray, codes: np.ndarray) -> None:
    """Blocks uint8 [T, K/128, 864] into codes uint8 [32 T, K], in place."""
    tiles, count = blocks.shape[:2]
    nibbles = blocks[..., : TRIPLES * _HALF].reshape(tiles, count, TRIPLES, 1, _HALF)
    signs = blocks[..., TRIPLES * _HALF :].reshape(tiles, count, _LINES, 1, 1, _HALF)
    negative = signs >> _SIGN_BITS.astype(np.uint8)[..., None] & 1
    sizes = (nibbles >> np.array([[0], [4]], np.uint8) & 15).view(np.int8)
    negative = negative.reshape(tiles, count, -1, 2, _HALF)[:, :, :TRIPLES].view(np.int8)
    triples = np.where(negative, -sizes, sizes)
    # A digit of balanced ternary is the remainder that is nearest to 0.
    trits = np.empty((*triples.shape, 3), np.int8)
    for i in range(3):
        trits[..., i] = (triples + 1) % 3 - 1
        triples = (triples - trits[..., i]) // 3
    rows = trits.transpose(0, 3, 4, 1, 2, 5).reshape(tiles * TILE_ROWS, count, TRIPLES * 3)
    codes.reshape(-1, count, TRIT_BLOCK)[...] = rows[..., :TRIT_BLOCK] + _ZERO
