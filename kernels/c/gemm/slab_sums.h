// What the sums of a block's activations add to a row, for each weight group of a slab: made once, for all tiles.
//
// Needs: gemm/range_groups.h before it; BLOCK_TOKENS and SLAB_COLUMNS (gemm/frame.h).
#pragma once

#include "gemm/range_groups.h"

struct slab_sums {
    struct group_sum of[SLAB_COLUMNS / LEAST_GROUP][BLOCK_TOKENS]; // [weight group of the slab][token]
    int64_t first;                                                 // table group of the slab
};

// For `tokens` tokens and columns [first, last).
TMAC_INLINE void make_slab_sums(const int group, const int grid, const struct tmac_activations * x, int tokens,
                                int64_t first, int64_t last, struct slab_sums * to) {
    to->first = first / TMAC_TABLE_GROUP;
    for (int64_t k = first, g = 0; group && k < last; k += group, g++) {
        for (int t = 0; t < tokens; t++) {
            to->of[g][t] = group == HALF_GROUP ? half_sum_at(grid, x + t, k / HALF_GROUP)
                                               : group_sum_at(group, grid, x + t, k / TMAC_TABLE_GROUP);
        }
    }
}

// Those of the weight group that begins at a table group: [token].
TMAC_INLINE const struct group_sum * slab_sums_at(int group, const struct slab_sums * from, int64_t table_group) {
    return from->of[group ? (table_group - from->first) * TMAC_TABLE_GROUP / group : 0];
}
