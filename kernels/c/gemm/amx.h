// What the GEMM kernels of AMX add to gemm/frame.h: tiles, unpacking a range of weights on the way, and streams of
// results.
//
// Needs before it: COLUMN_BYTES of an activation; multiply_tiles, an instruction, and load_activations, one of two.
// Needs after it: what gemm/amx_block.h needs and the functions on sums that are declared below. Gives: gemm.
#pragma once

#if !defined(COLUMN_BYTES) || !defined(multiply_tiles) || !defined(load_activations)
#error "gemm/amx.h: define COLUMN_BYTES, multiply_tiles and load_activations before including"
#endif

#include "gemm/amx_block.h"

// Tokens whose activations of a slab stay in the second-level cache while all row tiles go by.
#define BLOCK_TOKENS 128
#define TOKEN_STEP 1
#define UNIT_TILES 1
#define STEP_UNITS 1
#define TILE_BLOCK_BYTES (INT64_MAX / 2) // all: a block of tokens takes each tile's weights from memory once
#define SLAB_COLUMNS (8192 / COLUMN_BYTES)
#define STREAM_BYTES (1 << 20)
TMAC_INLINE void stream_floats(float * to, floats values) { _mm512_stream_ps(to, values); }

enum { STEPS = 8 };

struct scratch {
    struct unpacker unpacker;
    struct tile_config before; // the caller's
    int64_t distance;
    int half; // tokens in a tile
};

#include "gemm/frame.h"

// Columns that are multiplied at a time.
TMAC_INLINE int step_columns(int group, int64_t cols);

// Adds the products of columns of a tile with a part of the tokens. `is_first` part of them: it unpacks the weights.
TMAC_INLINE void add_columns(const int is_first, const int group, const int grid, const struct columns * columns,
                             const struct token_part * part, uint8_t * weights, float * sums);

// Between floats and what tiles add up.
TMAC_INLINE floats sums_of_floats(int group, floats values);
TMAC_INLINE floats floats_of_sums(int group, floats sums);

TMAC_INLINE void put_rows(const int group, const floats rows[UNIT_VECTORS], float * sums) {
    floats halves[2] = { rows[0], rows[1] };
    swap_rows(halves);
    store_floats(sums, sums_of_floats(group, halves[0]));
    store_floats(sums + FLOATS, sums_of_floats(group, halves[1]));
}

TMAC_INLINE void get_rows(const int group, const float * sums, floats rows[UNIT_VECTORS]) {
    rows[0] = floats_of_sums(group, load_floats(sums));
    rows[1] = floats_of_sums(group, load_floats(sums + FLOATS));
    swap_rows(rows);
}

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return 1;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    return STEPS * step_columns(group, block->w->cols);
}

static int64_t distance_of(const struct tmac_activations * x, int tokens) {
    const int64_t distance = tokens > 1 ? x[1].entries - x[0].entries : LINE;
    for (int t = 2; t < tokens; t++) {
        if (x[t].entries - x[t - 1].entries != distance) {
            return 0;
        }
    }
    return distance;
}

TMAC_INLINE int parts_of(int tokens) { return (tokens + PART_TOKENS - 1) / PART_TOKENS; }

TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    const int parts = parts_of(block->tokens), most = (block->tokens + parts - 1) / parts;
    scratch->unpacker = make_unpacker(grid);
    scratch->distance = distance_of(block->x, block->tokens);
    scratch->half = most > TILE_TOKENS ? (most + 1) / 2 : most;
    scratch->before = tile_config_now();
    configure_tiles(scratch->half, step_columns(group, block->w->cols) * COLUMN_BYTES);
    (void) first, (void) last;
}

TMAC_INLINE void end_slab(struct scratch * scratch) {
    load_tile_config(&scratch->before);
    _mm_sfence(); // streamed results are there when the caller says so
}

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int parts = parts_of(block->tokens);
    const int64_t first = range->first * TMAC_TABLE_GROUP, last = first + range->count * TMAC_TABLE_GROUP;
    const int step = step_columns(group, block->w->cols); // of some types a constant
    const struct columns columns = { block->w, &scratch->unpacker, range->tile, first, last, step };
    _Alignas(LINE)
        uint8_t weights[STEPS * STEP_WEIGHTS]; // not in `scratch`: stores to it would seem to change the unpacker
    for (int p = 0; p < parts; p++) {
        const int token = block->tokens * p / parts, tokens = block->tokens * (p + 1) / parts - token;
        const struct token_part part = { block->x + token, scratch->distance, tokens, scratch->half };
        if (p == 0) {
            add_columns(1, group, grid, &columns, &part, weights, sums[0][token]);
        } else {
            add_columns(0, group, grid, &columns, &part, weights, sums[0][token]);
        }
    }
}
