// Codes of 4 and 5 bits as bytes, for all vocabularies of x86-64. Needs AVX2.
#pragma once

#include "interface/tmac.h"

#include <immintrin.h>
#include <string.h>

// Codes j and 16 + j are the entries of the table at the low and the high half of byte j.
TMAC_INLINE void codes_of_nibbles(const uint8_t * from, const int8_t table[16], int8_t codes[32]) {
    const __m128i of = _mm_loadu_si128((const __m128i *) table), low = _mm_set1_epi8(15);
    const __m128i nibbles = _mm_loadu_si128((const __m128i *) from);
    const __m128i first = _mm_shuffle_epi8(of, _mm_and_si128(nibbles, low));
    const __m128i second = _mm_shuffle_epi8(of, _mm_and_si128(_mm_srli_epi16(nibbles, 4), low));
    // One store, because a load of all of it could not take two stores' bytes before they are in the cache.
    _mm256_storeu_si256((__m256i *) codes, _mm256_set_m128i(second, first));
}

// Adds 16 to code j if bit j of the 4 bytes is 1, and subtracts `origin` from all.
TMAC_INLINE void add_fifth_bits(const uint8_t * from, int origin, int8_t codes[32]) {
    int bits;
    memcpy(&bits, from, sizeof bits);
    // Byte j of the register is the byte that has bit j.
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long) 0x8040201008040201);
    const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte), bit);
    const __m256i fifth = _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16));
    const __m256i sum = _mm256_add_epi8(_mm256_loadu_si256((const __m256i *) codes), fifth);
    _mm256_storeu_si256((__m256i *) codes, _mm256_sub_epi8(sum, _mm256_set1_epi8((char) origin)));
}
