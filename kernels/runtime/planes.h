// What all kernels share: the layout's numbers. The including file defines BITS and PRECISION.
#pragma once

#include "catalog.h"

_Static_assert(BITS >= 1 && BITS <= 4, "not a bit width of the layout");

enum { IS_EXACT = PRECISION == TMAC_EXACT, IS_FAST = PRECISION == TMAC_FAST };
enum { TOP_CODE = (1 << BITS) - 1, LINE = 64, CHUNKS = TMAC_TABLE_GROUP / TMAC_CHUNK_COLS };
enum { BLOCK_GROUPS = TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP };

TMAC_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

TMAC_INLINE int64_t group_columns(int group, const struct tmac_matrix * w) { return group ? group : w->cols; }

TMAC_INLINE int64_t tile_bytes(const struct tmac_matrix * w) { return w->cols / TMAC_CHUNK_COLS * BITS * LINE; }

// Table groups from `first` on that lie in one block and in one weight group, which ends at `last`.
TMAC_INLINE int piece(int group, int64_t first, int64_t last) {
    const int64_t rest = last - first;
    return group ? group / TMAC_TABLE_GROUP : rest < BLOCK_GROUPS ? (int) rest : BLOCK_GROUPS;
}

TMAC_INLINE float sum_of(const float * sums, int64_t first, int64_t last) {
    float sum = 0;
    for (int64_t i = first; i < last; i++) {
        sum += sums[i];
    }
    return sum;
}
