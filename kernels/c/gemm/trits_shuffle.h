// How AVX2 and AVX-512 BW look ternary weights up: one triple of the rows of a unit in a register, its table in each 128-bit
// lane. The bytes of two triples are interleaved, so that one multiply-add of neighbours applies their signs, adds both and
// widens to 16 bits; another one multiplies the sums of two steps and widens to 32.
//
// Needs before it: isa/avx2.h or isa/avx512.h; UNIT_TILES, the tiles whose rows fill a register. Needs after it:
// nibbles_of_rows, signs_of_rows and signs_of_tops. Gives: gemm (gemm/frame.h).
#pragma once

#include "activations/trit_tables.h"
#include "weights/trits.h"

#define TOKENS_AT_ONCE 1
#define MANY_COLUMNS 256

enum { BLOCK_PAIRS = TRIT_LINES * LINE_TRIPLES / 2, LINE_PAIRS = LINE_TRIPLES / 2 };

// Of pairs of triples: signs of both, 1 or -1, interleaved, of lower and of higher bytes of the lanes.
struct unit_block {
    bytes index[BLOCK_PAIRS][2], signs[BLOCK_PAIRS][2];
    bytes start[TRIT_STEPS][2]; // of the lines that share a step, in 16 bits
};

#include "gemm/trits_x86.h"

// 16 bytes of each tile, of which byte r has rows r and 16+r, in the order in which triple i of a pair has its rows. Of
// nibbles: each row's, with other bits above. Of the signs of a line: each row's at the top, that of the next triple two
// bits below.
TMAC_INLINE bytes nibbles_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i);
TMAC_INLINE bytes signs_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i);

// Of what both triples of a pair look up, neighbouring bytes of the same rows. Words 4j.. of lane k belong to rows
// FLOATS * j + 4k.. and, in the second half, to the rows of the registers of sums that follow.
TMAC_INLINE bytes pairs_of_rows(bytes first, bytes second, int half);

// -1 where the top bit of v is set, else 1.
TMAC_INLINE bytes signs_of_tops(bytes v);

TMAC_INLINE void unpack_pair(const uint8_t * const blocks[UNIT_TILES], const bytes units[2], int pair,
                             struct unit_block * to, bytes start[2]) {
    bytes signs[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const int n = 2 * pair + i;
        to->index[pair][i] = bits_and(nibbles_of_rows(blocks, UNIT * n, i), broadcast_word(0x0F0F));
        signs[i] = signs_of_tops(shift_left(units[i], 2 * (n % LINE_TRIPLES)));
    }
    for (int h = 0; h < 2; h++) {
        to->signs[pair][h] = pairs_of_rows(signs[0], signs[1], h);
        const bytes opposite = bits_xor(to->signs[pair][h], broadcast_word(0xFEFE)); // -1 for 1, and 1 for -1
        start[h] = add_words(start[h], multiply_pairs(broadcast_word(0x8080), opposite));
    }
}

// The last triple of the last line of a block is not one: what memory holds there looks up zeros.
TMAC_INLINE void unpack_block(const int tiles, const uint8_t * const blocks[UNIT_TILES], struct unit_block * to) {
    for (int i = 0; i < tiles; i++) {
        for (int at = 0; at < BLOCK_BYTES; at += LINE) {
            prefetch(blocks[i] + at + PREFETCH);
        }
    }
    for (int step = 0; step < TRIT_STEPS; step++) {
        bytes start[2] = { broadcast_word(0), broadcast_word(0) };
        for (int line = step * TMAC_STEP_LINES; line < lines_end(step); line++) {
            const bytes units[2] = { signs_of_rows(blocks, SIGNS + UNIT * line, 0),
                                     signs_of_rows(blocks, SIGNS + UNIT * line, 1) };
            for (int pair = line * LINE_PAIRS; pair < (line + 1) * LINE_PAIRS; pair++) {
                unpack_pair(blocks, units, pair, to, start);
            }
        }
        to->start[step][0] = start[0];
        to->start[step][1] = start[1];
    }
}

TMAC_INLINE void add_now(bytes * sum, bytes words) {
    *sum = add_words(*sum, words);
    make_now(sum);
}

// What the rows look up in the lines of a step, in 16 bits.
TMAC_INLINE void look_up_step(const int tokens, const struct unit_block * block, int step,
                              const uint8_t * const tables[TOKENS_AT_ONCE], bytes words[TOKENS_AT_ONCE][2]) {
    for (int t = 0; t < tokens; t++) {
        words[t][0] = block->start[step][0];
        words[t][1] = block->start[step][1];
    }
#pragma GCC unroll 4
    for (int pair = step * TMAC_STEP_LINES * LINE_PAIRS; pair < lines_end(step) * LINE_PAIRS; pair++) {
        const bytes index[2] = { block->index[pair][0], block->index[pair][1] };
#pragma GCC unroll 2
        for (int t = 0; t < tokens; t++) {
            const uint8_t * entries = tables[t] + 32 * pair;
            const bytes a = look_up(broadcast_16(entries), index[0]), b = look_up(broadcast_16(entries + 16), index[1]);
            add_now(&words[t][0], multiply_pairs(pairs_of_rows(a, b, 0), block->signs[pair][0]));
            add_now(&words[t][1], multiply_pairs(pairs_of_rows(a, b, 1), block->signs[pair][1]));
        }
    }
}
_Static_assert(TMAC_STEP_LINES * LINE_TRIPLES * 256 < 32768, "the 16-bit sums would overflow");

TMAC_INLINE void sum_look_ups(const int tiles, const int tokens, const struct unit_block * block,
                              const uint8_t * const tables[TOKENS_AT_ONCE], bytes sums[TOKENS_AT_ONCE][VECTORS]) {
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < VECTORS; i++) {
            sums[t][i] = broadcast_word(0);
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < TRIT_STEPS / 2; i++) {
        bytes words[2][TOKENS_AT_ONCE][2];
        look_up_step(tokens, block, 2 * i, tables, words[0]);
        look_up_step(tokens, block, 2 * i + 1, tables, words[1]);
        for (int t = 0; t < tokens; t++) {
            const bytes steps = broadcast_4(tables[t] + STEP_PAIRS_AT + 4 * i);
            for (int h = 0; h < 2; h++) {
                const bytes low = interleave_low_words(words[0][t][h], words[1][t][h]);
                const bytes high = interleave_high_words(words[0][t][h], words[1][t][h]);
                sums[t][2 * h] = add_ints(sums[t][2 * h], multiply_words(low, steps));
                sums[t][2 * h + 1] = add_ints(sums[t][2 * h + 1], multiply_words(high, steps));
            }
        }
    }
    (void) tiles;
}
