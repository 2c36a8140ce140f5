// Weights as indices of look-up tables: what the kernels of tables share.
//
// A table group is 32 columns, eight quads of four columns. Four bits of a plane, those of a row and a quad, are the
// index of one of the quad's 16 table entries, which is the sum of its activations with the signs that the bits stand
// for.
#pragma once

#include "weights/planes.h"

enum { QUADS = TMAC_TABLE_GROUP / 4, CHUNK_ENTRIES = IS_EXACT ? 128 : 64, GROUP_ENTRIES = CHUNKS * CHUNK_ENTRIES };

// By how much the sums of a table group are too large. Fast: two averages on top of each other round up by a half on
// average, and each of two such results counts four times.
enum { BIAS = IS_FAST ? 4 * TOP_CODE : 0 };

// sum_b 2^b * (sum of bit * x) = looked-up part + TOP_CODE / 2 * sum of x; a stored zero-point is taken off later, the
// symmetric one (0.5 for 1 bit, else 2^(BITS-1)) here.
TMAC_INLINE float start_factor(int has_zeros) { return has_zeros ? 0.5f * TOP_CODE : BITS == 1 ? 0 : -0.5f; }

TMAC_INLINE int step_of(const struct tmac_activations * x, int64_t table_group) {
    return IS_EXACT ? 1 : (int) (x->steps[4 * table_group] & 255);
}
