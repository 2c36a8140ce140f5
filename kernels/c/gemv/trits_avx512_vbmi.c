// GEMV for ternary weights with AVX-512 VBMI and VNNI. A dot product with the step of the tables adds four lookups into
// 32 bits. Needs: BITS, TRITS, PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv
// (gemv/walk.h).
#include "isa/avx512_vbmi.h"
#include "gemv/walk.h"
#include "weights/trit_signs_avx512_vbmi.h"
#include "weights/trits.h"

#ifndef PREFETCH
#error "gemv/trits_avx512_vbmi.c: define PREFETCH, in bytes ahead, before it"
#endif

struct constants {
    struct index_constants index;
    struct sign_constants signs;
};

TMAC_INLINE struct constants constants(void) {
    const struct constants constants = { index_constants(), sign_constants() };
    return constants;
}

// Adds what the line of nibbles at `line` looks up, each lookup times a byte of `weight` of its part. The last line of a
// block has three triples; what follows them in memory looks up in a table of zeros.
TMAC_INLINE void look_up_line(const struct constants constants, const uint8_t * line, const uint8_t * signs,
                              const uint8_t * entries, const bytes weight[ENTRY_PARTS], bytes sums[2]) {
    bytes index[2];
    indices_of_line(constants.index, line, index);
    __mmask64 negative[2];
    negative_of_line(constants.signs, signs, negative);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
        for (int i = 0; i < ENTRY_PARTS; i++) {
            const bytes found = look_up_64(load_bytes(entries + i * LINE), index[h]);
            sums[h] = add_dot_products(sums[h], weight[i],
                                       _mm512_mask_sub_epi8(found, negative[h], _mm512_setzero_si512(), found));
        }
    }
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const struct constants constant = constants();
    const uint8_t * entries = entries_of_block(x, first);
    bytes sums[STREAMS][2];
    for (int s = 0; s < streams; s++) {
        sums[s][0] = sums[s][1] = broadcast_int(0);
    }
#pragma GCC unroll 11
    for (int line = 0; line < TRIT_LINES; line++) {
        bytes weight[ENTRY_PARTS];
        for (int p = 0; p < ENTRY_PARTS; p++) {
            weight[p] = broadcast_int((int) weight_of_part(steps_of_line(x, first, line), p));
        }
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++) {
            prefetch(lines[s] + line * LINE + PREFETCH);
            if (line % 4 == 2) { // a block has three lines of signs
                prefetch(lines[s] + SIGNS + line / 4 * LINE + PREFETCH);
            }
            look_up_line(constant, lines[s] + line * LINE, lines[s] + SIGNS + line * UNIT,
                         entries + line * LINE_ENTRIES, weight, sums[s]);
        }
    }
    const floats scale = broadcast(x->scale[first / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        lines[s] += BLOCK_BYTES;
        for (int h = 0; h < 2; h++) {
            part[s][h] = multiply_add(floats_of_ints(sums[s][h]), scale, part[s][h]);
        }
    }
    (void) count;
}
