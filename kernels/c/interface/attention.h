// What cutting an attention into items (attention.c) and computing an item (attention/attend.h) must agree on.
#pragma once

#include "tmac.h"

enum {
    // Positions of a step, with few rows. Of so many, the rows of all heads lie within what prefetchers follow: steps
    // of 32 read more slowly.
    STEP = 16,
    // Positions of a block, with many rows: K of 128 values takes 32 KiB unpacked. A multiple of the columns that
    // attention/tile.h keeps in registers.
    BLOCK_POSITIONS = 64,
    // What any instruction set may have: rows that are computed at a time, rows that are added to fill tiles, floats in a
    // register.
    MOST_CHUNK_ROWS = 48,
    MOST_PADDING = 15,
    MOST_LANES = 16,
    // Of a float that is split into three bfloat16 numbers.
    SPLIT_BYTES = 6,
};

TMAC_INLINE int64_t at_most(int64_t most, int64_t value) { return value < most ? value : most; }
