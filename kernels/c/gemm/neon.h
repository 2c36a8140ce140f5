// What the GEMM kernels of NEON share: a range of one tile after the other is unpacked in first-level cache, and four,
// two or one tokens at a time are multiplied by it.
//
// Needs before it: isa/neon.h; weights/codes.h or weights/lookup.h; BLOCK_TOKENS, STEP_UNITS and RANGE_COLUMNS
// (gemm/frame.h); CODE_BYTES, what the codes of a range unpack to. Needs after it: unpack and multiply. Gives: gemm.
#pragma once

#if !defined(RANGE_COLUMNS) || !defined(CODE_BYTES)
#error "gemm/neon.h: define RANGE_COLUMNS and CODE_BYTES before including"
#endif

#define TOKEN_STEP 4
#define UNIT_TILES 1
// No arm64 machine was at hand to measure what the larger caches hold: they are left to the hardware.
#define TILE_BLOCK_BYTES (INT64_MAX / 2)
#include "gemm/range_groups.h"

struct scratch {
    uint8_t codes[CODE_BYTES] __attribute__((aligned(64)));
    struct tile_factors factors;
};

#include "gemm/plain_rows.h"

typedef float token_rows[UNIT_ROWS];

// The codes of `count` table groups, whose lines begin at `lines`, in the order in which `multiply` takes them.
SHARED void unpack(const uint8_t * lines, int count, uint8_t * codes);

// out[token][row] += the products of a range with 4, 2 or 1 tokens.
TMAC_INLINE void multiply(const int tokens, int group, int grid, const struct range * range,
                          const struct scratch * scratch, const struct tmac_activations * x, token_rows * out);

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return STEP_UNITS;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    (void) group, (void) block;
    return RANGE_COLUMNS;
}

// Adds what rows from `row` on of weight group g have added up to to their results.
TMAC_INLINE void finish_rows(int group, int grid, const struct scratch * scratch, int g, int row, int rows,
                             float per_offset, const floats * part, float * out) {
    for (int i = 0; i < rows / FLOATS; i++) {
        const struct factors factors = factors_of_row(&scratch->factors, g, row + FLOATS * i);
        float * to = out + row + FLOATS * i;
        store_floats(to, finish_group(group, grid, factors, per_offset, part[i], load_floats(to)));
    }
}

// GCC would make a copy for each type; that of int8 with 4 bits would keep twice as much on the stack.
#ifdef __clang__
#define ONE_COPY SHARED
#else
#define ONE_COPY SHARED __attribute__((noclone))
#endif
#define MULTIPLY(tokens)                                                                                               \
    ONE_COPY void multiply_##tokens(int group, int grid, const struct range * range, const struct scratch * scratch,   \
                                    const struct tmac_activations * x, token_rows * out) {                             \
        multiply(tokens, group, grid, range, scratch, x, out);                                                         \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(4)

// For the next range, which is unpacked when all tokens have been multiplied by this one.
TMAC_INLINE void prefetch_range(const uint8_t * lines) {
    for (int64_t i = 0; i < code_bytes(RANGE_COLUMNS); i += LINE) {
        prefetch(lines + i);
    }
}

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const struct tmac_matrix * w = block->w;
    for (int u = 0; u < range->tiles; u++) {
        const int64_t tile = range->tile + u;
        unpack(lines_at(w, tile, range->first), range->count, scratch->codes);
        load_tile_factors(group, grid, w, tile, range->first, range->count, &scratch->factors);
        prefetch_range(u + 1 < range->tiles
                           ? lines_at(w, tile + 1, range->first)
                           : lines_at(w, range->tile, range->first + RANGE_COLUMNS / TMAC_TABLE_GROUP));
        for (int t = 0; t < block->tokens;) {
            const int rest = block->tokens - t;
            if (rest >= 4) {
                multiply_4(group, grid, range, scratch, block->x + t, sums[u] + t);
            } else if (rest >= 2) {
                multiply_2(group, grid, range, scratch, block->x + t, sums[u] + t);
            } else {
                multiply_1(group, grid, range, scratch, block->x + t, sums[u] + t);
            }
            t += rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
        }
    }
}
