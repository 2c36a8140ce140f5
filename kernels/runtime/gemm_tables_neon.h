// GEMM by look-up with NEON: the indices of 128 columns of a tile are made once in first-level cache for all tokens of a
// block. The including template defines make_indices, for two quads of 32 rows, and add_pair, which adds what both look up in
// their tables to the sums of rows 8i... They agree on the order of the indices.
#pragma once

#include "tables.h"

enum { RANGE = TMAC_TABLE_BLOCK, BLOCK_TOKENS = 16, BLOCK_TILES = 8, PAIRS = QUADS / 2, PAIR_INDICES = 4 };
enum { GROUP_INDICES = BITS * PAIRS * PAIR_INDICES, CODE_BYTES = RANGE / TMAC_TABLE_GROUP * GROUP_INDICES * 16 };

TMAC_INLINE float group_factor(int has_zeros) { return sum_factor(has_zeros); }

#include "gemm_neon.h"

TMAC_INLINE void make_indices(uint8x16_t first, uint8x16_t second, uint8x16_t index[PAIR_INDICES]);
TMAC_INLINE void add_pair(const uint8_t * tables, const uint8x16_t index[PAIR_INDICES], int16x8_t sums[4]);

// Index vectors [table group][plane][pair of quads][4].
static void unpack(const uint8_t * lines, int count, uint8_t * codes) {
    for (int a = 0; a < count; a++, lines += CHUNKS * BITS * LINE) {
        for (int b = 0; b < BITS; b++) {
            for (int p = 0; p < PAIRS; p++, codes += 16 * PAIR_INDICES) {
                const uint8_t * quads = lines + (p / 2 * BITS + b) * LINE + p % 2 * 32;
                uint8x16_t index[PAIR_INDICES];
                make_indices(vld1q_u8(quads), vld1q_u8(quads + 16), index);
                for (int i = 0; i < PAIR_INDICES; i++) {
                    vst1q_u8(codes + 16 * i, index[i]);
                }
            }
        }
    }
}

_Static_assert(TOP_CODE * QUADS * 128 < 32768, "the 16-bit sums would overflow");
_Static_assert(TOP_CODE * QUADS * 128 * TMAC_LARGEST_STEP * BLOCK_GROUPS < 1 << 22, "more than `above_origin` takes");

// sums[t] += step * what a table group looks up.
TMAC_INLINE void add_table_group(const int tokens, const uint8_t * codes, const struct tmac_activations * x,
                                 int64_t table_group, int32x4_t sums[][8]) {
    int16x8_t found[4][4];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 4; i++) {
            found[t][i] = vdupq_n_s16(0);
        }
    }
#pragma GCC unroll 4
    for (int b = BITS - 1; b >= 0; b--) {
#pragma GCC unroll 4
        for (int t = 0; t < tokens && b < BITS - 1; t++) {
            for (int i = 0; i < 4; i++) {
                found[t][i] = vaddq_s16(found[t][i], found[t][i]);
            }
        }
#pragma GCC unroll 4
        for (int p = 0; p < PAIRS; p++) {
            uint8x16_t index[PAIR_INDICES];
            for (int i = 0; i < PAIR_INDICES; i++) {
                index[i] = vld1q_u8(codes + ((b * PAIRS + p) * PAIR_INDICES + i) * 16);
            }
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const uint8_t * tables = x[t].entries + table_group * GROUP_ENTRIES + p * 32;
                keep_order();
                add_pair(tables, index, found[t]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        const int16_t step = (int16_t) step_of(x + t, table_group);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            sums[t][2 * i] = vmlal_n_s16(sums[t][2 * i], vget_low_s16(found[t][i]), step);
            sums[t][2 * i + 1] = vmlal_high_n_s16(sums[t][2 * i + 1], found[t][i], step);
        }
    }
}

// Weight group g of the range, which begins with its table group `a`.
TMAC_INLINE void multiply_group(int group, int has_zeros, const int tokens, const struct range * range,
                                const struct tmac_activations * x, int a, int g, token_rows * out) {
    const int count = groups_of_sum(group, range);
    int32x4_t sums[4][8];
    for (int i = 0; i < 8 * tokens; i++) {
        sums[i / 8][i % 8] = vdupq_n_s32(ORIGIN);
    }
    for (int n = a; n < a + count; n++) {
        add_table_group(tokens, range->codes + n * GROUP_INDICES * 16, x, range->first + n, sums);
    }
    for (int t = 0; t < tokens; t++) {
        const float sum_x = sum_of_group(group, range, x + t, a);
        const floats scale = broadcast(x[t].scale[range->first / BLOCK_GROUPS]);
        const floats start = broadcast(group_factor(has_zeros) * sum_x);
        floats part[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const floats before = group ? start : vld1q_f32(out[t] + FLOATS * i);
            part[i] = multiply_add(above_origin(sums[t][i], 0), scale, before);
        }
        finish_group(group, has_zeros, range, g, 0, TMAC_TILE_ROWS, sum_x, part, out[t]);
    }
}

TMAC_INLINE void multiply(const int tokens, const struct range * range, const struct tmac_activations * x, token_rows * out) {
    for (int a = 0, g = 0; a < range->count; a += groups_of_sum(range->group, range), g++) {
        multiply_group(range->group, range->has_zeros, tokens, range, x, a, g, out);
    }
}

#define MULTIPLY(tokens)                                                                                                  \
    static __attribute__((noinline)) void multiply_##tokens(const struct range * range, const struct tmac_activations * x, \
                                                            token_rows * out) {                                           \
        multiply(tokens, range, x, out);                                                                                  \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(4)

static int multiply_some(const struct range * range, const struct tmac_activations * x, token_rows * out, int tokens) {
    const int some = tokens >= 4 ? 4 : tokens >= 2 ? 2 : 1;
    (some == 4 ? multiply_4 : some == 2 ? multiply_2 : multiply_1)(range, x, out);
    return some;
}
