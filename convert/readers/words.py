"""Codes packed in 32-bit words -> one byte per code. All formats here are little-endian, lowest bits first."""

from __future__ import annotations

from enum import Enum

import numpy as np


class Packing(Enum):
    """How formats like GPTQ pack the codes of one row into words."""

    # A stream of bits.
    DENSE = "dense"
    # GPTQModel's gptq_p. With 3 bits: for each 32 codes two words of low bit pairs, then one word of high bits.
    PLANAR = "planar"
    # 32 // bits codes in each word; its top bits are unused.
    PADDED = "padded"

    def unit(self, bits: int, word_bits: int = 32) -> int:
        """The number of codes of a row must be a multiple of this."""
        if self is Packing.PADDED:
            return 1
        return 32 if bits == 3 else word_bits // bits

    def words(self, count: int, bits: int, word_bits: int = 32) -> int:
        """The number of words for `count` codes."""
        return -(-count // (32 // bits)) if self is Packing.PADDED else -(-count * bits // word_bits)

    def unpack(self, words: np.ndarray, bits: int, count: int) -> np.ndarray:
        """Unsigned words [..., n], contiguous, into codes uint8 [..., count]."""
        if self is Packing.PADDED:
            return unpack_padded(words, bits, count)
        if self is Packing.PLANAR and bits == 3:
            return _unpack_planes(words)
        return unpack_words(words, bits)


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned words [..., n], contiguous, into codes uint8 [..., n * word // bits]: a dense stream of bits.

    With 1, 2, 4 and 8 bits no code crosses a word. With 3 bits the words are uint32 and n is a multiple of 3: 32 codes
    fill 3 words.
    """
    as_bytes = words.view(np.uint8)
    if bits == 8:
        return as_bytes
    if bits == 4:
        pairs = as_bytes.astype("<u2")
        pairs |= pairs << 4
        pairs &= 0x0F0F
        return pairs.view(np.uint8)
    if bits == 2:
        quads = as_bytes.astype("<u4")
        quads |= quads << 12
        quads &= 0x000F000F
        quads |= quads << 6
        quads &= 0x03030303
        return quads.view(np.uint8)
    if bits == 1:
        return np.unpackbits(as_bytes, axis=-1, bitorder="little")
    if bits == 3:
        return _unpack_triples(words)
    raise ValueError(f"no code has {bits} bits")


def unpack_padded(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint32 [..., n] with 32 // bits codes in each word and its top bits unused, into the first `count` codes."""
    per_word = 32 // bits
    codes = np.empty((*words.shape, per_word), np.uint8)
    for field in range(per_word):
        codes[..., field] = words >> bits * field & ((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(*words.shape[:-1], -1)[..., :count])


def _unpack_triples(words: np.ndarray) -> np.ndarray:
    """uint32 [..., 3 n] into uint8 [..., 32 n]: 3 words hold 8 times 4 codes of 3 bits."""
    triples = words.reshape(*words.shape[:-1], -1, 3)
    first, second, third = triples[..., 0], triples[..., 1], triples[..., 2]
    fours = np.empty((*triples.shape[:-1], 8), "<u4")
    fours[..., 0], fours[..., 1] = first, first >> 12
    fours[..., 2] = first >> 24 | second << 8
    fours[..., 3], fours[..., 4] = second >> 4, second >> 16
    fours[..., 5] = second >> 28 | third << 4
    fours[..., 6], fours[..., 7] = third >> 8, third >> 20
    # Bit 3 i of the low 12 goes to bit 8 i.
    fours &= 0xFFF
    fours |= fours << 10
    fours &= 0x003F003F
    fours |= fours << 5
    fours &= 0x07070707
    return fours.reshape(*words.shape[:-1], -1).view(np.uint8)


def _unpack_planes(words: np.ndarray) -> np.ndarray:
    """uint32 [..., 3 n] into uint8 [..., 32 n]: of 3 words two hold the low two bits of 32 codes, one the high."""
    triples = words.reshape(*words.shape[:-1], -1, 3)
    codes = unpack_words(np.ascontiguousarray(triples[..., :2]), 2)
    codes |= unpack_words(np.ascontiguousarray(triples[..., 2:]), 1) << 2
    return codes.reshape(*words.shape[:-1], -1)
