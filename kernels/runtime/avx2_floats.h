// Floats of an AVX2 register, as walk.h and gemm_blocks.h ask for them.
#pragma once

#include "tmac.h"

#include <immintrin.h>

enum { FLOATS = 8 };

typedef __m256 floats;
TMAC_INLINE __m256 broadcast(float value) { return _mm256_set1_ps(value); }
TMAC_INLINE __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
TMAC_INLINE __m256 floats_of_ints(__m256i values) { return _mm256_cvtepi32_ps(values); }
TMAC_INLINE __m256 floats_of_scales(const uint16_t * from) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) from)); }
TMAC_INLINE __m256 floats_of_zeros(const uint8_t * from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) from)));
}
TMAC_INLINE __m256 load_floats(const float * from) { return _mm256_loadu_ps(from); }
TMAC_INLINE void store(float * to, __m256 values) { _mm256_storeu_ps(to, values); }
TMAC_INLINE void prefetch(const uint8_t * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }
