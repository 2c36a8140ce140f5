// Builds lookup tables with AVX-512: one register holds the 16 sums of a quad as floats.
//
// Needs: PREPARE_TABLES and PREPARE_EXACT_TABLES, the names of the functions that it gives (activations/tables.h).
#include "isa/avx512.h"

struct values {
    __m512 quad[TMAC_TABLE_GROUP / 4];
};
#include "activations/tables.h"

TMAC_INLINE void values_of_group(const float * quad, struct values * values, float * top, float * sum) {
    __m512 sign[4]; // lane i: +1 where bit u of i is set, else -1; a product with it is exact, so fma only adds
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int u = 0; u < 4; u++) {
        const __mmask16 set = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(1 << u));
        sign[u] = _mm512_mask_mov_ps(_mm512_set1_ps(-1), set, _mm512_set1_ps(1));
    }
    __m512 highest = _mm512_setzero_ps(), sums = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++, quad += 4) {
        __m512 v = _mm512_mul_ps(_mm512_set1_ps(quad[0]), sign[0]);
        v = _mm512_fmadd_ps(_mm512_set1_ps(quad[1]), sign[1], v);
        v = _mm512_fmadd_ps(_mm512_set1_ps(quad[2]), sign[2], v);
        v = _mm512_fmadd_ps(_mm512_set1_ps(quad[3]), sign[3], v);
        highest = _mm512_max_ps(highest, _mm512_abs_ps(v));
        sums = q ? _mm512_add_ps(sums, v) : v;
        values->quad[q] = v;
    }
    *top = _mm512_reduce_max_ps(highest);
    *sum = _mm_cvtss_f32(_mm_permute_ps(_mm512_extractf32x4_ps(sums, 3), 3));
}

TMAC_INLINE void round_values(const struct values * values, float factor, int usable, uint8_t * entries) {
    const __mmask16 keep = usable ? 0xFFFF : 0;
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++) {
        const __m512 scaled = _mm512_mul_ps(values->quad[q], _mm512_set1_ps(factor));
        _mm_storeu_si128((__m128i *) (entries + 16 * q), _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(keep, scaled)));
    }
}
