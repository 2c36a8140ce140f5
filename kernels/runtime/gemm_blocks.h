// What the GEMM templates with registers of bytes share: which columns are multiplied at a time, the scales of their weight
// groups as floats, and what ends a group. The including template defines BITS, FORM and `floats` (see walk.h).
#pragma once

#include "catalog.h"

_Static_assert(BITS >= 1 && BITS <= 4, "not a bit width of the layout");

enum { LINE = 64, TOP_CODE = (1 << BITS) - 1 };

// What a weight group's sum of activations adds to begin with. A looked-up sum is 2 * sum_b 2^b * (sum of bit * x) less
// TOP_CODE * sum of x; the symmetric zero-point, 0.5 for 1 bit and else 2^(BITS-1), is taken off at once, a stored one later.
TMAC_INLINE float start_of_sum(int has_zeros, float sum) {
    const float symmetric = BITS == 1 ? 0.5f : (float) (1 << (BITS - 1));
    if (FORM == TMAC_TABLES) {
        return (0.5f * TOP_CODE - (has_zeros ? 0 : symmetric)) * sum;
    }
    return has_zeros ? 0 : -symmetric * sum;
}

// Columns of some tiles that are multiplied at a time, in units of TMAC_TABLE_GROUP: `per_group` of them share a weight
// scale. A group that is the whole row, which stores no scales, goes through several blocks; its sums stay in `out`.
struct columns {
    int64_t first;
    int count, per_group;
    int whole_row, has_zeros;
};

// The scales and zero-points of one tile, [group of the block][row].
struct tile_scales {
    float scales[COLUMNS / TMAC_TABLE_GROUP][TMAC_TILE_ROWS];
    float zeros[COLUMNS / TMAC_TABLE_GROUP][TMAC_TILE_ROWS];
};

TMAC_INLINE int64_t tile_bytes(const struct tmac_matrix * w) { return w->cols / TMAC_CHUNK_COLS * BITS * LINE; }

TMAC_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

TMAC_INLINE struct columns columns_from(int64_t first, int group, int has_zeros, const struct tmac_matrix * w) {
    const int count = (int) least(COLUMNS, w->cols - first) / TMAC_TABLE_GROUP;
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

TMAC_INLINE float sum_of(const float * sums, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += sums[i];
    }
    return sum;
}

// What the sum of a token's activations over a weight group adds to every row, and to a row per sixteenth of zero-point.
struct token_sums {
    float start[COLUMNS / TMAC_TABLE_GROUP];
    float per_zero[COLUMNS / TMAC_TABLE_GROUP];
};

TMAC_INLINE void sum_groups(const struct tmac_activations * x, int64_t tokens, const struct columns * columns,
                            struct token_sums * to) {
    const int groups = columns->whole_row ? 0 : columns->count / columns->per_group;
    for (int64_t t = 0; t < tokens; t++) {
        const float * sums = x[t].sum + columns->first;
        for (int g = 0; g < groups; g++, sums += columns->per_group) {
            const float sum = sum_of(sums, columns->per_group);
            to[t].start[g] = start_of_sum(columns->has_zeros, sum);
            to[t].per_zero[g] = sum * -0.0625f;
        }
    }
}

// What `out` holds before the first columns.
static void start_rows(const struct tmac_activations * x, int64_t tokens, int group, const struct tmac_matrix * w, int64_t rows,
                       float * out) {
    for (int64_t t = 0; t < tokens; t++) {
        const float start = group ? 0 : start_of_sum(0, sum_of(x[t].sum, w->cols / TMAC_TABLE_GROUP));
        for (int64_t r = 0; r < rows; r += FLOATS) {
            store(out + t * rows + r, broadcast(start));
        }
    }
}
