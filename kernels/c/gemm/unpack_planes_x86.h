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

// The codes of LANES quads, of which there are the bits of `count` planes, at most four, that begin at `planes`: byte 4r + u
// of rows[k * LANES + l] is column u of quad l, in the low half of row 4k * LANES + r and in the high half of 16 rows more.
TMAC_INLINE void rows_of_planes(const uint8_t * planes, int count, bytes rows[4]) {
    bytes columns[4] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
    for (int b = 0; b < count; b++) {
        columns[b] = load_bytes(planes + b * LINE);
    }
    transpose_bits(columns);
    const bytes pairs[2][2] = {
        { interleave_low(columns[0], columns[1]), interleave_low(columns[2], columns[3]) },
        { interleave_high(columns[0], columns[1]), interleave_high(columns[2], columns[3]) },
    };
    for (int i = 0; i < 2; i++) {
        rows[2 * i] = interleave_low_words(pairs[i][0], pairs[i][1]);
        rows[2 * i + 1] = interleave_high_words(pairs[i][0], pairs[i][1]);
    }
    transpose_lanes(rows);
}

// Codes of LANES quads of all rows.
TMAC_INLINE void unpack_lines(const uint8_t * lines, struct tile_codes * to, int quad) {
    const bytes low_nibbles = broadcast_word(0x0F0F), high_bits = broadcast_word(0x3030);
    bytes rows[4], high_rows[4]; // bits 0 to 3, and 4 and 5
    rows_of_planes(lines, BITS < 4 ? BITS : 4, rows);
    if (BITS > 4) {
        rows_of_planes(lines + 4 * LINE, BITS - 4, high_rows);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        bytes codes[2] = { bits_and(rows[i], low_nibbles), bits_and(shift_right(rows[i], 4), low_nibbles) };
        if (BITS > 4) {
            codes[0] = bits_xor(codes[0], bits_and(shift_left(high_rows[i], 4), high_bits));
            codes[1] = bits_xor(codes[1], bits_and(high_rows[i], high_bits));
        }
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int row = 16 * half + i / LANES * LANES * 4;
            store_bytes(to->codes[row / ROWS] + (quad + i % LANES) * QUAD_CODES + row % ROWS * 4, codes[half]);
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
