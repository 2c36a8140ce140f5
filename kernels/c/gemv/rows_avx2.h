// The end of a sum of lookups with AVX2, whose two 128-bit lanes hold the same rows. Gives: sum_of_lanes.
#pragma once

#include "isa/avx2.h"

// Rows 8i.., which both lanes of a register hold in 16 bits: the sum in 32 bits, `is_wide` if it may need more than 16.
TMAC_INLINE __m256i sum_of_lanes(const int is_wide, __m256i words) {
    if (is_wide) {
        return _mm256_add_epi32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(words)),
                                _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1)));
    }
    const __m128i upper = _mm256_extracti128_si256(words, 1);
    return _mm256_cvtepi16_epi32(_mm_add_epi16(_mm256_castsi256_si128(words), upper));
}
