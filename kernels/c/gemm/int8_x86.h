// GEMM by int8 multiplication with AVX2, AVX-512 BW and VNNI. The planes of a tile's columns become codes of 8 bits in
// a scratch, once for all tokens of a block; a register holds four neighbouring columns of FLOATS rows, and meets the
// activations of the four, broadcast.
//
// Needs: isa/avx2.h, isa/avx512.h or isa/avx512_vbmi.h before it. Gives: gemm (gemm/frame.h).
#pragma once

#include "weights/codes.h"

#ifndef BYTES
#error "gemm/int8_x86.h: include isa/avx2.h, isa/avx512.h or isa/avx512_vbmi.h before it"
#endif

#define BLOCK_TOKENS 96
#define TOKEN_STEP 1
#define UNIT_TILES 1
#define STEP_UNITS 1
#define TILE_BLOCK_BYTES (512 * 1024)
#define RANGE_COLUMNS 512
#include "gemm/range_groups.h"

enum { QUADS = TMAC_TABLE_GROUP / 4, LANES = BYTES / 16, PARTS = LINE / BYTES };
// Of a pass, what one walk over columns serves.
enum { ROWS = 2 * FLOATS, PASSES = TMAC_TILE_ROWS / ROWS, QUAD_CODES = 4 * ROWS };
// 12 sums, 2 registers of codes, one of activations and one product fill the 16 of AVX2.
enum { TOKENS_AT_ONCE = 6 };
// Fewer tokens wait for the weights, which fewer columns at a time fetch more evenly. Prefetched in bytes ahead.
enum { FEW_TOKENS = 8, FEW_COLUMNS = 128, PREFETCH = 4096 };

// Codes of a tile: [pass][quad][row][column of the quad].
struct scratch {
    uint8_t codes[PASSES][RANGE_COLUMNS / 4 * QUAD_CODES];
    struct tile_factors factors;
};

#include "gemm/plain_rows.h"

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return 1;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    return block->tokens >= FEW_TOKENS ? RANGE_COLUMNS : group > FEW_COLUMNS ? group : FEW_COLUMNS;
}

#ifdef TRITS
#include "gemm/unpack_trits_x86.h"
#else
#include "gemm/unpack_planes_x86.h"
#endif

SHARED void unpack_range(int group, int has_zeros, const struct tmac_matrix * w, const struct range * range,
                         struct scratch * to) {
    unpack_columns(lines_at(w, range->tile, range->first), range->count, to);
    load_tile_factors(group, has_zeros, w, range->tile, range->first, range->count, &to->factors);
}

// Adds four products to each row's sum; without dot products to two sums of 16 bits.
TMAC_INLINE void add_products(bytes * sum, bytes codes, bytes values) {
#ifdef HAS_DOT_PRODUCTS
    *sum = add_dot_products(*sum, codes, values);
#else
    *sum = add_words(*sum, multiply_pairs(codes, values));
#endif
    make_now(sum);
}

TMAC_INLINE floats floats_of_products(bytes sum) {
#ifdef HAS_DOT_PRODUCTS
    return floats_of_ints(sum);
#else
    return floats_of_ints(multiply_words(sum, broadcast_word(1)));
#endif
}
_Static_assert(TOP_CODE * 128 * 2 * QUADS < 32768, "the 16-bit sums would overflow");

// What some tokens and the rows of a pass multiply.
struct pass {
    int group, has_zeros, first_row;
    const struct range * range;
    const struct tile_factors * factors;
    const struct tmac_activations * x;
    const struct group_sum (*group_sums)[RANGE_GROUPS];
    float (*out)[UNIT_ROWS];
};

TMAC_INLINE void begin_group(const int tokens, const int group, const struct pass pass, int g, float part[][ROWS]) {
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < ROWS; i += FLOATS) {
            store_floats(part[t] + i, group ? broadcast(pass.group_sums[t][g].start) : load_floats(pass.out[t] + i));
        }
    }
}

TMAC_INLINE void end_group(const int tokens, const int group, const int has_zeros, const struct pass pass, int g,
                           float part[][ROWS]) {
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < ROWS; i += FLOATS) {
            float * out = pass.out[t] + i;
            const struct factors factors = factors_of_row(pass.factors, g, pass.first_row + i);
            store_floats(out, finish_group(group, has_zeros, factors, pass.group_sums[t][g].per_zero,
                                           load_floats(part[t] + i), load_floats(out)));
        }
    }
}

TMAC_INLINE void multiply(const int tokens, const struct pass * pass, const uint8_t * codes) {
    const struct tmac_activations * x = pass->x;
    const int count = pass->range->count, per_group = groups_of_sum(pass->group, count);
    const uint8_t * values[TOKENS_AT_ONCE];
    int64_t at = pass->range->first;
    for (int t = 0; t < tokens; t++) {
        values[t] = x[t].entries;
    }
    for (int g = 0; g * per_group < count; g++) {
        float part[TOKENS_AT_ONCE][ROWS];
        if (pass->group) {
            begin_group(tokens, 1, *pass, g, part);
        } else {
            begin_group(tokens, 0, *pass, g, part);
        }
        for (int j = 0; j < per_group; j++, at++) {
            bytes sum[TOKENS_AT_ONCE][2];
            for (int t = 0; t < tokens; t++) {
                sum[t][0] = sum[t][1] = broadcast_word(0);
            }
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; q++, codes += QUAD_CODES) {
                const bytes rows[2] = { load_bytes(codes), load_bytes(codes + BYTES) };
                for (int t = 0; t < tokens; t++) {
                    const bytes quad = broadcast_4(values[t] + at * TMAC_TABLE_GROUP + 4 * q);
                    add_products(&sum[t][0], rows[0], quad);
                    add_products(&sum[t][1], rows[1], quad);
                }
            }
            for (int t = 0; t < tokens; t++) {
                for (int i = 0; i < 2; i++) {
                    float * to = part[t] + i * FLOATS;
                    store_floats(
                        to, multiply_add(floats_of_products(sum[t][i]), broadcast(x[t].scale[at]), load_floats(to)));
                }
            }
        }
        if (!pass->group) {
            end_group(tokens, 0, 0, *pass, g, part);
        } else if (pass->has_zeros) {
            end_group(tokens, 1, 1, *pass, g, part);
        } else {
            end_group(tokens, 1, 0, *pass, g, part);
        }
    }
}

typedef void (*multiply_fn)(const struct pass * pass, const uint8_t * codes);
#define MULTIPLY(tokens)                                                                                               \
    static void multiply_##tokens(const struct pass * pass, const uint8_t * codes) { multiply(tokens, pass, codes); }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)
MULTIPLY(5)
MULTIPLY(6)
static const multiply_fn multiply_tokens[] = { multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6 };

TMAC_INLINE void add_range(const int group, const int has_zeros, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE,
              per_group = groups_of_sum(group, range->count);
    unpack_range(group, has_zeros, block->w, range, scratch);
    for (int p = 0; p < parts; p++) {
        const int first = block->tokens * p / parts, count = block->tokens * (p + 1) / parts - first;
        const struct tmac_activations * x = block->x + first;
        struct group_sum group_sums[TOKENS_AT_ONCE][RANGE_GROUPS];
        for (int t = 0; t < count && group; t++) {
            for (int g = 0; g * per_group < range->count; g++) {
                group_sums[t][g] = group_sum_at(group, has_zeros, x + t, range->first + g * per_group);
            }
        }
        for (int i = 0; i < PASSES; i++) {
            float (*out)[UNIT_ROWS] = (float (*)[UNIT_ROWS])(sums[0][first] + i * ROWS);
            const struct pass pass = { group, has_zeros, i * ROWS, range, &scratch->factors, x, group_sums, out };
            multiply_tokens[count - 1](&pass, scratch->codes[i]);
        }
    }
}
