// GEMM for ternary weights by lookups with AVX-512 VBMI and VNNI. A dot product adds four signed lookups into 32 bits,
// another one multiplies their sums by the step. The sums of two row tiles and up to four tokens are in registers.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx512_vbmi.h"
#include "activations/trit_tables.h"
#include "weights/trit_signs_avx512_vbmi.h"
#include "weights/trits.h"

#define UNIT_TILES 2
#define TOKENS_AT_ONCE 4
#define MANY_COLUMNS 128
#define MOST_AT_ONCE 12

// Of vector 2i+h: rows 16h.. of tile i. Byte 4r+l belongs to row r and triple l of a line.
struct unit_block {
    bytes index[TRIT_LINES][2 * UNIT_TILES]; // nibble + 16 l
    bytes signs[TRIT_LINES][2 * UNIT_TILES]; // 1 or -1
    bytes start[TRIT_STEPS][2 * UNIT_TILES]; // of the lines that share a step
};

#include "gemm/trits_x86.h"

struct constants {
    struct index_constants index;
    struct sign_constants signs;
};

TMAC_INLINE struct constants constants(void) {
    const struct constants constants = { index_constants(), sign_constants() };
    return constants;
}

// Indices and signs of tile i; 128 times each sign is added to `sums`. The fourth triple of the last line of a block is not one: what
// memory holds there looks up zeros.
TMAC_INLINE void unpack_line(const struct constants constants, const uint8_t * block, int line, int i, bytes sums[2],
                             struct unit_block * to) {
    const bytes plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1), origin = _mm512_set1_epi8((char) 128);
    __mmask64 negative[2];
    negative_of_line(constants.signs, block + SIGNS + line * UNIT, negative);
    indices_of_line(constants.index, block + line * LINE, &to->index[line][2 * i]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        to->signs[line][2 * i + h] = _mm512_mask_mov_epi8(plus, negative[h], minus);
        sums[h] = add_dot_products(sums[h], origin, to->signs[line][2 * i + h]);
    }
}

TMAC_INLINE void unpack_block(const int tiles, const uint8_t * const blocks[UNIT_TILES], struct unit_block * to) {
    const struct constants constant = constants();
    for (int i = 0; i < tiles; i++) {
        for (int at = 0; at < BLOCK_BYTES; at += LINE) {
            prefetch(blocks[i] + at + PREFETCH);
        }
        for (int step = 0; step < TRIT_STEPS; step++) {
            bytes sums[2] = { broadcast_int(0), broadcast_int(0) };
            for (int line = step * TMAC_STEP_LINES; line < lines_end(step); line++) {
                unpack_line(constant, blocks[i], line, i, sums, to);
            }
            for (int h = 0; h < 2; h++) {
                to->start[step][2 * i + h] = _mm512_sub_epi32(broadcast_int(0), sums[h]);
            }
        }
    }
}

_Static_assert(TMAC_STEP_LINES * LINE_TRIPLES * 127 < 32768, "more than a factor of dpwssd");

TMAC_INLINE void sum_look_ups(const int tiles, const int tokens, const struct unit_block * block,
                              const uint8_t * const tables[TOKENS_AT_ONCE], bytes sums[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 2 * tiles; i++) {
            sums[t][i] = broadcast_int(0);
        }
    }
#pragma GCC unroll 6
    for (int step = 0; step < TRIT_STEPS; step++) {
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            const bytes weight = broadcast_4(tables[t] + STEPS_AT + 4 * step);
#pragma GCC unroll 4
            for (int i = 0; i < 2 * tiles; i++) {
                bytes sum = block->start[step][i];
                for (int line = step * TMAC_STEP_LINES; line < lines_end(step); line++) {
                    const bytes found = look_up_64(load_bytes(tables[t] + line * LINE), block->index[line][i]);
                    sum = add_dot_products(sum, found, block->signs[line][i]);
                }
                sums[t][i] = _mm512_dpwssd_epi32(sums[t][i], sum, weight);
            }
        }
    }
}

// As in gemv/trits_avx512_vbmi.c, for several tokens.
TMAC_INLINE void sum_at_once(const int tiles, const int tokens, const struct pass * pass, int b,
                             bytes sums[TOKENS_AT_ONCE][VECTORS]) {
    const struct constants constant = constants();
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 2 * tiles; i++) {
            sums[t][i] = broadcast_int(0);
        }
    }
#pragma GCC unroll 11
    for (int line = 0; line < TRIT_LINES; line++) {
        bytes index[UNIT_TILES][2];
        __mmask64 negative[UNIT_TILES][2];
#pragma GCC unroll 2
        for (int i = 0; i < tiles; i++) {
            const uint8_t * block = pass->weights[i] + b * BLOCK_BYTES;
            negative_of_line(constant.signs, block + SIGNS + line * UNIT, negative[i]);
            indices_of_line(constant.index, block + line * LINE, index[i]);
            prefetch(block + line * LINE + PREFETCH);
            if (line % 4 == 2) { // a block has three lines of signs
                prefetch(block + SIGNS + line / 4 * LINE + PREFETCH);
            }
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            const bytes table = load_bytes(pass->signed_tables[t] + b * TRIT_TABLE_BYTES + line * LINE);
            const bytes weight = broadcast_int((int) pass->steps[t][4 * BLOCK_GROUPS * b + line]);
#pragma GCC unroll 4
            for (int i = 0; i < 2 * tiles; i++) {
                const bytes found = look_up_64(table, index[i / 2][i % 2]);
                const bytes signed_found = _mm512_mask_sub_epi8(found, negative[i / 2][i % 2], broadcast_int(0), found);
                sums[t][i] = add_dot_products(sums[t][i], weight, signed_found);
            }
        }
    }
}
