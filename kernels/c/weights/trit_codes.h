// Ternary weights as codes, 1, 2 and 3 for -1, 0 and +1: what the kernels share that unpack them. A table of 16 entries
// gives the three codes of a nibble, two bits each; another one those of the negative triple.
//
// Needs: BITS, TRITS and PRECISION (weights/planes.h). Gives: the sizes of quads, triple_codes, code_at.
#pragma once

#include "weights/trit_blocks.h"

// Quads of columns in a line, but the last one of a block has two, and in a block.
enum { LINE_QUADS = LINE_TRIPLES * 3 / 4, BLOCK_QUADS = TMAC_TRIT_BLOCK / 4 };

TMAC_INLINE int quads_of_line(int line) { return line + 1 < TRIT_LINES ? LINE_QUADS : BLOCK_QUADS - line * LINE_QUADS; }

// The remainder of the division by 3 that is nearest to 0, and the quotient that belongs to it; v >= -13.
#define TRIT_OF(v) (((v) + 16) % 3 - 1)
#define REST_OF(v) (((v) - TRIT_OF(v)) / 3)
#define TRIPLE_CODES(v) ((TRIT_OF(v) + 2) | (TRIT_OF(REST_OF(v)) + 2) << 2 | (TRIT_OF(REST_OF(REST_OF(v))) + 2) << 4)
#define ALL_TRIPLE_CODES(sign)                                                                                         \
    { TRIPLE_CODES(0),         TRIPLE_CODES(sign * 1),  TRIPLE_CODES(sign * 2),  TRIPLE_CODES(sign * 3),               \
      TRIPLE_CODES(sign * 4),  TRIPLE_CODES(sign * 5),  TRIPLE_CODES(sign * 6),  TRIPLE_CODES(sign * 7),               \
      TRIPLE_CODES(sign * 8),  TRIPLE_CODES(sign * 9),  TRIPLE_CODES(sign * 10), TRIPLE_CODES(sign * 11),              \
      TRIPLE_CODES(sign * 12), TRIPLE_CODES(sign * 13), TRIPLE_CODES(0),         TRIPLE_CODES(0) }
// [is negative][nibble]
static const uint8_t triple_codes[2][16] = { ALL_TRIPLE_CODES(1), ALL_TRIPLE_CODES(-1) };

// In plain C: the code of a column of a row, in the tile whose blocks begin at `blocks`.
TMAC_INLINE int code_at(const uint8_t * blocks, int64_t column, int row) {
    const uint8_t * block = blocks + column / TMAC_TRIT_BLOCK * BLOCK_BYTES;
    const int at = (int) (column % TMAC_TRIT_BLOCK), n = at / 3;
    return triple_codes[is_negative(block, n, row)][nibble_of_triple(block, n, row)] >> 2 * (at % 3) & 3;
}
