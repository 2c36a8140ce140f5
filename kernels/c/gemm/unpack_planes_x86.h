// How planes become codes of 8 bits with AVX2, AVX-VNNI, AVX-512 BW and VNNI.
//
// Needs: gemm/int8_x86.h around it: BITS, an instruction set's vocabulary, `struct tile_codes`. Gives: unpack_columns.
#pragma once

#include "weights/planes.h"

// Exchanges the bits `mask << shift` of a with the bits `mask` of b.
TMAC_INLINE void exchange(bytes * a, bytes * b, int shift, int mask) {
    const bytes change = bits_and(bits_xor(shift_right(*a, shift), *b), broadcast_word(mask * 0x0101));
    *b = bits_xor(*b, change);
    *a = bits_xor(*a, shift_left(change, shift));
}

// In every nibble: from bit u of planes[b] to bit b of planes[u].
TMAC_INLINE void transpose_bits(bytes planes[4]) {
    exchange(&planes[0], &planes[2], 2, 0x33);
    exchange(&planes[1], &planes[3], 2, 0x33);
    exchange(&planes[0], &planes[1], 1, 0x55);
    exchange(&planes[2], &planes[3], 1, 0x55);
}

// Codes of LANES quads of all rows.
TMAC_INLINE void unpack_lines(const uint8_t * lines, struct tile_codes * to, int quad) {
    bytes columns[4] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
    for (int b = 0; b < BITS; b++) {
        columns[b] = load_bytes(lines + b * LINE);
    }
    transpose_bits(columns);
    const bytes pairs[2][2] = {
        { interleave_low(columns[0], columns[1]), interleave_low(columns[2], columns[3]) },
        { interleave_high(columns[0], columns[1]), interleave_high(columns[2], columns[3]) },
    };
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const bytes * pair = pairs[i / 2];
        const bytes rows = i % 2 ? interleave_high_words(pair[0], pair[1]) : interleave_low_words(pair[0], pair[1]);
        const bytes low_nibbles = broadcast_word(0x0F0F);
        const bytes codes[2] = { bits_and(rows, low_nibbles), bits_and(shift_right(rows, 4), low_nibbles) };
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int row = 16 * half + 4 * i;
            store_lanes(to->codes[row / ROWS] + quad * QUAD_CODES + row % ROWS * 4, QUAD_CODES, codes[half]);
        }
    }
}

// The codes of `count` table groups.
TMAC_INLINE void unpack_columns(const uint8_t * lines, int count, struct tile_codes * to) {
    for (int c = 0; c < count * CHUNKS; c++) {
        for (int b = 0; b < BITS; b++) {
            prefetch(lines + b * LINE + PREFETCH);
        }
        for (int i = 0; i < PARTS; i++) {
            unpack_lines(lines + i * BYTES, to, c * TMAC_CHUNK_COLS / 4 + i * LANES);
        }
        lines += BITS * LINE;
    }
}
