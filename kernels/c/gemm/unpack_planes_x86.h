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

// Columns of `count` planes, at most four: bit b of each nibble of columns[u] is bit u of that of plane b. Bits from
// `count` on are any.
TMAC_INLINE void columns_of_planes(const uint8_t * planes, int count, bytes columns[4]) {
    for (int b = 0; b < 4; b++) {
        columns[b] = b < count ? load_bytes(planes + b * LINE) : broadcast_word(0);
    }
    if (count > 2) {
        transpose_bits(columns);
        return;
    }
    const bytes first = columns[0], second = columns[1];
    columns[0] = select_bits(0x11, first, shift_left(second, 1));
    for (int u = 1; u < 4; u++) {
        columns[u] = select_bits(0x11, shift_right(first, u), u == 1 ? second : shift_right(second, u - 1));
    }
}

// The codes of LANES quads, of `count` planes: byte 4r + u of lane l of rows[i] is column u of quad l, in the low half of row
// 4i + r and in the high half of 16 rows more. With transposed lanes that is lane i of rows[l].
TMAC_INLINE void rows_of_planes(const uint8_t * planes, int count, bytes rows[4]) {
    bytes columns[4];
    columns_of_planes(planes, count, columns);
    const bytes pairs[2][2] = {
        { interleave_low(columns[0], columns[1]), interleave_low(columns[2], columns[3]) },
        { interleave_high(columns[0], columns[1]), interleave_high(columns[2], columns[3]) },
    };
    for (int i = 0; i < 2; i++) {
        rows[2 * i] = interleave_low_words(pairs[i][0], pairs[i][1]);
        rows[2 * i + 1] = interleave_high_words(pairs[i][0], pairs[i][1]);
    }
#ifdef HAS_TRANSPOSED_LANES
    transpose_lanes(rows);
#endif
}

// Codes of rows 16h.., of one of the four registers.
TMAC_INLINE void store_codes(struct tile_codes * to, int quad, int half, int i, bytes codes) {
#ifdef HAS_TRANSPOSED_LANES
    store_bytes(to->codes[0] + (quad + i) * QUAD_CODES + 64 * half, codes);
#else
    const int row = 16 * half + 4 * i;
    store_lanes(to->codes[row / ROWS] + quad * QUAD_CODES + row % ROWS * 4, QUAD_CODES, codes);
#endif
}

// Codes of LANES quads of all rows.
TMAC_INLINE void unpack_lines(const uint8_t * lines, struct tile_codes * to, int quad) {
    enum { LOW = BITS < 4 ? BITS : 4, HIGH = BITS - LOW }; // bits below the fourth, and the others
    const bytes low_bits = broadcast_word(((1 << LOW) - 1) * 0x0101);
    const bytes high_bits = broadcast_word(((1 << HIGH) - 1) * 0x1010);
    bytes rows[4], high_rows[4];
    rows_of_planes(lines, LOW, rows);
    if (HIGH) {
        rows_of_planes(lines + LOW * LINE, HIGH, high_rows);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        bytes codes[2] = { bits_and(rows[i], low_bits), bits_and(shift_right(rows[i], 4), low_bits) };
        if (HIGH) {
            codes[0] = bits_xor(codes[0], bits_and(shift_left(high_rows[i], 4), high_bits));
            codes[1] = bits_xor(codes[1], bits_and(high_rows[i], high_bits));
        }
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            store_codes(to, quad, half, i, codes[half]);
        }
    }
}

// The codes of `count` table groups.
TMAC_INLINE void unpack_columns(int is_prefetching, const uint8_t * lines, int count, struct tile_codes * to) {
    for (int c = 0; c < count * CHUNKS; c++) {
        if (is_prefetching) {
            for (int b = 0; b < BITS; b++) {
                prefetch(lines + b * LINE + PREFETCH);
            }
        }
        for (int i = 0; i < PARTS; i++) {
            unpack_lines(lines + i * BYTES, to, c * TMAC_CHUNK_COLS / 4 + i * LANES);
        }
        lines += BITS * LINE;
    }
}
