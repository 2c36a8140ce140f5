"""Codes packed in 32-bit words -> one byte per code. All formats here are little-endian, lowest bits first."""

from __future__ import annotations

import numpy as np


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """uint32 [..., n], contiguous, into codes uint8 [..., n * 32 // bits]: a dense stream of bits.

    With 1, 2, 4 and 8 bits no code crosses a word. With 3 bits, n is a multiple of 3: 32 codes fill 3 words.
    """
    as_bytes = words.view(np.uint8)
    if bits == 8:
        return as_bytes
    if bits == 4:
        pairs = as_bytes.astype("<u2")
        return ((pairs | pairs << 4) & 0x0F0F).view(np.uint8)
    if bits == 2:
        quads = as_bytes.astype("<u4")
        quads = (quads | quads << 12) & 0x000F000F
        return ((quads | quads << 6) & 0x03030303).view(np.uint8)
    if bits == 1:
        return np.unpackbits(as_bytes, axis=-1, bitorder="little")
    if bits == 3:
        return _unpack_triples(as_bytes)
    raise ValueError(f"no code has {bits} bits")


def unpack_padded(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint32 [..., n] with 32 // bits codes in each word and its top bits unused, into the first `count` codes."""
    per_word = 32 // bits
    codes = np.empty((*words.shape, per_word), np.uint8)
    for field in range(per_word):
        codes[..., field] = words >> bits * field & ((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(*words.shape[:-1], -1)[..., :count])


def _unpack_triples(as_bytes: np.ndarray) -> np.ndarray:
    """uint8 [..., 3 n] into uint8 [..., 8 n]: 3 bytes hold 8 codes of 3 bits."""
    triples = as_bytes.reshape(*as_bytes.shape[:-1], -1, 3).astype(np.uint32)
    joined = triples[..., 0] | triples[..., 1] << 8 | triples[..., 2] << 16
    # Codes 0..3 lie in the low 12 bits, 4..7 in the high ones: bit 3 i of each half goes to bit 8 i of a word.
    halves = np.stack((joined & 0xFFF, joined >> 12), axis=-1)
    halves = (halves | halves << 10) & 0x003F003F
    halves = (halves | halves << 5) & 0x07070707
    return halves.astype("<u4").reshape(*as_bytes.shape[:-1], -1).view(np.uint8)
