// The weight groups of a range of columns: scales and zero-points of a tile's rows as floats, and what the sums of the
// activations add to a row.
//
// Needs: an instruction set's vocabulary (isa/) before it; RANGE_COLUMNS, the most columns of a range.
#pragma once

#include "weights/groups.h"

#ifndef RANGE_COLUMNS
#error "gemm/range_groups.h: define RANGE_COLUMNS before including"
#endif

// Whether a type of BITS bits has groups of half a table group, and the smallest group of such types.
enum { HAS_HALVES = TMAC_HALVED_BITS >> BITS & 1, LEAST_GROUP = HAS_HALVES ? HALF_GROUP : TMAC_TABLE_GROUP };
enum { RANGE_GROUPS = RANGE_COLUMNS / LEAST_GROUP };
_Static_assert(RANGE_COLUMNS % TMAC_TABLE_BLOCK == 0, "weight groups and blocks of tables must not be divided");

// Of one tile: [weight group of the range][row].
struct tile_factors {
    float scales[RANGE_GROUPS][TMAC_TILE_ROWS], offsets[RANGE_GROUPS][TMAC_TILE_ROWS];
};

TMAC_INLINE void store_factors(int grid, struct factors factors, int at, struct tile_factors * to) {
    store_floats(to->scales[0] + at, factors.scale);
    if (has_offsets(grid)) {
        store_floats(to->offsets[0] + at, factors.offset);
    }
}

// With levels: the fp16 numbers of a block become floats once for all of its groups. Of `count` weight groups.
TMAC_INLINE void load_levels(const int group, const int grid, const struct tmac_matrix * w, int64_t from, int count,
                             struct tile_factors * to) {
    const int per_block = TMAC_LEVELS_BLOCK / group;
    for (int row = 0; row < TMAC_TILE_ROWS; row += FLOATS) {
        for (int g = 0; g < count;) {
            const int64_t index = from + g * TMAC_TILE_ROWS + row;
            const int left = per_block - (int) ((uint64_t) index / TMAC_TILE_ROWS % (unsigned) per_block);
            const int last = g + left < count ? g + left : count;
            const struct factors of_block = factors_of_block(group, grid, w, index);
            for (; g < last; g++) {
                const int at = g * TMAC_TILE_ROWS + row;
                store_factors(grid, times_levels(group, grid, w, from + at, of_block), at, to);
            }
        }
    }
}

// Of `count` table groups from `first` on.
TMAC_INLINE void load_tile_factors(int group, int grid, const struct tmac_matrix * w, int64_t tile, int64_t first,
                                   int count, struct tile_factors * to) {
    const int64_t from = factors_index(group, w, tile, first * TMAC_TABLE_GROUP);
    const int groups = group ? count * TMAC_TABLE_GROUP / group : 0;
    if (has_levels(grid)) {
        load_levels(group, grid, w, from, groups, to);
        return;
    }
    for (int i = 0; i < groups * TMAC_TILE_ROWS; i += FLOATS) {
        store_factors(grid, factors_at(group, grid, w, from + i), i, to);
    }
}

TMAC_INLINE struct factors factors_of_row(const struct tile_factors * from, int group_index, int row) {
    const struct factors factors = { load_floats(from->offsets[group_index] + row),
                                     load_floats(from->scales[group_index] + row) };
    return factors;
}

// Table groups of a range that are added up before they are scaled: a weight group, or the range where that is the
// whole row.
TMAC_INLINE int groups_of_sum(int group, int range_count) { return group ? group / TMAC_TABLE_GROUP : range_count; }

// The part that the sum of x over a weight group has in a token's rows; zero of a group that is the whole row, whose
// sums start with it.
struct group_sum {
    float start, per_offset;
};

TMAC_INLINE struct group_sum group_sum_of(int grid, float sum_x) {
    const struct group_sum sum = { start_of(grid, sum_x), per_offset(grid, sum_x) };
    return sum;
}

TMAC_INLINE struct group_sum group_sum_at(int group, int grid, const struct tmac_activations * x, int64_t table_group) {
    return group_sum_of(grid, group ? sum_of(x->sum, table_group, table_group + group / TMAC_TABLE_GROUP) : 0);
}

// Of a group of half a table group.
TMAC_INLINE struct group_sum half_sum_at(int grid, const struct tmac_activations * x, int64_t half) {
    return group_sum_of(grid, x->half_sum[half]);
}
