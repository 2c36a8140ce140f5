// Products of up to 32 tokens and the weights of a row tile, which lie unpacked in first-level cache: for each step, as
// many columns as a tile's row holds, a tile for each half h of the rows, which are 8h.. and 16+8h...
//
// Needs before it: COLUMN_BYTES, multiply_tiles and load_activations (gemm/amx.h). Needs after it: `struct unpacker`
// and unpack_step. Gives: multiply.
#pragma once

#if !defined(COLUMN_BYTES) || !defined(multiply_tiles) || !defined(load_activations)
#error "gemm/amx_block.h: define COLUMN_BYTES, multiply_tiles and load_activations before including"
#endif

#include "gemm/amx_codes.h"

#include <string.h>

enum { PART_TOKENS = 2 * TILE_TOKENS, PART_SUMS = PART_TOKENS * TMAC_TILE_ROWS };
enum { STEP_WEIGHTS = 2 * TILE_BYTES, SUMS_STRIDE = TMAC_TILE_ROWS * sizeof(float) };

// Two halves of `half` tokens, which overlap where `tokens` are fewer, or a single half.
struct token_part {
    const struct tmac_activations * x;
    int64_t distance; // bytes between the entries of neighbouring tokens; 0: they lie anywhere
    int tokens, half;
};

SHARED void gather_tokens(const struct tmac_activations * x, int tokens, int64_t at, int bytes, uint8_t * to) {
    for (int t = 0; t < tokens; t++) {
        memcpy(to + t * LINE, x[t].entries + at, (size_t) bytes);
    }
}

#define LOAD_TOKENS(tile, part, token, at, bytes, buffer)                                                              \
    do {                                                                                                               \
        if ((part)->distance) {                                                                                        \
            load_activations(tile, (part)->x[token].entries + (at), (part)->distance);                                 \
        } else {                                                                                                       \
            gather_tokens((part)->x + (token), (part)->half, at, bytes, buffer);                                       \
            finish_stores();                                                                                           \
            _tile_loadd(tile, buffer, LINE);                                                                           \
        }                                                                                                              \
    } while (0)

// Unpacks a step's columns from `column` on: a tile for each half of the rows.
TMAC_INLINE void unpack_step(const int group, const int grid, const struct columns * columns, int64_t column,
                             uint8_t * to);

// Adds the products to sums[token][half of the rows][16]. `is_first` part of the tokens: it unpacks the weights on the
// way, a step ahead of the products, which take other units of the CPU.
TMAC_INLINE void multiply_halves(const int halves, const int is_first, const int group, const int grid,
                                 const struct columns * columns, const struct token_part * part, uint8_t * weights,
                                 float * sums) {
    const int second = part->tokens - part->half, step_bytes = columns->step * COLUMN_BYTES;
    float * there = sums + second * TMAC_TILE_ROWS;
    _Alignas(LINE) uint8_t buffer[TILE_BYTES];
    if (is_first) {
        unpack_step(group, grid, columns, columns->first, weights);
    }
    finish_stores();
    _tile_loadd(0, sums, SUMS_STRIDE);
    _tile_loadd(1, sums + FLOATS, SUMS_STRIDE);
    if (halves == 2) {
        _tile_loadd(2, there, SUMS_STRIDE);
        _tile_loadd(3, there + FLOATS, SUMS_STRIDE);
    }
    for (int64_t k = columns->first; k < columns->last; k += columns->step, weights += STEP_WEIGHTS) {
        if (is_first && k + columns->step < columns->last) {
            unpack_step(group, grid, columns, k + columns->step, weights + STEP_WEIGHTS);
            finish_stores();
        }
        LOAD_TOKENS(4, part, 0, k * COLUMN_BYTES, step_bytes, buffer);
        _tile_loadd(6, weights, LINE);
        multiply_tiles(0, 4, 6);
        _tile_loadd(7, weights + TILE_BYTES, LINE);
        multiply_tiles(1, 4, 7);
        if (halves == 2) {
            LOAD_TOKENS(5, part, second, k * COLUMN_BYTES, step_bytes, buffer);
            multiply_tiles(2, 5, 6);
            multiply_tiles(3, 5, 7);
        }
    }
    _tile_stored(0, sums, SUMS_STRIDE);
    _tile_stored(1, sums + FLOATS, SUMS_STRIDE);
    if (halves == 2) {
        _tile_stored(2, there, SUMS_STRIDE);
        _tile_stored(3, there + FLOATS, SUMS_STRIDE);
    }
    finish_stores();
}

SHARED void multiply_unpacked(const struct columns * columns, const struct token_part * part, uint8_t * weights,
                              float * sums) {
    if (part->tokens > part->half) {
        multiply_halves(2, 0, 0, 0, columns, part, weights, sums);
    } else {
        multiply_halves(1, 0, 0, 0, columns, part, weights, sums);
    }
}

TMAC_INLINE void multiply(const int is_first, const int group, const int grid, const struct columns * columns,
                          const struct token_part * part, uint8_t * weights, float * sums) {
    if (!is_first) {
        multiply_unpacked(columns, part, weights, sums);
    } else if (part->tokens > part->half) {
        multiply_halves(2, 1, group, grid, columns, part, weights, sums);
    } else {
        multiply_halves(1, 1, group, grid, columns, part, weights, sums);
    }
}

// Between the order of rows and that of the halves: lanes 0..7 of both, and lanes 8..15 of both. Its own inverse.
TMAC_INLINE void swap_rows(floats rows[2]) {
    const floats first = _mm512_shuffle_f32x4(rows[0], rows[1], 0x44);
    rows[1] = _mm512_shuffle_f32x4(rows[0], rows[1], 0xEE);
    rows[0] = first;
}
