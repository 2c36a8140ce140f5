// Blocks of ggml's k-quants, 256 columns with scales of two levels: codes, and scale blocks as the layout has them.
// convert/readers/k_blocks.py has the bytes of each block.
#pragma once

#include "repack/bytes.h"
#include "repack/halves.h"

enum { SCALE_LINE = 2 * TMAC_TILE_ROWS, LEVEL_LINE = TMAC_TILE_ROWS }; // bytes of a number for all rows of a tile

// Two bits of each code: byte j of each 32 has those of the columns j, 32 + j, 64 + j and 96 + j, the first lowest.
TMAC_INLINE void put_pairs(const uint8_t * packed, uint8_t * codes) {
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 32; j += 8) {
            const uint64_t eight = eight_at(packed + 32 * half + j);
            for (int i = 0; i < 4; i++) {
                put_eight(bits_of(eight, 2 * i, 2), codes + 128 * half + 32 * i + j);
            }
        }
    }
}

// One more bit of each code: bit i of byte j is that of column 32 i + j.
TMAC_INLINE void add_bits(const uint8_t * packed, int place, uint8_t * codes) {
    for (int j = 0; j < 32; j += 8) {
        const uint64_t eight = eight_at(packed + j);
        for (int i = 0; i < 8; i++) {
            uint8_t * const to = codes + 32 * i + j;
            put_eight(eight_at(to) | bits_of(eight, i, 1) << place, to);
        }
    }
}

// Nibbles: of each 32 bytes, first the low ones.
TMAC_INLINE void put_nibbles(const uint8_t * packed, uint8_t * codes) {
    for (int part = 0; part < 4; part++) {
        for (int j = 0; j < 32; j += 8) {
            const uint64_t eight = eight_at(packed + 32 * part + j);
            put_eight(bits_of(eight, 0, 4), codes + 64 * part + j);
            put_eight(bits_of(eight, 4, 4), codes + 64 * part + 32 + j);
        }
    }
}

TMAC_INLINE void codes_of_q2_k(const uint8_t * block, uint8_t * codes) { put_pairs(block + 16, codes); }

TMAC_INLINE void codes_of_q3_k(const uint8_t * block, uint8_t * codes) {
    put_pairs(block + 32, codes);
    add_bits(block, 2, codes);
}

TMAC_INLINE void codes_of_q4_k(const uint8_t * block, uint8_t * codes) { put_nibbles(block + 16, codes); }

TMAC_INLINE void codes_of_q5_k(const uint8_t * block, uint8_t * codes) {
    put_nibbles(block + 48, codes);
    add_bits(block + 16, 4, codes);
}

// Nibbles: of each 64 bytes, first the low ones. Two bits more as in put_pairs.
TMAC_INLINE void codes_of_q6_k(const uint8_t * block, uint8_t * codes) {
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 32; j += 8) {
            const uint64_t pairs = eight_at(block + 128 + 32 * half + j);
            for (int i = 0; i < 4; i++) {
                const uint64_t nibbles = eight_at(block + 64 * half + 32 * (i % 2) + j);
                const uint64_t eight = bits_of(nibbles, i / 2 * 4, 4) | bits_of(pairs, 2 * i, 2) << 4;
                put_eight(eight, codes + 128 * half + 32 * i + j);
            }
        }
    }
}

// Of row `row`: `scales` is the scale block of all rows.
TMAC_INLINE int scales_of_q2_k(const uint8_t * block, uint8_t * scales, int row) {
    uint8_t * const levels = scales + 2 * SCALE_LINE + row;
    for (int group = 0; group < 16; group++) {
        levels[group * LEVEL_LINE] = block[group];
    }
    return put_half(half_at(block + 80), scales + 2 * row) |
           put_half(half_at(block + 82), scales + SCALE_LINE + 2 * row);
}

TMAC_INLINE int scales_of_q3_k(const uint8_t * block, uint8_t * scales, int row) {
    const uint8_t * const packed = block + 96;
    uint8_t * const levels = scales + SCALE_LINE + row;
    for (int group = 0; group < 16; group++) {
        const int low = packed[group % 8] >> 4 * (group / 8) & 15, high = packed[8 + group % 4] >> 2 * (group / 4) & 3;
        levels[group * LEVEL_LINE] = (uint8_t) ((low | high << 4) - 32);
    }
    return put_half(half_at(block + 108), scales + 2 * row);
}

// Of Q4_K and Q5_K: scales and minima of 6 bits, whose highest two bits are those of other bytes from the fifth group on.
TMAC_INLINE int scales_of_q4_k(const uint8_t * block, uint8_t * scales, int row) {
    const uint8_t * const packed = block + 4;
    uint8_t * const levels = scales + 2 * SCALE_LINE + row;
    for (int group = 0; group < 4; group++) {
        const int first = packed[group], second = packed[group + 4], both = packed[group + 8];
        levels[2 * group * LEVEL_LINE] = first & 63;
        levels[(2 * group + 1) * LEVEL_LINE] = second & 63;
        levels[2 * (group + 4) * LEVEL_LINE] = (uint8_t) ((both & 15) | first >> 6 << 4);
        levels[(2 * (group + 4) + 1) * LEVEL_LINE] = (uint8_t) (both >> 4 | second >> 6 << 4);
    }
    return put_half(half_at(block), scales + 2 * row) | put_half(half_at(block + 2), scales + SCALE_LINE + 2 * row);
}

TMAC_INLINE int scales_of_q5_k(const uint8_t * block, uint8_t * scales, int row) {
    return scales_of_q4_k(block, scales, row);
}

TMAC_INLINE int scales_of_q6_k(const uint8_t * block, uint8_t * scales, int row) {
    uint8_t * const levels = scales + SCALE_LINE + row;
    for (int group = 0; group < 16; group++) {
        levels[group * LEVEL_LINE] = block[192 + group];
    }
    return put_half(half_at(block + 208), scales + 2 * row);
}
