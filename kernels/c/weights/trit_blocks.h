// Where ternary weights lie. A block is 128 columns of a tile, 43 triples of columns (the last one has two). With
// t = -1, 0, +1 a triple is v = t0 + 3 t1 + 9 t2: a nibble is |v|, a bit says that v is negative.
//
// A block is 43 times 16 bytes of nibbles, byte r for rows r (low) and 16 + r (high), four triples a line; then for each
// line 16 bytes of signs: bit 7 - 2 l - h of byte r belongs to triple l of the line, row 16 h + r.
//
// Needs: BITS, TRITS and PRECISION (weights/planes.h). Gives: the sizes of blocks; in plain C the nibbles and signs.
#pragma once

#include "weights/planes.h"

#ifndef TRITS
#error "weights/trit_blocks.h: define TRITS before including"
#endif

enum { TRIPLES = TMAC_TRIPLES, LINE_TRIPLES = TMAC_LINE_TRIPLES };
enum { TRIT_LINES = (TRIPLES + LINE_TRIPLES - 1) / LINE_TRIPLES, BLOCK_BYTES = TMAC_TRIT_BLOCK_BYTES * TMAC_TILE_ROWS };
enum { UNIT = 16, SIGNS = TRIPLES * UNIT }; // bytes of a triple and of a line's signs; where the signs begin
_Static_assert(SIGNS + TRIT_LINES * UNIT == BLOCK_BYTES, "not a block of the layout");

// The nibble of triple n of a row in a block, and whether the triple is negative.
TMAC_INLINE int nibble_of_triple(const uint8_t * block, int n, int row) {
    const uint8_t pair = block[UNIT * n + row % 16];
    return row < 16 ? pair & 15 : pair >> 4;
}

TMAC_INLINE int is_negative(const uint8_t * block, int n, int row) {
    return block[SIGNS + n / LINE_TRIPLES * UNIT + row % 16] >> (7 - 2 * (n % LINE_TRIPLES) - row / 16) & 1;
}
