// What the GEMM templates with registers of bytes share: which columns are multiplied at a time, the scales of their weight
// groups as floats, and what ends a group. The including header defines COLUMNS, and its template `floats` (see walk.h).
#pragma once

#include "planes.h"

enum { BLOCK_COLUMN_GROUPS = COLUMNS / TMAC_TABLE_GROUP };
// Fewer tokens wait for the weights, which fewer tiles and columns at a time fetch more evenly. Prefetched in bytes ahead.
enum { FEW_TOKENS = 8, PREFETCH = 4096 };

// Columns of some tiles that are multiplied at a time, in units of TMAC_TABLE_GROUP: `per_group` of them share a weight
// scale. A group that is the whole row, which stores no scales, goes through several blocks; its sums stay in `out`.
struct columns {
    int64_t first;
    int count, per_group;
    int whole_row, has_zeros;
};

// The scales and zero-points of one tile, [group of the block][row].
struct tile_scales {
    float scales[BLOCK_COLUMN_GROUPS][TMAC_TILE_ROWS];
    float zeros[BLOCK_COLUMN_GROUPS][TMAC_TILE_ROWS];
};

TMAC_INLINE struct columns columns_from(int64_t first, int most, int group, int has_zeros, const struct tmac_matrix * w) {
    const int count = (int) least(most, w->cols - first) / TMAC_TABLE_GROUP;
    const struct columns columns = { first / TMAC_TABLE_GROUP, count, group ? group / TMAC_TABLE_GROUP : count, !group, has_zeros };
    return columns;
}

static void load_scales(const struct tmac_matrix * w, int64_t tile, const struct columns * columns, struct tile_scales * to) {
    if (columns->whole_row) {
        return;
    }
    const int64_t groups = w->cols / TMAC_TABLE_GROUP / columns->per_group;
    const int64_t at = (tile * groups + columns->first / columns->per_group) * TMAC_TILE_ROWS;
    const int numbers = columns->count / columns->per_group * TMAC_TILE_ROWS;
    for (int i = 0; i < numbers; i += FLOATS) {
        store(to->scales[0] + i, floats_of_scales(w->scales + at + i));
        if (columns->has_zeros) {
            store(to->zeros[0] + i, floats_of_zeros(w->zeros + at + i));
        }
    }
}

// What the sum of a token's activations over a weight group adds to each row, and what it adds for a sixteenth of zero-point.
struct token_sums {
    float start[BLOCK_COLUMN_GROUPS];
    float per_zero[BLOCK_COLUMN_GROUPS];
};

TMAC_INLINE void sum_groups_of(const int per_group, const float * sums, int groups, float factor, struct token_sums * to) {
    for (int g = 0; g < groups; g++) {
        float sum = 0;
        for (int i = 0; i < per_group; i++) {
            sum += sums[g * per_group + i];
        }
        to->start[g] = factor * sum;
        to->per_zero[g] = sum * -0.0625f;
    }
}

TMAC_INLINE void sum_groups(const struct tmac_activations * x, int64_t tokens, const struct columns * columns, float factor,
                            struct token_sums * to) {
    const int groups = columns->whole_row ? 0 : columns->count / columns->per_group;
    for (int64_t t = 0; t < tokens; t++) {
        const float * sums = x[t].sum + columns->first;
        if (columns->per_group == 1) {
            sum_groups_of(1, sums, groups, factor, &to[t]);
        } else if (columns->per_group == 2) {
            sum_groups_of(2, sums, groups, factor, &to[t]);
        } else {
            sum_groups_of(4, sums, groups, factor, &to[t]);
        }
    }
}

// What `out` holds before the first columns: of a group that is the whole row, what the sum of the activations adds.
static void start_rows(const struct tmac_activations * x, int64_t tokens, int group, const struct tmac_matrix * w, float factor,
                       int rows, float * out) {
    for (int64_t t = 0; t < tokens; t++) {
        const float start = group ? 0 : factor * sum_of(x[t].sum, 0, w->cols / TMAC_TABLE_GROUP);
        for (int r = 0; r < rows; r += FLOATS) {
            store(out + t * rows + r, broadcast(start));
        }
    }
}

// Multiplies tiles [first, last), TILES_AT_ONCE of them at a time, for at most TOKENS tokens; the including header defines it.
static void multiply_tiles(int group, int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                           float * const * y, int64_t tokens, int64_t first, int64_t last);

// Tiles of a block stay in the second-level cache while all tokens go by, and TOKENS tokens while its tiles do.
enum { TILE_BLOCK_BYTES = 512 * 1024 };

TMAC_INLINE void gemm(int group, int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    const int64_t token_blocks = (tokens + TOKENS - 1) / TOKENS, fitting = TILE_BLOCK_BYTES / tile_bytes(w) / TILES_AT_ONCE;
    const int64_t tile_block = (fitting ? fitting : 1) * TILES_AT_ONCE;
    for (int64_t block = first_tile; block < last_tile; block += tile_block) {
        const int64_t end = least(last_tile, block + tile_block);
        for (int64_t b = 0; b < token_blocks; b++) {
            const int64_t first = tokens * b / token_blocks, count = tokens * (b + 1) / token_blocks - first;
            multiply_tiles(group, has_zeros, w, x + first, y + first, count, block, end);
        }
    }
}
