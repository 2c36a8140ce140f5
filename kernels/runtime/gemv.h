// What the GEMV templates share: the numbers of one table group, 32 columns. The including file defines BITS and PRECISION.
#pragma once

#include "catalog.h"

_Static_assert(BITS >= 1 && BITS <= 4, "not a bit width of the layout");

enum { IS_EXACT = PRECISION == TMAC_EXACT, IS_FAST = PRECISION == TMAC_FAST };
enum { TOP_CODE = (1 << BITS) - 1, LINE = 64 };
enum { QUADS = TMAC_TABLE_GROUP / 4, CHUNKS = TMAC_TABLE_GROUP / TMAC_CHUNK_COLS };
enum { CHUNK_ENTRIES = IS_EXACT ? 128 : 64, GROUP_ENTRIES = CHUNKS * CHUNK_ENTRIES };

// By how much the sums of a table group are too large. Fast: two averages on top of each other round up by a half on
// average, and each of two such results counts four times.
enum { BIAS = IS_FAST ? 4 * TOP_CODE : 0 };

// sum_b 2^b * (sum of bit * x) = looked-up part + TOP_CODE / 2 * sum of x; a stored zero-point is taken off later, the
// symmetric one (0.5 for 1 bit, else 2^(BITS-1)) here.
TMAC_INLINE float sum_factor(int has_zeros) { return has_zeros ? 0.5f * TOP_CODE : BITS == 1 ? 0 : -0.5f; }

TMAC_INLINE int64_t group_columns(int group, const struct tmac_matrix * w) { return group ? group : w->cols; }

TMAC_INLINE int64_t tile_bytes(const struct tmac_matrix * w) { return w->cols / TMAC_CHUNK_COLS * BITS * LINE; }
