// Ternary weights as indices of lookup tables: the nibble of a triple (weights/trit_blocks.h) is an index into a table of
// the 14 sums of its activations that v = 0 to 13 stand for; of a negative triple the sum is subtracted.
//
// Needs: BITS, TRITS and PRECISION (weights/planes.h). Gives: start_factor, for weights/groups.h; the sizes of tables.
#pragma once

#include "weights/trit_blocks.h"

_Static_assert(TMAC_TRIT_BLOCK == TMAC_TABLE_BLOCK, "a block has one float scale");

// Tables of a line: of rounded entries 64 bytes; TMAC_STEP_LINES lines share a step. An exact sum of three is 4 * high + low, within +-96
// and -2..1: the line's low parts, then its high ones. A block ends with an unused line.
enum {
    ENTRY_PARTS = IS_EXACT ? 2 : 1,
    LINE_ENTRIES = ENTRY_PARTS * LINE,
    BLOCK_ENTRIES = (TRIT_LINES + 1) * LINE_ENTRIES
};
// Lines whose sums are added in 16 bits where they are.
enum { SUM_LINES = 4, SUMS_OF_BLOCK = (TRIT_LINES + SUM_LINES - 1) / SUM_LINES };
// The largest magnitude of a lookup times its step.
enum { TOP_ENTRY = IS_EXACT ? 384 : 127 * TMAC_LARGEST_STEP };

// A lookup is the sum itself: nothing is left for the sum of the activations to add. The prepared sums are 0, or not
// finite if an activation is not, which this keeps.
TMAC_INLINE float start_factor(int grid) {
    (void) grid;
    return 0;
}

TMAC_INLINE const uint8_t * entries_of_block(const struct tmac_activations * x, int64_t table_group) {
    return x->entries + table_group / BLOCK_GROUPS * BLOCK_ENTRIES;
}

// The step of a line of the block that begins with a table group, in each of four bytes.
TMAC_INLINE uint32_t steps_of_line(const struct tmac_activations * x, int64_t table_group, int line) {
    return IS_EXACT ? 0x01010101u : x->steps[4 * table_group + line];
}

// Where the lines of a step of a block end, which share it.
TMAC_INLINE int lines_end(int step) { return (int) least(TRIT_LINES, (step + 1) * TMAC_STEP_LINES); }

// How often a part of an entry counts, in each of four bytes.
TMAC_INLINE uint32_t weight_of_part(uint32_t steps, int part) { return steps << (part ? 2 : 0); }

TMAC_INLINE int lines_of_sum(int i) { return i + 1 < SUMS_OF_BLOCK ? SUM_LINES : TRIT_LINES - i * SUM_LINES; }
