// GEMV for weights of BITS bits with AVX-512 BW: a plane line, four quads for 32 rows, in a register. Needs: BITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "isa/avx512.h"
#include "gemv/shuffle.h"
#include "gemv/walk.h"

#ifndef PREFETCH
#error "gemv/avx512.c: define PREFETCH, in bytes ahead, before it"
#endif

struct rows {
    __m512i half[2]; // 32-bit sums of rows 0..15 and 16..31
};

TMAC_INLINE struct rows widen(__m512i words) {
    const struct rows rows = { { _mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)),
                                 _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)) } };
    return rows;
}

// Adds the four lanes: a transposition of lanes, so that lane i of the result is rows 8i..8i+7.
TMAC_INLINE struct rows sum_of_lanes(const struct sums * sums) {
    __m512i lanes[4], pairs[2];
    for (int i = 0; i < 4; i++) {
        lanes[i] = IS_EXACT ? _mm512_add_epi16(sums->low[i], _mm512_slli_epi16(sums->high[i], 8)) : sums->low[i];
    }
    for (int i = 0; i < 2; i++) {
        pairs[i] = _mm512_add_epi16(_mm512_shuffle_i64x2(lanes[2 * i], lanes[2 * i + 1], 0x44),
                                    _mm512_shuffle_i64x2(lanes[2 * i], lanes[2 * i + 1], 0xEE));
    }
    const __m512i even = _mm512_shuffle_i64x2(pairs[0], pairs[1], 0x88),
                  odd = _mm512_shuffle_i64x2(pairs[0], pairs[1], 0xDD);
    if (!IS_EXACT) {
        return widen(_mm512_add_epi16(even, odd));
    }
    const struct rows rows[2] = { widen(even), widen(odd) };
    const struct rows sum = { { _mm512_add_epi32(rows[0].half[0], rows[1].half[0]),
                                _mm512_add_epi32(rows[0].half[1], rows[1].half[1]) } };
    return sum;
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    __m512 total[STREAMS][2];
    for (int s = 0; s < streams; s++) {
        total[s][0] = total[s][1] = _mm512_setzero_ps();
    }
    for (int64_t a = first; a < first + count; a++) {
        const __m512 step = _mm512_set1_ps((float) step_of(x, a));
        for (int s = 0; s < streams; s++) {
            for (int line = 0; line < CHUNKS * BITS; line++) {
                prefetch(lines[s] + line * LINE + PREFETCH);
            }
            const struct sums sums = sums_of_group(lines[s], x->entries + a * GROUP_ENTRIES);
            const struct rows rows = sum_of_lanes(&sums);
            for (int h = 0; h < 2; h++) {
                total[s][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rows.half[h]), step, total[s][h]);
            }
            lines[s] += CHUNKS * BITS * LINE;
        }
    }
    const __m512 scale = _mm512_set1_ps(x->scale[first / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        for (int h = 0; h < 2; h++) {
            part[s][h] = _mm512_fmadd_ps(total[s][h], scale, part[s][h]);
        }
    }
}
