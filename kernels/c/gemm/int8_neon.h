// GEMM of int8 activations with NEON, its dot products and its matrix products: 256 columns of a tile are unpacked to
// int8 in first-level cache once for all tokens of a block.
//
// Needs before it: ROW_CODES, neighbouring codes of a row. Needs after it: store_quads, add_products and
// rows_of_products. Gives: gemm (gemm/frame.h).
#pragma once

#include "isa/neon.h"
#include "weights/codes.h"
#ifdef TRITS
#include "weights/trit_codes.h"
#endif

#ifndef ROW_CODES
#error "gemm/int8_neon.h: define ROW_CODES before including"
#endif

#define BLOCK_TOKENS 128
#define STEP_UNITS 1
#define RANGE_COLUMNS 256
#define CODE_BYTES (RANGE_COLUMNS * TMAC_TILE_ROWS)
#include "gemm/neon.h"

enum { GROUP_CODES = TMAC_TABLE_GROUP * TMAC_TILE_ROWS, QUAD_CODES = 4 * TMAC_TILE_ROWS };

// Codes of the four columns of each of two quads: row r in the low four bits of byte r, row r + 16 in the high ones. Of
// more than 4 bits, `high` has bits 4 and 5 in the same way.
struct quads {
    uint8x16_t column[2][4], high[2][4];
};

// Stores the codes in the order that add_products needs.
TMAC_INLINE void store_quads(const struct quads * quads, uint8_t * codes);

// sums[rows i..] += the products of columns [first, last) of a table group, half of it or all; values[t] is where the
// activations of a token begin.
TMAC_INLINE void add_products(const int rows, const int tokens, const int first, const int last, const uint8_t * codes,
                              const int8_t * const * values, int32x4_t * sums);

// The sums of rows 4i.. for token t.
TMAC_INLINE int32x4_t rows_of_products(const int rows, const int32x4_t * sums, int t, int i);

#ifndef TRITS
TMAC_INLINE uint8x16_t low_bits(uint8_t mask, uint8x16_t a, uint8x16_t b) { return vbslq_u8(vdupq_n_u8(mask), a, b); }

// Of `count` planes, at most four.
TMAC_INLINE void unpack_quad(const uint8_t * quad, int count, uint8x16_t column[4]) {
    uint8x16_t plane[4], even[2], odd[2]; // even: columns 0 and 2, two bits each, of planes 0, 1 and of planes 2, 3
    for (int b = 0; b < 4; b++) {
        plane[b] = b < count ? vld1q_u8(quad + b * LINE) : vdupq_n_u8(0);
    }
    for (int i = 0; i < 2; i++) {
        even[i] = low_bits(0x55, plane[2 * i], vshlq_n_u8(plane[2 * i + 1], 1));
        odd[i] = low_bits(0x55, vshrq_n_u8(plane[2 * i], 1), plane[2 * i + 1]);
    }
    column[0] = low_bits(0x33, even[0], vshlq_n_u8(even[1], 2));
    column[1] = low_bits(0x33, odd[0], vshlq_n_u8(odd[1], 2));
    column[2] = low_bits(0x33, vshrq_n_u8(even[0], 2), even[1]);
    column[3] = low_bits(0x33, vshrq_n_u8(odd[0], 2), odd[1]);
}
#endif

// Whole codes; `high` counts if they have more than 4 bits.
TMAC_INLINE uint8x16_t first_rows(uint8x16_t codes, uint8x16_t high) {
    return BITS > 4 ? vsliq_n_u8(codes, high, 4) : vandq_u8(codes, vdupq_n_u8(15));
}
TMAC_INLINE uint8x16_t last_rows(uint8x16_t codes, uint8x16_t high) {
    return BITS > 4 ? vsriq_n_u8(high, codes, 4) : vshrq_n_u8(codes, 4);
}

// Transposes the columns of a quad: byte 4r + u of the four registers is column u of row r (and r + 16).
TMAC_INLINE void transpose_quad(const uint8x16_t column[4], uint8x16_t rows[4]) {
    const uint16x8_t left[2] = { vreinterpretq_u16_u8(vzip1q_u8(column[0], column[1])),
                                 vreinterpretq_u16_u8(vzip2q_u8(column[0], column[1])) };
    const uint16x8_t right[2] = { vreinterpretq_u16_u8(vzip1q_u8(column[2], column[3])),
                                  vreinterpretq_u16_u8(vzip2q_u8(column[2], column[3])) };
    for (int i = 0; i < 2; i++) {
        rows[2 * i] = vreinterpretq_u8_u16(vzip1q_u16(left[i], right[i]));
        rows[2 * i + 1] = vreinterpretq_u8_u16(vzip2q_u16(left[i], right[i]));
    }
}

#ifdef TRITS
// The codes of a triple's three columns for rows 16h..: two bits each.
TMAC_INLINE uint8x16_t codes_of_triple(uint8x16_t nibbles, uint8x16_t sign) {
    // A lookup gives 0 where an index is above 15: a table finds something for either sign.
    const uint8x16_t top = vdupq_n_u8(128), negative = vandq_u8(sign, top), index = vorrq_u8(nibbles, negative);
    return vorrq_u8(vqtbl1q_u8(vld1q_u8(triple_codes[0]), index),
                    vqtbl1q_u8(vld1q_u8(triple_codes[1]), veorq_u8(index, top)));
}

TMAC_INLINE void unpack_line(const uint8_t * block, int line, uint8x16_t columns[12]) {
    uint8x16_t sign = vld1q_u8(block + SIGNS + line * UNIT);
    for (int l = 0; l < LINE_TRIPLES; l++) {
        const uint8x16_t pairs = vld1q_u8(block + line * LINE + UNIT * l);
        const uint8x16_t first = codes_of_triple(vandq_u8(pairs, vdupq_n_u8(15)), sign);
        const uint8x16_t last = codes_of_triple(vshrq_n_u8(pairs, 4), vshlq_n_u8(sign, 1));
        sign = vshlq_n_u8(sign, 2);
        const uint8x16_t two = vdupq_n_u8(3);
        columns[3 * l] = vorrq_u8(vandq_u8(first, two), vshlq_n_u8(vandq_u8(last, two), 4));
        columns[3 * l + 1] =
            vorrq_u8(vandq_u8(vshrq_n_u8(first, 2), two), vshlq_n_u8(vandq_u8(vshrq_n_u8(last, 2), two), 4));
        columns[3 * l + 2] = vorrq_u8(vshrq_n_u8(first, 4), vshlq_n_u8(vshrq_n_u8(last, 4), 4));
    }
}

// Two lines at a time, whose quads are a whole number of pairs.
SHARED void unpack(const uint8_t * blocks, int count, uint8_t * codes) {
    for (int n = 0; n < count / BLOCK_GROUPS; n++, blocks += BLOCK_BYTES) {
        for (int line = 0; line < TRIT_LINES; line += 2) {
            uint8x16_t columns[24];
            const int quads = quads_of_line(line) + (line + 1 < TRIT_LINES ? quads_of_line(line + 1) : 0);
            REGION_BEGIN("unpack", BITS);
            unpack_line(blocks, line, columns);
            if (line + 1 < TRIT_LINES) {
                unpack_line(blocks, line + 1, columns + 12);
            }
            for (int q = 0; q < quads; q += 2, codes += 2 * QUAD_CODES) {
                struct quads both = { 0 };
                for (int u = 0; u < 4; u++) {
                    both.column[0][u] = columns[4 * q + u];
                    both.column[1][u] = columns[4 * q + 4 + u];
                }
                store_quads(&both, codes);
            }
            REGION_END();
        }
    }
}
#else
SHARED void unpack(const uint8_t * lines, int count, uint8_t * codes) {
    for (int chunk = 0; chunk < count * CHUNKS; chunk++, lines += BITS * LINE) {
        for (int l = 0; l < 4; l += 2, codes += 2 * QUAD_CODES) {
            REGION_BEGIN("unpack", BITS);
            struct quads quads;
            for (int i = 0; i < 2; i++) {
                const uint8_t * quad = lines + 16 * (l + i);
                unpack_quad(quad, BITS < 4 ? BITS : 4, quads.column[i]);
                unpack_quad(quad + 4 * LINE, BITS < 4 ? 0 : BITS - 4, quads.high[i]);
            }
            store_quads(&quads, codes);
            REGION_END();
        }
    }
}

#endif

enum { MOST_SUMS = 16 };

// part[token][rows] += the products of `count` table groups of the range from `first` on, or of columns [left, right) of a
// single one.
TMAC_INLINE void add_part(const int rows, const int tokens, const int left, const int right, const struct range * range,
                          const struct scratch * scratch, const struct tmac_activations * x, int row, int first,
                          int count, floats part[4][8]) {
    int32x4_t sums[MOST_SUMS];
#pragma GCC unroll 16
    for (int i = 0; i < MOST_SUMS; i++) {
        sums[i] = vdupq_n_s32(ORIGIN);
    }
    for (int n = first; n < first + count; n++) {
        const int8_t * values[4];
        for (int t = 0; t < tokens; t++) {
            values[t] = (const int8_t *) x[t].entries + (range->first + n) * TMAC_TABLE_GROUP;
        }
        add_products(rows, tokens, left, right, scratch->codes + n * GROUP_CODES + row * ROW_CODES, values, sums);
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        const floats scale = broadcast(IS_EXACT ? 1 : x[t].scale[range->first + first]);
#pragma GCC unroll 8
        for (int i = 0; i < rows / FLOATS; i++) {
            part[t][i] = multiply_add(above_origin(rows_of_products(rows, sums, t, i), 0), scale, part[t][i]);
        }
    }
}

// Rows `row`.. of weight group g of the range, which begins with its table group `a`. Sums of integers are taken over
// 32 columns, where the scale changes; exact: over the weight group.
TMAC_INLINE void multiply_group(int group, int grid, const int rows, const int tokens, const struct range * range,
                                const struct scratch * scratch, const struct tmac_activations * x, int row, int a,
                                int g, token_rows * out) {
    const int count = groups_of_sum(group, range->count), step = IS_EXACT ? count : 1;
    floats part[4][8];
    struct group_sum sum_x[4];
    for (int t = 0; t < tokens; t++) {
        sum_x[t] = group_sum_at(group, grid, x + t, range->first + a);
        for (int i = 0; i < rows / FLOATS; i++) {
            part[t][i] = group ? broadcast(sum_x[t].start) : load_floats(out[t] + row + FLOATS * i);
        }
    }
    for (int first = a; first < a + count; first += step) {
        add_part(rows, tokens, 0, TMAC_TABLE_GROUP, range, scratch, x, row, first, step, part);
    }
    for (int t = 0; t < tokens; t++) {
        finish_rows(group, grid, scratch, g, row, rows, sum_x[t].per_offset, part[t], out[t]);
    }
}

// The same of both weight groups of a table group.
TMAC_INLINE void multiply_halves(int grid, const int rows, const int tokens, const struct range * range,
                                 const struct scratch * scratch, const struct tmac_activations * x, int row, int a,
                                 token_rows * out) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        floats part[4][8];
        struct group_sum sum_x[4];
        for (int t = 0; t < tokens; t++) {
            sum_x[t] = half_sum_at(grid, x + t, 2 * (range->first + a) + half);
            for (int i = 0; i < rows / FLOATS; i++) {
                part[t][i] = broadcast(sum_x[t].start);
            }
        }
        add_part(rows, tokens, HALF_GROUP * half, HALF_GROUP * half + HALF_GROUP, range, scratch, x, row, a, 1, part);
        for (int t = 0; t < tokens; t++) {
            finish_rows(HALF_GROUP, grid, scratch, 2 * a + half, row, rows, sum_x[t].per_offset, part[t], out[t]);
        }
    }
}

TMAC_INLINE void multiply(const int tokens, int group, int grid, const struct range * range,
                          const struct scratch * scratch, const struct tmac_activations * x, token_rows * out) {
    const int rows = tokens == 4 ? 16 : TMAC_TILE_ROWS; // at a time: their sums are in registers
    for (int row = 0; row < TMAC_TILE_ROWS; row += rows) {
        if (HAS_HALVES && group == HALF_GROUP) {
            for (int a = 0; a < range->count; a++) {
                multiply_halves(grid, rows, tokens, range, scratch, x, row, a, out);
            }
            continue;
        }
        for (int a = 0, g = 0; a < range->count; a += groups_of_sum(group, range->count), g++) {
            REGION_BEGIN("multiply", tokens);
            multiply_group(group, grid, rows, tokens, range, scratch, x, row, a, g, out);
            REGION_END();
        }
    }
}
_Static_assert(TOP_CODE * 128 * RANGE_COLUMNS < 1 << 22, "more than `above_origin` takes");
