// The walk of every GEMM kernel but the scalar ones over a matrix and its tokens, from the outside to the inside:
//
//   blocks of tiles     TILE_BLOCK_BYTES of planes, which stay in the second-level cache while all tokens go by: 256 KiB
//                       to 2 MiB (tables with AVX-512 VBMI); of int8 and AMX, which unpack, all tiles are one block
//   blocks of tokens    at most BLOCK_TOKENS, whose sums are in the first-level cache or near it
//   slabs of columns    SLAB_COLUMNS (not defined: the whole row), whose activations stay in the second-level cache while
//                       the block's tiles go by
//   steps of tiles      up to STEP_UNITS units of UNIT_TILES tiles; sums start at `start` or as the slab before left them
//   ranges of columns   add_range unpacks their weights once and multiplies them by all tokens of the block
//
// A unit's sums for a token are UNIT_ROWS floats. A template may keep other rows or other bits in them: it says so by
// put_rows and get_rows. gemm/plain_rows.h has those of sums in the order of rows.
//
// Needs before it: an instruction set's vocabulary (isa/); weights/codes.h or weights/lookup.h; the numbers in capitals
// above and TOKEN_STEP, of which all blocks of tokens but the last are multiples; `struct scratch`, what the template
// keeps while it multiplies. May be defined: STREAM_BYTES and stream_floats, if so many bytes of results are written past
// the caches; PREFETCHES_RESULTS, if the lines of a step's results are asked for before; NO_SUMS, if activations have no
// sums. Needs after it: the functions that are declared below without a body.
// Gives: gemm, which the kernels call.
#pragma once

#include "weights/groups.h"

#if !defined(BLOCK_TOKENS) || !defined(TOKEN_STEP) || !defined(UNIT_TILES) || !defined(STEP_UNITS)
#error "gemm/frame.h: define BLOCK_TOKENS, TOKEN_STEP, UNIT_TILES and STEP_UNITS before including"
#endif
#ifndef TILE_BLOCK_BYTES
#error "gemm/frame.h: define TILE_BLOCK_BYTES before including"
#endif

_Static_assert(BLOCK_TOKENS % TOKEN_STEP == 0, "a block would be larger than its sums");

enum { UNIT_ROWS = UNIT_TILES * TMAC_TILE_ROWS, UNIT_VECTORS = UNIT_ROWS / FLOATS };

struct block {
    const struct tmac_matrix * w;
    const struct tmac_activations * x;
    float * const * y;
    int tokens;
    int is_streamed;
    float start[BLOCK_TOKENS]; // of each token: what the sums of a group that is the whole row start with
};

// `count` table groups from `first` on of `tiles` tiles from `tile` on.
struct range {
    int64_t tile, first;
    int tiles, count;
};

typedef float unit_sums[BLOCK_TOKENS][UNIT_ROWS];

// Tiles of a step, at most UNIT_TILES * STEP_UNITS.
TMAC_INLINE int step_tiles(const struct block * block);

// Columns of a range, at most; multiples of the weight group, which is not divided.
TMAC_INLINE int range_columns(int group, const struct block * block);

#ifdef SLAB_COLUMNS
// What is done once for columns [first, last) of a block, and undone.
TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch);
TMAC_INLINE void end_slab(struct scratch * scratch);
#else
#define SLAB_COLUMNS (INT64_MAX / 2) // the whole row, for which nothing is done once
TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    (void) group, (void) grid, (void) block, (void) first, (void) last, (void) scratch;
}
TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }
#endif

// sums[unit][token] += the products of a range.
TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums);

// Between the rows of a unit, in order, and a token's sums.
TMAC_INLINE void put_rows(const int group, const floats rows[UNIT_VECTORS], float * sums);
TMAC_INLINE void get_rows(const int group, const float * sums, floats rows[UNIT_VECTORS]);

#ifdef PREFETCHES_RESULTS
// Of the next step. A column of results has a line for each token, far apart, and these lie in the same cache sets.
TMAC_INLINE void prefetch_results(const float * y) {
    for (int i = 0; i < UNIT_ROWS; i += LINE / (int) sizeof(float)) {
        __builtin_prefetch(y + i, 1, 2);
    }
}
#endif

TMAC_INLINE void start_sums(const int group, const struct block * block, const struct range * step, int is_first,
                            unit_sums * sums) {
    for (int u = 0; u * UNIT_TILES < step->tiles; u++) {
        for (int t = 0; t < block->tokens; t++) {
            const float * y = block->y[t] + (step->tile + u * UNIT_TILES) * TMAC_TILE_ROWS;
            const int stored = is_first ? 0 : (step->tiles - u * UNIT_TILES) * TMAC_TILE_ROWS;
            floats rows[UNIT_VECTORS];
#ifdef PREFETCHES_RESULTS
            prefetch_results(y + step->tiles * TMAC_TILE_ROWS);
#endif
            for (int v = 0; v < UNIT_VECTORS; v++) {
                rows[v] = v * FLOATS < stored ? load_floats(y + v * FLOATS) : broadcast(block->start[t]);
            }
            put_rows(group, rows, sums[u][t]);
        }
    }
}

TMAC_INLINE void store_result(const struct block * block, float * y, floats value) {
#ifdef STREAM_BYTES
    if (block->is_streamed) {
        stream_floats(y, value);
        return;
    }
#endif
    (void) block;
    store_floats(y, value);
}

TMAC_INLINE void store_sums(const int group, const struct block * block, const struct range * step, int is_last,
                            unit_sums * sums) {
    for (int u = 0; u * UNIT_TILES < step->tiles; u++) {
        for (int t = 0; t < block->tokens; t++) {
            float * y = block->y[t] + (step->tile + u * UNIT_TILES) * TMAC_TILE_ROWS;
            const floats scale = broadcast(IS_EXACT && is_last ? *block->x[t].output_scale : 1);
            floats rows[UNIT_VECTORS];
            get_rows(group, sums[u][t], rows);
            for (int v = 0; v < UNIT_VECTORS && v * FLOATS < (step->tiles - u * UNIT_TILES) * TMAC_TILE_ROWS; v++) {
                if (IS_EXACT) {
                    rows[v] *= scale;
                }
                store_result(block, y + v * FLOATS, rows[v]);
            }
        }
    }
}

TMAC_INLINE void multiply_block(const int group, const int grid, const struct block * block, int64_t first_tile,
                                int64_t last_tile) {
    const int64_t cols = block->w->cols, columns = range_columns(group, block), tiles = step_tiles(block);
    struct scratch scratch;
    unit_sums sums[STEP_UNITS] __attribute__((aligned(64)));
    for (int64_t slab = 0; slab < cols; slab += SLAB_COLUMNS) {
        const int64_t end = least(cols, slab + SLAB_COLUMNS);
        begin_slab(group, grid, block, slab, end, &scratch);
        for (int64_t tile = first_tile; tile < last_tile; tile += tiles) {
            struct range range = { .tile = tile, .tiles = (int) least(tiles, last_tile - tile) };
            start_sums(group, block, &range, slab == 0, sums);
            for (int64_t k = slab; k < end; k += columns) {
                range.first = k / TMAC_TABLE_GROUP;
                range.count = (int) (least(columns, end - k) / TMAC_TABLE_GROUP);
                add_range(group, grid, block, &range, &scratch, sums);
            }
            store_sums(group, block, &range, end == cols, sums);
        }
        end_slab(&scratch);
    }
}

// Results that are written once, in whole lines, and are more than the caches hold beside the activations, go past
// them.
TMAC_INLINE int are_streamed(const struct tmac_matrix * w, float * const * y, int64_t tokens) {
#ifdef STREAM_BYTES
    uintptr_t bits = 0;
    for (int64_t t = 0; t < tokens; t++) {
        bits |= (uintptr_t) y[t];
    }
    return tokens * w->rows * (int64_t) sizeof(float) >= STREAM_BYTES && w->cols <= SLAB_COLUMNS && bits % LINE == 0;
#else
    (void) w, (void) y, (void) tokens;
    return 0;
#endif
}

TMAC_INLINE void gemm(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    const int64_t fitting = TILE_BLOCK_BYTES / tile_bytes(w) / (UNIT_TILES * STEP_UNITS);
    const int64_t tile_block = (fitting ? fitting : 1) * UNIT_TILES * STEP_UNITS;
    const int64_t token_steps = (tokens + TOKEN_STEP - 1) / TOKEN_STEP;
    const int64_t blocks = (token_steps * TOKEN_STEP + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const int is_streamed = are_streamed(w, y, tokens);
    for (int64_t tile = first_tile; tile < last_tile; tile += tile_block) {
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = token_steps * b / blocks * TOKEN_STEP;
            const int64_t last = least(tokens, token_steps * (b + 1) / blocks * TOKEN_STEP);
            struct block block = { w, x + first, y + first, (int) (last - first), is_streamed, { 0 } };
#ifndef NO_SUMS
            for (int t = 0; !group && t < block.tokens; t++) {
                block.start[t] = start_of(grid, sum_of(block.x[t].sum, 0, w->cols / TMAC_TABLE_GROUP));
            }
#endif
            multiply_block(group, grid, &block, tile, least(last_tile, tile + tile_block));
        }
    }
}
