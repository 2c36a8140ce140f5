// GEMV for ternary weights with AVX2: half a line, two triples for 32 rows, in a register. Needs: BITS, TRITS, PRECISION,
// STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "gemv/rows_avx2.h"
#include "gemv/walk.h"
#include "weights/trits.h"

#ifndef PREFETCH
#error "gemv/trits_avx2.c: define PREFETCH, in bytes ahead, before it"
#endif

// Signs for the halves of a line, i, and of the rows, h: bit 7 of a byte is that of the lookup; no byte is 0.
struct signs {
    bytes of[2][2];
};

TMAC_INLINE struct signs signs_of_line(const uint8_t * units) {
    // Two bits to the left in the upper lane, whose triples are one further; what comes from the byte below is not used.
    const bytes unit = _mm256_sllv_epi32(broadcast_16(units), _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2));
    const bytes one = _mm256_set1_epi8(1);
    struct signs signs;
    for (int i = 0; i < 2; i++) {
        signs.of[i][0] = _mm256_or_si256(i ? shift_left(unit, 4) : unit, one);
        signs.of[i][1] = _mm256_add_epi8(signs.of[i][0], signs.of[i][0]);
    }
    return signs;
}

// What triples 2i and 2i+1 of a line look up for rows 16h.. in the tables at `entries`.
TMAC_INLINE bytes look_up_half(bytes codes, const struct signs * signs, const uint8_t * entries, int i, int h) {
    const bytes index = bits_and(h ? shift_right(codes, 4) : codes, broadcast_word(0x0F0F));
    return _mm256_sign_epi8(look_up(load_bytes(entries + i * BYTES), index), signs->of[i][h]);
}

// Adds neighbouring bytes a and b of the same row, times the bytes of `weights`.
TMAC_INLINE void add_pairs(bytes sums[2], bytes weights, bytes a, bytes b) {
    sums[0] = add_words(sums[0], multiply_pairs(weights, interleave_low(a, b)));
    sums[1] = add_words(sums[1], multiply_pairs(weights, interleave_high(a, b)));
    make_now(&sums[0]);
    make_now(&sums[1]);
}
_Static_assert(SUM_LINES * 2 * TOP_ENTRY < 32768, "the 16-bit sums of a lane would overflow");

// Adds what a line looks up, times its step: rows 8i.. of each lane's triples to sums[i].
TMAC_INLINE void look_up_line(const uint8_t * line, const uint8_t * units, const uint8_t * entries, uint32_t steps,
                              bytes sums[4]) {
    const struct signs signs = signs_of_line(units);
    const bytes codes[2] = { load_bytes(line), load_bytes(line + BYTES) };
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        if (!IS_EXACT) {
            add_pairs(sums + 2 * h, broadcast_int((int) steps), look_up_half(codes[0], &signs, entries, 0, h),
                      look_up_half(codes[1], &signs, entries, 1, h));
            continue;
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            add_pairs(sums + 2 * h, broadcast_word(0x0401), look_up_half(codes[i], &signs, entries, i, h),
                      look_up_half(codes[i], &signs, entries + LINE, i, h));
        }
    }
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const uint8_t * entries = entries_of_block(x, first);
    for (int s = 0; s < streams; s++) {
        bytes total[4] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
#pragma GCC unroll 3
        for (int i = 0; i < SUMS_OF_BLOCK; i++) {
            bytes sums[4] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
            prefetch(lines[s] + SIGNS + i * LINE + PREFETCH);
            for (int line = i * SUM_LINES; line < i * SUM_LINES + lines_of_sum(i); line++) {
                prefetch(lines[s] + line * LINE + PREFETCH);
                look_up_line(lines[s] + line * LINE, lines[s] + SIGNS + line * UNIT, entries + line * LINE_ENTRIES,
                             steps_of_line(x, first, line), sums);
            }
            for (int j = 0; j < 4; j++) {
                total[j] = _mm256_add_epi32(total[j], sum_of_lanes(1, sums[j]));
            }
        }
        for (int j = 0; j < 4; j++) {
            part[s][j] = multiply_add(floats_of_ints(total[j]), broadcast(x->scale[first / BLOCK_GROUPS]), part[s][j]);
        }
        lines[s] += BLOCK_BYTES;
    }
    (void) count;
}
