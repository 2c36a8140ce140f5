// GEMM for ternary weights by lookups with AVX2: one triple of columns for the 32 rows of a tile in a register.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx2.h"
#define UNIT_TILES 1
#include "gemm/trits_shuffle.h"

// Lane k: four bytes of rows 4k.., of rows 8 + 4k.., and both again for the higher rows.
TMAC_INLINE __m256i bytes_of_rows(const uint8_t * from) {
    const __m256i both = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) from));
    return _mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 2, 0, 2, 1, 3, 1, 3));
}

TMAC_INLINE bytes nibbles_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i) {
    (void) i;
    return _mm256_srlv_epi32(bytes_of_rows(tiles[0] + offset), _mm256_setr_epi32(0, 0, 4, 4, 0, 0, 4, 4));
}

TMAC_INLINE bytes signs_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i) {
    (void) i;
    return _mm256_sllv_epi32(bytes_of_rows(tiles[0] + offset), _mm256_setr_epi32(0, 0, 1, 1, 0, 0, 1, 1));
}

TMAC_INLINE bytes pairs_of_rows(bytes first, bytes second, int half) {
    return half ? interleave_high(first, second) : interleave_low(first, second);
}

TMAC_INLINE bytes signs_of_tops(bytes v) {
    return _mm256_or_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), v), _mm256_set1_epi8(1));
}
