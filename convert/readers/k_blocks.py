"""The k-quants of ggml: blocks of 256 weights with scales of two levels -> codes, scales, minima and their levels.

    q2_k    16 bytes: scale and minimum (high nibble) of each 16 weights; 64 bytes P; d, dmin fp16
    q3_k    32 bytes B; 64 bytes P; 12 bytes S of 16 scales; d fp16
    q4_k    d, dmin fp16; 12 bytes M; 128 bytes N
    q5_k    d, dmin fp16; 12 bytes M; 32 bytes B; 128 bytes N
    q6_k    128 bytes: of each 64, weights j and 64 + j in byte j, the first in the low nibble, for 64 bytes at a time;
            64 bytes P; 16 bytes: signed scale of each 16 weights; d fp16

    P   of each 32 bytes, byte j has two bits of the weights j, 32 + j, 64 + j and 96 + j, the first lowest
    N   of each 32 bytes, weight j in the low nibble of byte j, weight 32 + j in the high one
    B   bit i of byte j is one more bit of weight 32 i + j
    S   scale j + 32: low four bits in the nibbles of bytes 0 to 7, the low nibbles first; two more in bytes 8 to 11:
        those of scale j in byte 8 + j % 4 from bit 2 (j / 4) on
    M   6 bits of scales and minima of each 32 weights: for j < 4 in bytes j and 4 + j; for j + 4 low and high nibble of
        byte 8 + j, and the two highest bits of bytes j and 4 + j

A weight is d s q - dmin m (q2_k, q4_k, q5_k), d s (q - 4) (q3_k) or d s (q - 32) (q6_k).
Source: ggml-common.h and ggml-quants.c of the pinned llama.cpp.
"""

from __future__ import annotations

import numpy as np

from .blocks import Decoded, halves


def decode_q2_k(blocks: np.ndarray) -> Decoded:
    levels = blocks[:, :16]
    return {
        "codes": _pairs(blocks[:, 16:80]),
        "scales": halves(blocks, 80),
        "levels": (levels & 15).view(np.int8),
        "minima": halves(blocks, 82),
        "minimum_levels": levels >> 4,
    }


def decode_q3_k(blocks: np.ndarray) -> Decoded:
    packed = blocks[:, 96:108]
    low = np.concatenate((packed[:, :8] & 15, packed[:, :8] >> 4), axis=1)
    high = np.concatenate([packed[:, 8:] >> 2 * i & 3 for i in range(4)], axis=1)
    return {
        "codes": _pairs(blocks[:, 32:96]) | _bits(blocks[:, :32]) << 2,
        "scales": halves(blocks, 108),
        "levels": (low | high << 4).view(np.int8) - np.int8(32),
    }


def decode_q4_k(blocks: np.ndarray) -> Decoded:
    return {"codes": _nibbles(blocks[:, 16:], 32), **_scales_and_minima(blocks)}


def decode_q5_k(blocks: np.ndarray) -> Decoded:
    return {"codes": _nibbles(blocks[:, 48:], 32) | _bits(blocks[:, 16:48]) << 4, **_scales_and_minima(blocks)}


def decode_q6_k(blocks: np.ndarray) -> Decoded:
    return {
        "codes": _nibbles(blocks[:, :128], 64) | _pairs(blocks[:, 128:192]) << 4,
        "scales": halves(blocks, 208),
        "levels": np.ascontiguousarray(blocks[:, 192:208]).view(np.int8),
    }


def _scales_and_minima(blocks: np.ndarray) -> Decoded:
    first, second, both = np.split(blocks[:, 4:16], 3, axis=1)
    levels = np.concatenate((first & 63, both & 15 | first >> 6 << 4), axis=1)
    return {
        "scales": halves(blocks, 0),
        "levels": levels.view(np.int8),
        "minima": halves(blocks, 2),
        "minimum_levels": np.concatenate((second & 63, both >> 4 | second >> 6 << 4), axis=1),
    }


def _pairs(packed: np.ndarray) -> np.ndarray:
    """P -> uint8 [n, 256]."""
    parts = packed.reshape(-1, 2, 1, 32)
    return (parts >> np.array([[0], [2], [4], [6]], np.uint8) & 3).reshape(-1, 256)


def _bits(packed: np.ndarray) -> np.ndarray:
    """B -> uint8 [n, 256]."""
    return (packed[:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(-1, 256)


def _nibbles(packed: np.ndarray, together: int) -> np.ndarray:
    """Low nibbles of each `together` bytes, then their high ones: uint8 [n, 256]."""
    parts = packed.reshape(-1, 128 // together, 1, together)
    return (parts >> np.array([[0], [4]], np.uint8) & 15).reshape(-1, 256)
