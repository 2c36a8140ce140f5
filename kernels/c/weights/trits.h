// Ternary weights as indices of lookup tables. A block is 128 columns of a tile, 43 triples of columns (the last one has
// two). With t = -1, 0, +1 a triple is v = t0 + 3 t1 + 9 t2: the nibble |v| is an index into a table of the 14 sums of its
// activations with these signs, and a bit says that the sum is subtracted.
//
// A block is 43 times 16 bytes of nibbles, byte r for rows r (low) and 16 + r (high), four triples a line; then for each
// line 16 bytes of signs: bit 7 - 2 l - h of byte r belongs to triple l of the line, row 16 h + r.
//
// Needs: BITS and PRECISION (weights/planes.h), TRITS. Gives: start_factor, for weights/groups.h; the sizes of blocks and
// tables.
#pragma once

#include "weights/planes.h"

#ifndef TRITS
#error "weights/trits.h: define TRITS before including"
#endif

enum { TRIPLES = TMAC_TRIPLES, LINE_TRIPLES = TMAC_LINE_TRIPLES };
enum { TRIT_LINES = (TRIPLES + LINE_TRIPLES - 1) / LINE_TRIPLES, BLOCK_BYTES = TMAC_TRIT_BLOCK_BYTES * TMAC_TILE_ROWS };
enum { UNIT = 16, SIGNS = TRIPLES * UNIT }; // bytes of a triple and of a line's signs; where the signs begin
_Static_assert(SIGNS + TRIT_LINES * UNIT == BLOCK_BYTES, "not a block of the layout");
_Static_assert(TMAC_TRIT_BLOCK == TMAC_TABLE_BLOCK, "a block has one float scale");

// Tables of a line: of rounded entries 64 bytes. An exact sum of three is 4 * high + low, within +-96 and -2..1: the
// line's low parts, then its high ones. The tables of a step are those of four lines; a block ends with an unused line.
enum { ENTRY_PARTS = IS_EXACT ? 2 : 1, LINE_ENTRIES = ENTRY_PARTS * LINE, STEP_LINES = 4 };
enum { STEPS_OF_BLOCK = (TRIT_LINES + STEP_LINES - 1) / STEP_LINES, BLOCK_ENTRIES = (TRIT_LINES + 1) * LINE_ENTRIES };

// A lookup is the sum itself: nothing is left for the sum of the activations to add. The prepared sums are 0, or not
// finite if an activation is not, which this keeps.
TMAC_INLINE float start_factor(int has_zeros) {
    (void) has_zeros;
    return 0;
}

TMAC_INLINE const uint8_t * entries_of_block(const struct tmac_activations * x, int64_t table_group) {
    return x->entries + table_group / BLOCK_GROUPS * BLOCK_ENTRIES;
}

// The step of lines 4 i.. of the block that begins with a table group, in each of four bytes.
TMAC_INLINE uint32_t steps_of_lines(const struct tmac_activations * x, int64_t table_group, int i) {
    return x->steps[4 * (table_group + i)];
}

// How often a part of an entry counts, in each of four bytes.
TMAC_INLINE uint32_t weight_of_part(uint32_t steps, int part) { return IS_EXACT ? part ? 0x04040404u : 0x01010101u : steps; }

TMAC_INLINE int lines_of_step(int i) { return i + 1 < STEPS_OF_BLOCK ? STEP_LINES : TRIT_LINES - i * STEP_LINES; }

// In plain C: the index of triple n of a row in a block, and whether its sum is subtracted.
TMAC_INLINE int index_of_triple(const uint8_t * block, int n, int row) {
    const uint8_t pair = block[UNIT * n + row % 16];
    return row < 16 ? pair & 15 : pair >> 4;
}

TMAC_INLINE int is_negative(const uint8_t * block, int n, int row) {
    return block[SIGNS + n / LINE_TRIPLES * UNIT + row % 16] >> (7 - 2 * (n % LINE_TRIPLES) - row / 16) & 1;
}
