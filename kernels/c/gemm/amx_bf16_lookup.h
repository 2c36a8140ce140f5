// How codes of 1 and 2 bits become bfloat16 weights: by lookup in tables of what a weight group makes of each code,
// one for each half h of the rows, which are 8h.. and 16+8h...
//
// Needs: BITS of 1 or 2. Gives: load_activations, `struct unpacker`, make_unpacker, begin_group, and unpack_quads or, of
// ternary weights, unpack_pairs.
#pragma once

#include "gemm/amx_scales.h"
#ifdef TRITS
#include "gemm/amx_trits.h"
#endif

// As a stream, so that weights stay in the first-level cache.
#define load_activations _tile_stream_loadd

enum { CODES = TOP_CODE + 1, FLOAT_ROWS = FLOATS / CODES };

struct unpacker {
#ifdef TRITS
    struct trit_constants trits;
    __m512i pairs[2 * LINE_QUADS]; // p: where the codes of columns 2p and 2p+1, each twice, of two rows lie in 64 bits
#else
    struct code_constants codes;
    __m512i columns[2]; // p: both bytes of word 2r+v <- column 2p+v of the half's row r
#endif
    __m512i first; // where a row's weights begin in the table
    __m512 meanings;
    // [half]. 1 bit: word 2r+c is row r's weight of code c. 2 bits: byte 4r+c of [0] is its low byte, of [1] its high one.
    __m512i table[2][BITS];
};

TMAC_INLINE struct unpacker make_unpacker(int grid) {
    uint8_t from[LINE], first[LINE];
    struct unpacker unpacker;
    for (int i = 0; i < LINE; i++) {
        first[i] = (uint8_t) (CODES * (i / 4));
    }
    unpacker.first = _mm512_loadu_si512(first);
    unpacker.meanings = code_meanings(grid);
#ifdef TRITS
    unpacker.trits = trit_constants();
    for (int p = 0; p < 2 * LINE_QUADS; p++) {
        for (int i = 0; i < LINE; i++) {
            const int column = 2 * p + i / 2 % 2;
            from[i] = (uint8_t) (i / 4 % 2 * 32 + column / 3 * 8 + column % 3 * 2);
        }
        unpacker.pairs[p] = _mm512_loadu_si512(from);
    }
#else
    unpacker.codes = code_constants();
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < LINE; i++) {
            const int row = i / 4;
            from[i] = (uint8_t) (8 * (row % 8) + 4 * (row / 8) + i / 2 % 2 + 2 * p);
        }
        unpacker.columns[p] = _mm512_loadu_si512(from);
    }
#endif
    return unpacker;
}

// Bytes of two registers of words: all low ones, or all high ones.
TMAC_INLINE __m512i bytes_of_words(const int high, const __m512i words[2]) {
    uint8_t from[LINE];
    for (int i = 0; i < LINE; i++) {
        from[i] = (uint8_t) (2 * i + high);
    }
    return _mm512_permutex2var_epi8(words[0], _mm512_loadu_si512(from), words[1]);
}

SHARED void begin_group(const int group, const int grid, const struct tmac_matrix * w, int64_t at,
                        struct unpacker * unpacker) {
    // With constants, where it would divide by the group.
    const struct scales scales = group != HALF_GROUP        ? load_scales(group, grid_of_factors(grid), w, at)
                                 : grid == TMAC_GRID_LEVELS ? load_scales(HALF_GROUP, TMAC_GRID_LEVELS, w, at)
                                                            : load_scales(HALF_GROUP, TMAC_GRID_LEVELS_MINIMA, w, at);
    for (int h = 0; h < 2; h++) {
        __m512 weights[2 * BITS];
        __m512i words[BITS];
        for (int i = 0; i < 2 * BITS; i++) {
            const int row = i * FLOAT_ROWS, part = row / 8;
            const __m512 scale = spread_rows(CODES, 8 * h + row % 8, scales.scale[part]);
            const __m512 offset = spread_rows(CODES, 8 * h + row % 8, scales.offset[part]);
            weights[i] = weigh(group, grid, unpacker->meanings, scale, offset);
        }
        for (int i = 0; i < BITS; i++) {
            words[i] = (__m512i) _mm512_cvtne2ps_pbh(weights[2 * i + 1], weights[2 * i]);
        }
        for (int i = 0; i < BITS; i++) {
            unpacker->table[h][i] = BITS == 1 ? words[0] : bytes_of_words(i, words);
        }
    }
}

TMAC_INLINE __m512i look_up_weights(const __m512i table[BITS], __m512i index) {
    if (BITS == 1) {
        return _mm512_permutexvar_epi16(index, table[0]);
    }
    return _mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(index, table[0]), 0xAAAAAAAAAAAAAAAA, index,
                                        table[BITS - 1]);
}

#ifdef TRITS
// Weights of quad q of a line, whose codes are in `codes`, for both halves of the rows.
TMAC_INLINE void unpack_pairs(const struct unpacker * unpacker, const bytes codes[2], int q, uint8_t * to) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int h = i / 2, p = i % 2;
        const __m512i code = _mm512_multishift_epi64_epi8(unpacker->pairs[2 * q + p], codes[h]);
        // 0xEA: (code & TOP_CODE) | first
        const __m512i index = _mm512_ternarylogic_epi32(code, _mm512_set1_epi8(TOP_CODE), unpacker->first, 0xEA);
        _mm512_store_si512(to + h * TILE_BYTES + p * LINE, look_up_weights(unpacker->table[h], index));
    }
}
#else
TMAC_INLINE void unpack_quads(const int has_scales, const int grid, const struct unpacker * unpacker, __m512i codes,
                              uint8_t * to) {
    const __m512i top = BITS == 1 ? _mm512_set1_epi16(TOP_CODE) : _mm512_set1_epi8(TOP_CODE);
    const __m512i columns[2] = { _mm512_permutexvar_epi8(unpacker->columns[0], codes),
                                 _mm512_permutexvar_epi8(unpacker->columns[1], codes) };
#pragma GCC unroll 16
    for (int i = 0; i < 4 * QUADS; i++) {
        const int q = i / 4, h = i / 2 % 2, p = i % 2;
        const __m512i code = _mm512_srli_epi16(columns[p], SLOT * (2 * q + h));
        // 0xEA: (code & top) | first
        const __m512i index = _mm512_ternarylogic_epi32(code, top, unpacker->first, 0xEA);
        _mm512_store_si512(to + h * TILE_BYTES + (2 * q + p) * LINE, look_up_weights(unpacker->table[h], index));
    }
    (void) has_scales, (void) grid;
}
#endif
