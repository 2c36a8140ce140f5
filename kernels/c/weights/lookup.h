// Weights as indices of lookup tables: what the kernels of tables share.
//
// A table group is 32 columns, eight quads of four columns. Four bits of a plane, those of a row and a quad, are the
// index of one of the quad's 16 table entries, which is the sum of its activations with the signs that the bits stand
// for.
//
// Needs: BITS and PRECISION (weights/planes.h). Gives: start_factor, for weights/groups.h; the sizes of tables; step_of.
#pragma once

#include "weights/planes.h"

enum { QUADS = TMAC_TABLE_GROUP / 4, CHUNK_ENTRIES = IS_EXACT ? 128 : 64, GROUP_ENTRIES = CHUNKS * CHUNK_ENTRIES };

// By how much the sums of a table group are too large. An average rounds up, by 1/4 in the mean. Fast takes the average of
// two averages, 1/2 too large in the mean; a plane has two such results, and each counts four times.
enum { BIAS = IS_FAST ? 4 * TOP_CODE : 0 };

// sum_b 2^b * (sum of bit * x) = looked-up part + TOP_CODE / 2 * sum of x; a stored zero-point is taken off later, the
// symmetric one (0.5 for 1 bit, else 2^(BITS-1)) here.
TMAC_INLINE float start_factor(int grid) { return has_offsets(grid) ? 0.5f * TOP_CODE : BITS == 1 ? 0 : -0.5f; }

TMAC_INLINE int step_of(const struct tmac_activations * x, int64_t table_group) {
    return IS_EXACT ? 1 : (int) (x->steps[4 * table_group] & 255);
}
