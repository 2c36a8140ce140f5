// Builds lookup tables with AVX2: two registers hold the 16 sums of a quad, with the fourth activation taken off or
// added.
//
// Needs: PREPARE_TABLES and PREPARE_EXACT_TABLES, the names of the functions that it gives (activations/tables.h).
#include "isa/avx2.h"

struct values {
    __m256 quad[TMAC_TABLE_GROUP / 4][2];
};
#include "activations/tables.h"

static float highest_lane(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static __m256i rounded(__m256 v, __m256 factor, __m256i keep) {
    return _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v, factor)), keep);
}

TMAC_INLINE void values_of_group(const float * quad, struct values * values, float * top, float * sum) {
    // lane i: +1 where bit u of i is set, else -1; a product with it is exact, so fma only adds
    const __m256 sign0 = _mm256_setr_ps(-1, 1, -1, 1, -1, 1, -1, 1);
    const __m256 sign1 = _mm256_setr_ps(-1, -1, 1, 1, -1, -1, 1, 1);
    const __m256 sign2 = _mm256_setr_ps(-1, -1, -1, -1, 1, 1, 1, 1);
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 highest = _mm256_setzero_ps(), sums = _mm256_setzero_ps();
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++, quad += 4) {
        __m256 * value = values->quad[q];
        __m256 v = _mm256_mul_ps(_mm256_broadcast_ss(quad), sign0);
        v = _mm256_fmadd_ps(_mm256_broadcast_ss(quad + 1), sign1, v);
        v = _mm256_fmadd_ps(_mm256_broadcast_ss(quad + 2), sign2, v);
        value[0] = _mm256_sub_ps(v, _mm256_broadcast_ss(quad + 3));
        value[1] = _mm256_add_ps(v, _mm256_broadcast_ss(quad + 3));
        highest = _mm256_max_ps(highest, _mm256_and_ps(value[0], magnitude));
        highest = _mm256_max_ps(highest, _mm256_and_ps(value[1], magnitude));
        sums = q ? _mm256_add_ps(sums, value[1]) : value[1];
    }
    *top = highest_lane(highest);
    *sum = _mm_cvtss_f32(_mm_permute_ps(_mm256_extractf128_ps(sums, 1), 3));
}

TMAC_INLINE void round_values(const struct values * values, float factor, int usable, uint8_t * entries) {
    const __m256 factors = _mm256_set1_ps(factor);
    const __m256i keep = _mm256_set1_epi32(usable ? -1 : 0);
    // packing works within 128-bit lanes; this puts the four packed registers' quarters back in order
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q += 2) {
        __m256i packed[2];
        for (int i = 0; i < 2; i++) {
            const __m256 * v = values->quad[q + i];
            packed[i] = _mm256_packs_epi32(rounded(v[0], factors, keep), rounded(v[1], factors, keep));
        }
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(packed[0], packed[1]), order);
        _mm256_storeu_si256((__m256i *) (entries + 16 * q), bytes);
    }
}
