// The end of a sum of lookups with AVX-512 BW, whose four 128-bit lanes hold the same rows. Gives: sum_of_lanes.
#pragma once

#include "isa/avx512.h"

struct rows {
    __m512i half[2]; // 32-bit sums of rows 0..15 and 16..31
};

TMAC_INLINE struct rows widen(__m512i words) {
    const struct rows rows = { { _mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)),
                                 _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)) } };
    return rows;
}

// Rows 8i.. of register i, which its four lanes hold in 16 bits: the sums in 32 bits, `is_wide` if those of all lanes may
// need more than 16. A transposition of lanes, so that lane i of the result is rows 8i..8i+7.
TMAC_INLINE struct rows sum_of_lanes(const int is_wide, const __m512i lanes[4]) {
    __m512i pairs[2];
    for (int i = 0; i < 2; i++) {
        pairs[i] = _mm512_add_epi16(_mm512_shuffle_i64x2(lanes[2 * i], lanes[2 * i + 1], 0x44),
                                    _mm512_shuffle_i64x2(lanes[2 * i], lanes[2 * i + 1], 0xEE));
    }
    const __m512i even = _mm512_shuffle_i64x2(pairs[0], pairs[1], 0x88),
                  odd = _mm512_shuffle_i64x2(pairs[0], pairs[1], 0xDD);
    if (!is_wide) {
        return widen(_mm512_add_epi16(even, odd));
    }
    const struct rows rows[2] = { widen(even), widen(odd) };
    const struct rows sum = { { _mm512_add_epi32(rows[0].half[0], rows[1].half[0]),
                                _mm512_add_epi32(rows[0].half[1], rows[1].half[1]) } };
    return sum;
}
