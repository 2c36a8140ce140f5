// Builds the lookup tables of ternary weights with AVX-512.
//
// Needs: PREPARE_TRITS and PREPARE_EXACT_TRITS, the names of the functions that it gives (activations/trits.h).
#include "isa/avx512.h"

#include "activations/trits.h"

TMAC_INLINE void store_entries(uint8_t * to, const floats values[16 / FLOATS]) {
    _mm_storeu_si128((__m128i *) to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(values[0])));
}
