// GEMM by int8 multiplication. The planes of a tile's columns become codes of 8 bits in a scratch, once for all tokens; a
// register of BYTES holds four neighbouring columns of FLOATS rows, and meets the activations of the four, broadcast.
//
// The including template defines `bytes` (a register of BYTES) and what is done with it: load, spread, low_bytes, high_bytes,
// low_words, high_words (interleaving within 128-bit lanes), shift_left, shift_right (16-bit words), both, differing,
// store_lanes, spread_columns, add_products (of four unsigned by four signed bytes), ints_of_products; `floats` as walk.h
// asks for; and REGISTER, the operand by which inline assembly changes a register.
#pragma once

#include "int8.h"

enum { COLUMNS = 512, QUADS = TMAC_TABLE_GROUP / 4, LANES = BYTES / 16, PARTS = LINE / BYTES };
enum { ROWS = 2 * FLOATS, PASSES = TMAC_TILE_ROWS / ROWS, QUAD_CODES = 4 * ROWS }; // of a pass: what one walk over columns serves
// 12 sums, 2 registers of codes, one of activations and one product fill the 16 of AVX2.
enum { TOKENS_AT_ONCE = 6, TOKENS = 96, TILES_AT_ONCE = 1 };

#include "gemm_blocks.h"

// Columns of a tile: [pass][quad][row][column of the quad].
struct codes {
    uint8_t codes[PASSES][COLUMNS / 4 * QUAD_CODES];
    struct tile_scales scales;
};

// Exchanges the bits `mask << shift` of a with the bits `mask` of b.
TMAC_INLINE void exchange(bytes * a, bytes * b, int shift, int mask) {
    const bytes change = both(differing(shift_right(*a, shift), *b), spread(mask * 0x0101));
    *b = differing(*b, change);
    *a = differing(*a, shift_left(change, shift));
}

// In every nibble: from bit u of planes[b] to bit b of planes[u].
TMAC_INLINE void transpose_bits(bytes planes[4]) {
    exchange(&planes[0], &planes[2], 2, 0x33);
    exchange(&planes[1], &planes[3], 2, 0x33);
    exchange(&planes[0], &planes[1], 1, 0x55);
    exchange(&planes[2], &planes[3], 1, 0x55);
}

// Codes of LANES quads of all rows.
TMAC_INLINE void unpack_lines(const uint8_t * lines, struct codes * to, int quad) {
    bytes columns[4] = { spread(0), spread(0), spread(0), spread(0) };
    for (int b = 0; b < BITS; b++) {
        columns[b] = load(lines + b * LINE);
    }
    transpose_bits(columns);
    const bytes pairs[2][2] = { { low_bytes(columns[0], columns[1]), low_bytes(columns[2], columns[3]) },
                                { high_bytes(columns[0], columns[1]), high_bytes(columns[2], columns[3]) } };
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const bytes * pair = pairs[i / 2];
        const bytes rows = i % 2 ? high_words(pair[0], pair[1]) : low_words(pair[0], pair[1]);
        const bytes codes[2] = { both(rows, spread(0x0F0F)), both(shift_right(rows, 4), spread(0x0F0F)) };
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int row = 16 * half + 4 * i;
            store_lanes(to->codes[row / ROWS] + quad * QUAD_CODES + row % ROWS * 4, QUAD_CODES, codes[half]);
        }
    }
}

static __attribute__((noinline)) void unpack_tile(const struct tmac_matrix * w, int64_t tile, const struct columns * columns,
                                                  struct codes * to) {
    const uint8_t * lines = w->planes + tile * tile_bytes(w) + columns->first * (TMAC_TABLE_GROUP / TMAC_CHUNK_COLS) * BITS * LINE;
    for (int c = 0; c < columns->count * TMAC_TABLE_GROUP / TMAC_CHUNK_COLS; c++) {
        for (int b = 0; b < BITS; b++) {
            prefetch(lines + b * LINE + PREFETCH);
        }
        for (int i = 0; i < PARTS; i++) {
            unpack_lines(lines + i * BYTES, to, c * TMAC_CHUNK_COLS / 4 + i * LANES);
        }
        lines += BITS * LINE;
    }
    load_scales(w, tile, columns, &to->scales);
}

// Adds to a sum now: GCC would put a row of additions into another order, which needs more registers than there are.
TMAC_INLINE void add_now(bytes * sum, bytes codes, bytes values) {
    *sum = add_products(*sum, codes, values);
    __asm__("" : REGISTER(*sum));
}

// What a walk over the columns of a tile needs, for some tokens and the rows of a pass.
struct walk {
    const struct tile_scales * scales;
    const struct columns * columns;
    const struct tmac_activations * x;
    const struct token_sums * sums;
    float (*out)[TMAC_TILE_ROWS];
    int first_row;
};

TMAC_INLINE void start_group(const int tokens, const struct walk walk, const int whole_row, int group, float part[][ROWS]) {
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < ROWS; i += FLOATS) {
            store(part[t] + i, whole_row ? load_floats(walk.out[t] + i) : broadcast(walk.sums[t].start[group]));
        }
    }
}

TMAC_INLINE void end_group(const int tokens, const struct walk walk, const int whole_row, const int has_zeros, int group,
                           float part[][ROWS]) {
    const float * scales = walk.scales->scales[group] + walk.first_row, * zeros = walk.scales->zeros[group] + walk.first_row;
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < ROWS; i += FLOATS) {
            floats value = load_floats(part[t] + i);
            if (has_zeros) {
                value = multiply_add(load_floats(zeros + i), broadcast(walk.sums[t].per_zero[group]), value);
            }
            float * out = walk.out[t] + i;
            store(out, whole_row ? value : multiply_add(value, load_floats(scales + i), load_floats(out)));
        }
    }
}

TMAC_INLINE void multiply(const int tokens, const struct walk * walk, const uint8_t * codes) {
    const struct columns columns = *walk->columns;
    const struct tmac_activations * x = walk->x;
    const uint8_t * values[TOKENS_AT_ONCE];
    int64_t at = columns.first;
    for (int t = 0; t < tokens; t++) {
        values[t] = x[t].entries;
    }
    for (int g = 0; g * columns.per_group < columns.count; g++) {
        float part[TOKENS_AT_ONCE][ROWS];
        if (columns.whole_row) {
            start_group(tokens, *walk, 1, g, part);
        } else {
            start_group(tokens, *walk, 0, g, part);
        }
        for (int j = 0; j < columns.per_group; j++, at++) {
            bytes sum[TOKENS_AT_ONCE][2];
            for (int t = 0; t < tokens; t++) {
                sum[t][0] = sum[t][1] = spread(0);
            }
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; q++, codes += QUAD_CODES) {
                const bytes rows[2] = { load(codes), load(codes + BYTES) };
                for (int t = 0; t < tokens; t++) {
                    const bytes quad = spread_columns(values[t] + at * TMAC_TABLE_GROUP + 4 * q);
                    add_now(&sum[t][0], rows[0], quad);
                    add_now(&sum[t][1], rows[1], quad);
                }
            }
            for (int t = 0; t < tokens; t++) {
                for (int i = 0; i < 2; i++) {
                    float * to = part[t] + i * FLOATS;
                    const floats value = floats_of_ints(ints_of_products(sum[t][i]));
                    store(to, multiply_add(value, broadcast(x[t].scale[at]), load_floats(to)));
                }
            }
        }
        if (columns.whole_row) {
            end_group(tokens, *walk, 1, 0, g, part);
        } else if (columns.has_zeros) {
            end_group(tokens, *walk, 0, 1, g, part);
        } else {
            end_group(tokens, *walk, 0, 0, g, part);
        }
    }
}
_Static_assert(TOP_CODE * 128 * 2 * QUADS < 32768, "the 16-bit sums would overflow");

typedef void (*multiply_fn)(const struct walk * walk, const uint8_t * codes);
#define MULTIPLY(tokens) \
    static void multiply_##tokens(const struct walk * walk, const uint8_t * codes) { multiply(tokens, walk, codes); }
MULTIPLY(1) MULTIPLY(2) MULTIPLY(3) MULTIPLY(4) MULTIPLY(5) MULTIPLY(6)
static const multiply_fn multiply_tokens[] = { multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6 };

static __attribute__((noinline)) void multiply_tile(int group, int has_zeros, const struct tmac_matrix * w,
                                                    const struct tmac_activations * x, float * const * y, int64_t tokens,
                                                    int64_t tile) {
    struct codes codes;
    float out[TOKENS][TMAC_TILE_ROWS];
    struct token_sums sums[TOKENS_AT_ONCE];
    const int64_t blocks = (tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    start_rows(x, tokens, group, w, zero_factor(has_zeros), TMAC_TILE_ROWS, out[0]);
    const int range = tokens < FEW_TOKENS ? COLUMNS / 4 : COLUMNS;
    for (int64_t k = 0; k < w->cols; k += range) {
        const struct columns columns = columns_from(k, range, group, has_zeros, w);
        unpack_tile(w, tile, &columns, &codes);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = tokens * b / blocks, count = tokens * (b + 1) / blocks - first;
            sum_groups(x + first, count, &columns, zero_factor(has_zeros), sums);
            for (int pass = 0; pass < PASSES; pass++) {
                float (*rows)[TMAC_TILE_ROWS] = (float (*)[TMAC_TILE_ROWS]) (out[first] + pass * ROWS);
                const struct walk walk = { &codes.scales, &columns, x + first, sums, rows, pass * ROWS };
                multiply_tokens[count - 1](&walk, codes.codes[pass]);
            }
        }
    }
    for (int64_t t = 0; t < tokens; t++) {
        for (int r = 0; r < TMAC_TILE_ROWS; r += FLOATS) {
            floats value = load_floats(out[t] + r);
            if (IS_EXACT) {
                value *= broadcast(*x[t].output_scale);
            }
            store(y[t] + tile * TMAC_TILE_ROWS + r, value);
        }
    }
}

static void multiply_tiles(int group, int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                           float * const * y, int64_t tokens, int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; tile++) {
        multiply_tile(group, has_zeros, w, x, y, tokens, tile);
    }
}
