// Where the bits of a code lie in memory: planes, lines and tiles of the layout (docs/format.md). Included by every
// kernel.
//
// Needs: BITS per code, and PRECISION, one of `enum tmac_precision`; the generator defines both. It defines TRITS too if
// the weights are ternary: their blocks of 128 columns (weights/trit_blocks.h) take the place of lines of planes.
#pragma once

#include "interface/catalog.h"

#ifndef BITS
#error "weights/planes.h: define BITS before including"
#endif
#ifndef PRECISION
#error "weights/planes.h: define PRECISION before including"
#endif
_Static_assert(BITS >= 1 && BITS <= 6, "not a bit width of the layout");

enum { IS_EXACT = PRECISION == TMAC_EXACT, IS_FAST = PRECISION == TMAC_FAST };
// LINE: bytes of a plane line, 16 columns of a tile's 32 rows. CHUNKS: lines of each plane in a table group.
enum { TOP_CODE = (1 << BITS) - 1, LINE = TMAC_LINE_BYTES, CHUNKS = TMAC_TABLE_GROUP / TMAC_CHUNK_COLS };
enum { BLOCK_GROUPS = TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP };

// SHARED: a function that is compiled once for all types of a file. kernels/analyze.py wants each kernel in one piece
// instead, and reads the cycles of what lies between REGION_BEGIN and REGION_END, which must not branch.
#ifdef TMAC_ANALYSIS
#define SHARED TMAC_INLINE
#define REGION_BEGIN(name, number) __asm__ volatile("# LLVM-MCA-BEGIN " name " %c0" ::"i"(number) : "memory")
#define REGION_END() __asm__ volatile("# LLVM-MCA-END" ::: "memory")
#else
#define SHARED static __attribute__((noinline))
#define REGION_BEGIN(name, number) ((void) 0)
#define REGION_END() ((void) 0)
#endif

// Of `enum tmac_grid`: stored minima; scales of two levels; stored zero-points or minima.
TMAC_INLINE int has_minima(int grid) { return grid == TMAC_GRID_MINIMA || grid == TMAC_GRID_LEVELS_MINIMA; }
TMAC_INLINE int has_levels(int grid) { return grid == TMAC_GRID_LEVELS || grid == TMAC_GRID_LEVELS_MINIMA; }
TMAC_INLINE int has_offsets(int grid) { return grid == TMAC_GRID_ZEROS || has_minima(grid); }

TMAC_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Bytes of a tile's codes of so many columns; of ternary ones whole blocks of them.
TMAC_INLINE int64_t code_bytes(int64_t cols) {
#ifdef TRITS
    return cols / TMAC_TRIT_BLOCK * TMAC_TRIT_BLOCK_BYTES * TMAC_TILE_ROWS;
#else
    return cols / TMAC_CHUNK_COLS * BITS * LINE;
#endif
}

TMAC_INLINE int64_t tile_bytes(const struct tmac_matrix * w) { return code_bytes(w->cols); }

// The codes of a tile from a table group on: of 16 columns the lines of all planes, then of the next 16; or blocks of
// ternary ones, from the first of a block's table groups on.
TMAC_INLINE const uint8_t * lines_at(const struct tmac_matrix * w, int64_t tile, int64_t table_group) {
    return w->planes + tile * tile_bytes(w) + code_bytes(table_group * TMAC_TABLE_GROUP);
}
