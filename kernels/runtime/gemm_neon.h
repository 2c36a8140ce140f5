// The walk over tokens, tiles and columns that the NEON GEMM kernels share. The including file defines RANGE, the columns
// of a tile that are unpacked together for all tokens of a block; BLOCK_TOKENS and BLOCK_TILES, which are multiplied while
// their results wait in first-level cache; CODE_BYTES, what the codes of a range unpack to; group_factor, what a weight
// group's sum starts with for each unit of the sum of x; unpack; and multiply_some, which adds the products of a range with
// some of the tokens to out[token][row] and returns of how many.
#pragma once

#include "neon_floats.h"

enum { RANGE_GROUPS = RANGE / TMAC_TABLE_GROUP };
_Static_assert(RANGE % TMAC_TABLE_BLOCK == 0, "weight groups and blocks of tables must not be divided");

// `count` table groups of a tile from `first` on: codes, and scales and zero-points of each weight group as floats.
struct range {
    int group, has_zeros, count;
    int64_t first;
    uint8_t codes[CODE_BYTES] __attribute__((aligned(64)));
    float scales[RANGE_GROUPS * TMAC_TILE_ROWS], zeros[RANGE_GROUPS * TMAC_TILE_ROWS];
};

typedef float token_rows[TMAC_TILE_ROWS];

static void unpack(const uint8_t * lines, int count, uint8_t * codes);
static int multiply_some(const struct range * range, const struct tmac_activations * x, token_rows * out, int tokens);

TMAC_INLINE const uint8_t * lines_at(const struct tmac_matrix * w, int64_t tile, int64_t table_group) {
    return w->planes + tile * tile_bytes(w) + table_group * CHUNKS * BITS * LINE;
}

// For the next range, which is unpacked when all tokens have been multiplied by this one.
TMAC_INLINE void prefetch_range(const uint8_t * lines) {
    for (int i = 0; i < RANGE_GROUPS * CHUNKS * BITS; i++) {
        __builtin_prefetch(lines + i * LINE);
    }
}

TMAC_INLINE void unpack_range(const struct tmac_matrix * w, int64_t tile, int64_t first, struct range * range) {
    const int64_t rest = w->cols / TMAC_TABLE_GROUP - first;
    range->first = first;
    range->count = rest < RANGE_GROUPS ? (int) rest : RANGE_GROUPS;
    unpack(lines_at(w, tile, first), range->count, range->codes);
    if (range->group) {
        const int64_t at = (tile * (w->cols / range->group) + first * TMAC_TABLE_GROUP / range->group) * TMAC_TILE_ROWS;
        for (int i = 0; i < range->count * TMAC_TABLE_GROUP / range->group * TMAC_TILE_ROWS; i += FLOATS) {
            store(range->scales + i, floats_of_scales(w->scales + at + i));
            if (range->has_zeros) {
                store(range->zeros + i, floats_of_zeros(w->zeros + at + i));
            }
        }
    }
}

// Table groups of the range that are added up before scales are applied.
TMAC_INLINE int groups_of_sum(int group, const struct range * range) { return group ? group / TMAC_TABLE_GROUP : range->count; }

// Sum of x over the weight group that begins with table group `a` of the range; a tensor's only one is in `out` already.
TMAC_INLINE float sum_of_group(int group, const struct range * range, const struct tmac_activations * x, int a) {
    return group ? sum_of(x->sum, range->first + a, range->first + a + group / TMAC_TABLE_GROUP) : 0;
}

// What rows `row`.. of weight group g have added up to becomes part of the results.
TMAC_INLINE void finish_group(int group, int has_zeros, const struct range * range, int g, int row, int rows, float sum_x,
                              floats * part, float * out) {
    const int at = g * TMAC_TILE_ROWS + row;
    for (int i = 0; i < rows / FLOATS; i++) {
        if (has_zeros) {
            part[i] = multiply_add(vld1q_f32(range->zeros + at + FLOATS * i), broadcast(sum_x * -0.0625f), part[i]);
        }
        if (group) {
            part[i] = multiply_add(part[i], vld1q_f32(range->scales + at + FLOATS * i), vld1q_f32(out + row + FLOATS * i));
        }
        store(out + row + FLOATS * i, part[i]);
    }
}

static void multiply_block(int group, int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                           float * const * y, int tokens, int64_t first_tile, int64_t last_tile) {
    const int64_t table_groups = w->cols / TMAC_TABLE_GROUP;
    struct range range = { .group = group, .has_zeros = has_zeros };
    token_rows out[BLOCK_TILES][BLOCK_TOKENS];
    float start[BLOCK_TOKENS];
    for (int t = 0; t < tokens; t++) {
        start[t] = group ? 0 : group_factor(has_zeros) * sum_of(x[t].sum, 0, table_groups);
    }
    for (int64_t tile = first_tile; tile < last_tile; tile += BLOCK_TILES) {
        const int tiles = last_tile - tile < BLOCK_TILES ? (int) (last_tile - tile) : BLOCK_TILES;
        for (int i = 0; i < tiles * tokens; i++) {
            for (int row = 0; row < TMAC_TILE_ROWS; row += FLOATS) {
                store(out[i / tokens][i % tokens] + row, broadcast(start[i % tokens]));
            }
        }
        for (int64_t first = 0; first < table_groups; first += RANGE_GROUPS) {
            for (int s = 0; s < tiles; s++) {
                unpack_range(w, tile + s, first, &range);
                prefetch_range(s + 1 < tiles ? lines_at(w, tile + s + 1, first) : lines_at(w, tile, first + RANGE_GROUPS));
                for (int t = 0; t < tokens;) {
                    t += multiply_some(&range, x + t, out[s] + t, tokens - t);
                }
            }
        }
        for (int i = 0; i < tiles * tokens; i++) {
            const int s = i / tokens, t = i % tokens;
            for (int row = 0; row < TMAC_TILE_ROWS; row += FLOATS) {
                const floats value = vld1q_f32(out[s][t] + row);
                store(y[t] + (tile + s) * TMAC_TILE_ROWS + row, IS_EXACT ? value * broadcast(*x[t].output_scale) : value);
            }
        }
    }
}

TMAC_INLINE void gemm(const int group, const int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    for (int64_t t = 0; t < tokens; t += BLOCK_TOKENS) {
        const int count = tokens - t < BLOCK_TOKENS ? (int) (tokens - t) : BLOCK_TOKENS;
        multiply_block(group, has_zeros, w, x + t, y + t, count, first_tile, last_tile);
    }
}
