// Builds the lookup tables of ternary weights with AVX2.
//
// Needs: PREPARE_TRITS and PREPARE_EXACT_TRITS, the names of the functions that it gives (activations/trits.h).
#include "isa/avx2.h"

#include "activations/trits.h"

TMAC_INLINE void store_entries(uint8_t * to, const floats values[16 / FLOATS]) {
    const __m256i first = _mm256_cvtps_epi32(values[0]), second = _mm256_cvtps_epi32(values[1]);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8);
    const __m128i bytes_of_all = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *) to, bytes_of_all);
}
