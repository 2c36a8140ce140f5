// Floats of an AVX-512 register, as walk.h and gemm_blocks.h ask for them.
#pragma once

#include "tmac.h"

#include <immintrin.h>

enum { FLOATS = 16 };

typedef __m512 floats;
TMAC_INLINE __m512 broadcast(float value) { return _mm512_set1_ps(value); }
TMAC_INLINE __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
TMAC_INLINE __m512 floats_of_ints(__m512i values) { return _mm512_cvtepi32_ps(values); }
TMAC_INLINE __m512 floats_of_scales(const uint16_t * from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) from));
}
TMAC_INLINE __m512 floats_of_zeros(const uint8_t * from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) from)));
}
TMAC_INLINE __m512 load_floats(const float * from) { return _mm512_loadu_ps(from); }
TMAC_INLINE void store(float * to, __m512 values) { _mm512_storeu_ps(to, values); }
TMAC_INLINE void prefetch(const uint8_t * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }
