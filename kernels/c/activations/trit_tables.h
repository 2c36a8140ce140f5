// Where the tables of ternary weights lie that a GEMM takes, behind those of a GEMV. Of a block of 128 columns: its tables,
// entries + 128, so that they are unsigned; and in the line behind them all other numbers of the block, in 32 bits each.
#pragma once

#include "interface/tmac.h"

enum { TRIT_TABLE_LINES = (TMAC_TRIPLES + TMAC_LINE_TRIPLES - 1) / TMAC_LINE_TRIPLES };
enum { TRIT_TABLE_BYTES = (TRIT_TABLE_LINES + 1) * TMAC_LINE_BYTES };
// Steps, each shared by TMAC_STEP_LINES lines, and of a block where they are, in bytes.
enum { TRIT_STEPS = (TRIT_TABLE_LINES + TMAC_STEP_LINES - 1) / TMAC_STEP_LINES };
enum {
    STEPS_AT = TRIT_TABLE_LINES * TMAC_LINE_BYTES,
    STEP_PAIRS_AT = STEPS_AT + 4 * TRIT_STEPS, // steps 2i and 2i + 1, in 16 bits each
    SCALE_AT = STEP_PAIRS_AT + 2 * TRIT_STEPS, // floats from here on
    START_AT = SCALE_AT + 4,                   // 0 times the sum of x
};
_Static_assert(START_AT + 4 <= TRIT_TABLE_BYTES && TRIT_STEPS % 2 == 0, "a block would not fit");

TMAC_INLINE uint8_t * unsigned_tables(uint8_t * entries, int64_t cols, int64_t block) {
    return entries + (cols / TMAC_TABLE_BLOCK + block) * TRIT_TABLE_BYTES;
}
