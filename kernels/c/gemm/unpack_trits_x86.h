// How ternary blocks become codes of 8 bits with AVX2, AVX-VNNI, AVX-512 BW and VNNI. All but the last share one way, in registers of 32
// bytes, whose lanes are rows 0..15 and 16..31.
//
// Needs: gemm/int8_x86.h around it: TRITS, an instruction set's vocabulary, `struct tile_codes`. Gives: unpack_columns.
#pragma once

#include "weights/trit_codes.h"

// Where the codes of a row in a quad are.
TMAC_INLINE uint8_t * codes_of_row(struct tile_codes * to, int quad, int row) {
    return to->codes[row / ROWS] + quad * QUAD_CODES + row % ROWS * 4;
}

#ifdef HAS_LOOK_UPS_OF_64
#include "gemm/unpack_trits_avx512_vbmi.h"

TMAC_INLINE void unpack_block(const uint8_t * block, struct tile_codes * to, int quad) {
    const struct trit_constants constants = trit_constants();
    for (int line = 0; line < TRIT_LINES; line++) {
        __m512i codes[2];
        codes_of_triples(constants, block, line, codes);
        for (int q = 0; q < quads_of_line(line); q++, quad++) {
            for (int h = 0; h < 2; h++) {
                store_bytes(codes_of_row(to, quad, 16 * h), codes_of_quad(constants, codes[h], q));
            }
        }
    }
}
#else
// The codes of triple l of a line, two bits for each of its columns.
TMAC_INLINE __m256i codes_of_triple(const uint8_t * line, __m256i units, int l) {
    const __m128i pairs = _mm_loadu_si128((const __m128i *) (line + UNIT * l));
    const __m256i halves = _mm256_inserti128_si256(_mm256_castsi128_si256(pairs), _mm_srli_epi16(pairs, 4), 1);
    const __m256i nibbles = _mm256_and_si256(halves, _mm256_set1_epi8(15)), top = _mm256_set1_epi8((char) 128);
    // A shuffle gives 0 where bit 7 of an index is set: a table finds something for either sign.
    const int shift = 2 * l;
    const __m256i shifts = _mm256_setr_epi32(shift, shift, shift, shift, shift + 1, shift + 1, shift + 1, shift + 1);
    const __m256i sign = _mm256_and_si256(_mm256_sllv_epi32(units, shifts), top);
    const __m256i tables[2] = { _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) triple_codes[0])),
                                _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) triple_codes[1])) };
    const __m256i index = _mm256_or_si256(nibbles, sign);
    return _mm256_or_si256(_mm256_shuffle_epi8(tables[0], index),
                           _mm256_shuffle_epi8(tables[1], _mm256_xor_si256(index, top)));
}

TMAC_INLINE void store_quad(const __m256i columns[4], struct tile_codes * to, int quad) {
    for (int i = 0; i < 4; i++) {
        const __m256i even =
            i / 2 ? _mm256_unpackhi_epi8(columns[0], columns[1]) : _mm256_unpacklo_epi8(columns[0], columns[1]);
        const __m256i odd =
            i / 2 ? _mm256_unpackhi_epi8(columns[2], columns[3]) : _mm256_unpacklo_epi8(columns[2], columns[3]);
        const __m256i rows = i % 2 ? _mm256_unpackhi_epi16(even, odd) : _mm256_unpacklo_epi16(even, odd);
        _mm_storeu_si128((__m128i *) codes_of_row(to, quad, 4 * i), _mm256_castsi256_si128(rows));
        _mm_storeu_si128((__m128i *) codes_of_row(to, quad, 16 + 4 * i), _mm256_extracti128_si256(rows, 1));
    }
}

TMAC_INLINE void unpack_block(const uint8_t * block, struct tile_codes * to, int quad) {
    for (int line = 0; line < TRIT_LINES; line++) {
        const __m256i units =
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) (block + SIGNS + line * UNIT)));
        __m256i columns[12];
#pragma GCC unroll 4
        for (int l = 0; l < LINE_TRIPLES; l++) {
            const __m256i codes = codes_of_triple(block + line * LINE, units, l);
            for (int i = 0; i < 3; i++) {
                columns[3 * l + i] = _mm256_and_si256(_mm256_srli_epi16(codes, 2 * i), _mm256_set1_epi8(3));
            }
        }
        for (int q = 0; q < quads_of_line(line); q++, quad++) {
            store_quad(columns + 4 * q, to, quad);
        }
    }
}
#endif

// The codes of `count` table groups, whole blocks.
TMAC_INLINE void unpack_columns(int is_prefetching, const uint8_t * blocks, int count, struct tile_codes * to) {
    for (int i = 0; i < count / BLOCK_GROUPS; i++, blocks += BLOCK_BYTES) {
        if (is_prefetching) {
            for (int at = 0; at < BLOCK_BYTES; at += LINE) {
                prefetch(blocks + at + PREFETCH);
            }
        }
        unpack_block(blocks, to, i * BLOCK_QUADS);
    }
}
