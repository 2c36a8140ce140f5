// Goes over tiles and blocks of columns: rows of ggml's blocks -> the regions of a T-MAC matrix.
#pragma once

#include "repack/blocks.h"
#include "repack/k_blocks.h"
#include "repack/tile.h"

// What is repacked: rows that follow one another without padding.
struct repacking {
    const uint8_t * from;
    uint8_t * to;
    int64_t rows, cols;
};

// The codes of a block; and its numbers, for a row.
typedef void (*codes_fn)(const uint8_t * block, uint8_t * codes);
typedef int (*scales_fn)(const uint8_t * block, uint8_t * scale, int64_t to_minimum);
// The same where `scales` is the scale block of all rows of the tile.
typedef int (*levels_fn)(const uint8_t * block, uint8_t * scales, int row);

// Blocks of one group each, in planes.
TMAC_INLINE int repack_groups(const struct repacking * of, int64_t first, int64_t last, int group, int block_bytes,
                              int bits, codes_fn codes_of, scales_fn scales_of) {
    const int64_t groups = of->cols / group, row_bytes = groups * block_bytes;
    uint8_t * const scales = of->to + of->rows * of->cols / 8 * bits;
    const int64_t to_minima = of->rows * groups * 2;
    int found = 0;
    for (int64_t tile = first; tile < last; tile++) {
        uint8_t * const planes = of->to + tile * TMAC_TILE_ROWS * of->cols / 8 * bits;
        for (int64_t col = 0; col < of->cols; col += STEP) {
            const int cols = (int) (of->cols - col < STEP ? of->cols - col : STEP);
            tile_masks masks;
            for (int row = 0; row < TMAC_TILE_ROWS; row++) {
                const uint8_t * block =
                    of->from + (tile * TMAC_TILE_ROWS + row) * row_bytes + col / group * block_bytes;
                uint8_t codes[STEP];
                for (int at = 0; at < cols; at += group, block += block_bytes) {
                    const int64_t number = 2 * (((tile * groups) + (col + at) / group) * TMAC_TILE_ROWS + row);
                    codes_of(block, codes + at);
                    found |= scales_of(block, scales + number, to_minima);
                }
                put_row(codes, cols, bits, row, masks);
            }
            put_planes(masks, cols, bits, planes + col / 8 * bits * TMAC_TILE_ROWS);
        }
    }
    return found;
}

// Blocks of STEP columns with scales of two levels, in planes. `scale_bytes` are those of a row in a scale block.
TMAC_INLINE int repack_levels(const struct repacking * of, int64_t first, int64_t last, int block_bytes, int bits,
                              int scale_bytes, codes_fn codes_of, levels_fn scales_of) {
    const int64_t blocks = of->cols / STEP;
    uint8_t * const all_scales = of->to + of->rows * of->cols / 8 * bits;
    int found = 0;
    for (int64_t tile = first; tile < last; tile++) {
        for (int64_t i = 0; i < blocks; i++) {
            uint8_t * const scales = all_scales + (tile * blocks + i) * TMAC_TILE_ROWS * scale_bytes;
            tile_masks masks;
            for (int row = 0; row < TMAC_TILE_ROWS; row++) {
                const uint8_t * block = of->from + ((tile * TMAC_TILE_ROWS + row) * blocks + i) * block_bytes;
                uint8_t codes[STEP];
                codes_of(block, codes);
                found |= scales_of(block, scales, row);
                put_row(codes, STEP, bits, row, masks);
            }
            put_planes(masks, STEP, bits, of->to + (tile * blocks + i) * (TMAC_TILE_ROWS * STEP / 8) * bits);
        }
    }
    return found;
}

// Ternary blocks of STEP columns, one group each.
TMAC_INLINE int repack_trits(const struct repacking * of, int64_t first, int64_t last, int block_bytes,
                             codes_fn codes_of, scales_fn scales_of) {
    const int64_t groups = of->cols / STEP;
    uint8_t * const scales = of->to + of->rows * (of->cols / TMAC_TRIT_BLOCK) * TMAC_TRIT_BLOCK_BYTES;
    int found = 0;
    for (int64_t tile = first; tile < last; tile++) {
        for (int64_t group = 0; group < groups; group++) {
            // Of all rows first: what was just written in small pieces cannot be read in large ones at once.
            uint8_t codes[TMAC_TILE_ROWS][STEP + 2];
            uint8_t all = 0;
            for (int row = 0; row < TMAC_TILE_ROWS; row++) {
                const uint8_t * block = of->from + ((tile * TMAC_TILE_ROWS + row) * groups + group) * block_bytes;
                codes_of(block, codes[row]);
                codes[row][STEP] = codes[row][STEP + 1] = 0;
                found |= scales_of(block, scales + 2 * ((tile * groups + group) * TMAC_TILE_ROWS + row), 0);
            }
            tile_triples triples[STEP / TMAC_TRIT_BLOCK];
            for (int row = 0; row < TMAC_TILE_ROWS; row++) {
                for (int j = 0; j < STEP; j++) {
                    all |= codes[row][j];
                }
                for (int half = 0; half < STEP / TMAC_TRIT_BLOCK; half++) {
                    put_triples(codes[row] + half * TMAC_TRIT_BLOCK, row, triples[half]);
                }
            }
            found |= all > 3 ? TMAC_REPACK_INEXACT : 0;
            const int64_t bytes = TMAC_TILE_ROWS * TMAC_TRIT_BLOCK_BYTES;
            for (int half = 0; half < STEP / TMAC_TRIT_BLOCK; half++) {
                uint8_t * const block = of->to + ((tile * groups + group) * (STEP / TMAC_TRIT_BLOCK) + half) * bytes;
                put_trits(triples[half], block);
            }
        }
    }
    return found;
}
