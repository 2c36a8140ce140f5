// The plane line of a chunk, with AVX2.
#pragma once

#include <immintrin.h>

#include "interface/tmac.h"

// The even bytes, then the odd ones.
TMAC_INLINE __m256i unzip_bytes(__m256i x) {
    const __m256i in_lanes = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10,
                                              12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, in_lanes), 0xD8);
}

TMAC_INLINE void put_line(const uint16_t * masks, uint8_t * line) {
    const __m256i nibbles = _mm256_set1_epi8(15);
    const __m256i low = _mm256_loadu_si256((const __m256i *) masks);
    const __m256i high = _mm256_loadu_si256((const __m256i *) (masks + 16));
    // Of each row, quads 0 and 2, and quads 1 and 3.
    const __m256i even = unzip_bytes(
        _mm256_or_si256(_mm256_and_si256(low, nibbles), _mm256_slli_epi16(_mm256_and_si256(high, nibbles), 4)));
    const __m256i odd = unzip_bytes(
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), nibbles), _mm256_andnot_si256(nibbles, high)));
    _mm256_storeu_si256((__m256i *) line, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *) (line + 32), _mm256_permute2x128_si256(even, odd, 0x31));
}
