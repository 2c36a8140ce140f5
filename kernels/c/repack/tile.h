// Codes of rows -> what a tile has of them. The bytes do not depend on the instruction set.
//
// Needs, because compilers do not find the instructions for it,
//   void masks_of(const uint8_t * codes, int cols, int bits, uint16_t * masks, int stride): bit i of
//       masks[(plane * STEP_CHUNKS + chunk) * stride] is bit `plane` of the code of column 16 * chunk + i; cols % 32 == 0;
//   void put_line(const uint16_t * masks, uint8_t * line): the plane line of a chunk from the masks of its 32 rows.
#pragma once

#include "interface/tmac.h"

#include <string.h>

// Columns that are brought into the layout together: the largest block of a stock type.
enum { STEP = 256, STEP_CHUNKS = STEP / TMAC_CHUNK_COLS, MOST_BITS = 6 };

// The bits of chunks of all rows of a tile.
typedef uint16_t tile_masks[MOST_BITS][STEP_CHUNKS][TMAC_TILE_ROWS];

TMAC_INLINE void masks_of(const uint8_t * codes, int cols, int bits, uint16_t * masks, int stride);
TMAC_INLINE void put_line(const uint16_t * masks, uint8_t * line);

TMAC_INLINE void put_row(const uint8_t * codes, int cols, int bits, int row, tile_masks masks) {
    masks_of(codes, cols, bits, &masks[0][0][row], TMAC_TILE_ROWS);
}

// The plane lines of `cols` columns of a tile.
TMAC_INLINE void put_planes(tile_masks masks, int cols, int bits, uint8_t * lines) {
    for (int chunk = 0; chunk < cols / TMAC_CHUNK_COLS; chunk++) {
        for (int plane = 0; plane < bits; plane++) {
            put_line(masks[plane][chunk], lines + (chunk * bits + plane) * TMAC_LINE_BYTES);
        }
    }
}

// The triples of a block of ternary weights, from -13 to 13, of all rows of a tile.
typedef int8_t tile_triples[TMAC_TRIPLES][TMAC_TILE_ROWS];

// Of TMAC_TRIT_BLOCK codes, which are 1, 2 and 3, and which two more bytes follow.
TMAC_INLINE void put_triples(const uint8_t * codes, int row, tile_triples triples) {
    int8_t values[TMAC_TRIT_BLOCK];
    for (int col = 0; col < TMAC_TRIT_BLOCK; col++) {
        values[col] = (int8_t) (codes[col] + 3 * codes[col + 1] + 9 * codes[col + 2] - 26);
    }
    for (int triple = 0; triple < TMAC_TRIPLES - 1; triple++) {
        triples[triple][row] = values[3 * triple];
    }
    // The last one has two columns.
    const uint8_t * const last = codes + 3 * (TMAC_TRIPLES - 1);
    triples[TMAC_TRIPLES - 1][row] = (int8_t) (last[0] + 3 * last[1] - 8);
}

TMAC_INLINE void put_trits(tile_triples triples, uint8_t * block) {
    uint8_t * const signs = block + 16 * TMAC_TRIPLES;
    memset(signs, 0, TMAC_TILE_ROWS * TMAC_TRIT_BLOCK_BYTES - 16 * TMAC_TRIPLES);
    for (int triple = 0; triple < TMAC_TRIPLES; triple++) {
        const int8_t * const low = triples[triple];
        const int8_t * const high = triples[triple] + 16;
        uint8_t * const line = signs + 16 * (triple / TMAC_LINE_TRIPLES);
        const int shift = 2 * (triple % TMAC_LINE_TRIPLES);
        for (int r = 0; r < 16; r++) {
            const uint8_t magnitude = (uint8_t) (low[r] < 0 ? -low[r] : low[r]);
            const uint8_t magnitude_high = (uint8_t) (high[r] < 0 ? -high[r] : high[r]);
            block[16 * triple + r] = (uint8_t) (magnitude | magnitude_high << 4);
            line[r] |= (uint8_t) (((uint8_t) low[r] & 0x80) >> shift | ((uint8_t) high[r] & 0x80) >> (shift + 1));
        }
    }
}
