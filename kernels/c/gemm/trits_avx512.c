// GEMM for ternary weights by lookups with AVX-512 BW: one triple of columns for the 64 rows of two tiles in a register.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx512.h"
#define UNIT_TILES 2
#include "gemm/trits_shuffle.h"

// Bytes 2j of lane k: row 4k+j of the first tile, with j from 4 on for row 12+4k+j; bytes 2j+1: the same of the second tile.
// The other triple of a pair has its tiles the other way round, so that a pair of rows is put together without a shuffle,
// of which the CPUs make one a cycle.
TMAC_INLINE __m512i bytes_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i) {
    const __m512i first = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *) (tiles[i] + offset)));
    const __m512i second = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *) (tiles[1 - i] + offset)));
    const __m512i fours = _mm512_setr_epi32(0, 0, 16, 16, 1, 1, 17, 17, 2, 2, 18, 18, 3, 3, 19, 19);
    const __m128i in_turn = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm512_shuffle_epi8(_mm512_permutex2var_epi32(first, fours, second), _mm512_broadcast_i32x4(in_turn));
}

TMAC_INLINE bytes nibbles_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i) {
    return _mm512_srlv_epi64(bytes_of_rows(tiles, offset, i), _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4));
}

TMAC_INLINE bytes signs_of_rows(const uint8_t * const tiles[UNIT_TILES], int offset, int i) {
    return _mm512_sllv_epi64(bytes_of_rows(tiles, offset, i), _mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1));
}

// Even bytes of one and odd ones of the other: first tile, second tile.
TMAC_INLINE bytes pairs_of_rows(bytes first, bytes second, int half) {
    const bytes even = broadcast_word(0x00FF);
    // 0xCA: even ? a : b
    return half ? _mm512_ternarylogic_epi32(even, second, first, 0xCA)
                : _mm512_ternarylogic_epi32(even, first, second, 0xCA);
}

TMAC_INLINE bytes signs_of_tops(bytes v) {
    return _mm512_mask_mov_epi8(_mm512_set1_epi8(1), _mm512_movepi8_mask(v), _mm512_set1_epi8(-1));
}
