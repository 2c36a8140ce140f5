// How codes of 3 to 6 bits become bfloat16 weights: as floats they are multiplied by their scales.
//
// Needs: BITS of 3 to 6. Gives: load_activations, `struct unpacker`, make_unpacker, begin_group, unpack_quads or, of more
// than 4 bits, unpack_quad.
#pragma once

#include "gemm/amx_scales.h"

// As a stream they measured 4 % slower where unpacking takes so long.
#define load_activations _tile_loadd

struct unpacker {
    struct code_constants codes;
    __m512i pairs[2]; // dword 2r+c: byte 0 <- column c, byte 1 <- column 2+c, of rows r (and r+8); of r+16 (and r+24)
    __m512 meanings;
    __m512 scale[2][2], offset[2][2]; // for the lanes of pairs[i] and half h of the rows: [h][i]
};

TMAC_INLINE struct unpacker make_unpacker(int grid) {
    uint8_t pairs[2][LINE] = { { 0 } };
    for (int i = 0; i < FLOATS; i++) {
        pairs[0][4 * i] = (uint8_t) (i / 2 * 8 + i % 2);
        pairs[0][4 * i + 1] = (uint8_t) (pairs[0][4 * i] + 2);
        pairs[1][4 * i] = (uint8_t) (pairs[0][4 * i] + 4);
        pairs[1][4 * i + 1] = (uint8_t) (pairs[0][4 * i] + 6);
    }
    const struct unpacker unpacker = {
        .codes = code_constants(),
        .pairs = { _mm512_loadu_si512(pairs[0]), _mm512_loadu_si512(pairs[1]) },
        .meanings = code_meanings(grid),
    };
    return unpacker;
}

TMAC_INLINE void begin_group(const int group, const int grid, const struct tmac_matrix * w, int64_t at,
                             struct unpacker * unpacker) {
    struct scales scales = load_scales(group, grid, w, at);
    for (int i = 0; i < 2 && BITS > 4 && !has_offsets(grid); i++) {
        scales.offset[i] = scales.scale[i] * broadcast(-(float) (1 << (BITS - 1)));
    }
    for (int i = 0; i < 4; i++) {
        unpacker->scale[i / 2][i % 2] = spread_rows(2, 8 * (i / 2), scales.scale[i % 2]);
        unpacker->offset[i / 2][i % 2] = spread_rows(2, 8 * (i / 2), scales.offset[i % 2]);
    }
}

#if BITS > 4
// A weight is code * scale + offset, which is exact before it is rounded to bfloat16 unless there are minima. `upper`: the
// upper bits, of which those of this quad are the first ones of each UPPER_SLOT * 2 if `quad` is even, else the last.
TMAC_INLINE void unpack_quad(const struct unpacker * unpacker, __m512i codes, __m512i upper, const int quad,
                             uint8_t * to) {
    __m512i lower_pairs[2], upper_pairs[2];
    for (int r = 0; r < 2; r++) {
        lower_pairs[r] = _mm512_permutexvar_epi8(unpacker->pairs[r], codes);
        // Bits above those of 4, as in the code.
        upper_pairs[r] = _mm512_slli_epi32(_mm512_permutexvar_epi8(unpacker->pairs[r], upper), 4);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int h = i / 2, p = i % 2;
        __m512 w[2];
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            const __m512i low = _mm512_srli_epi32(lower_pairs[r], SLOT * h + 8 * p);
            const __m512i high = _mm512_and_si512(
                _mm512_srli_epi32(upper_pairs[r], UPPER_SLOT * (2 * (quad % 2) + h) + 8 * p), _mm512_set1_epi32(0x30));
            // 0xEA: (low & 15) | high
            const __m512i code = _mm512_ternarylogic_epi32(low, _mm512_set1_epi32(15), high, 0xEA);
            w[r] = multiply_add(_mm512_cvtepi32_ps(code), unpacker->scale[h][r], unpacker->offset[h][r]);
        }
        _mm512_store_si512(to + h * TILE_BYTES + p * LINE, (__m512i) _mm512_cvtne2ps_pbh(w[1], w[0]));
    }
}
#else
TMAC_INLINE void unpack_quads(const int has_scales, const int grid, const struct unpacker * unpacker, __m512i codes,
                              uint8_t * to) {
    const __m512i pairs[2] = { _mm512_permutexvar_epi8(unpacker->pairs[0], codes),
                               _mm512_permutexvar_epi8(unpacker->pairs[1], codes) };
#pragma GCC unroll 16
    for (int i = 0; i < 4 * QUADS; i++) {
        const int q = i / 4, h = i / 2 % 2, p = i % 2;
        __m512 w[2];
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            const __m512i index = _mm512_srli_epi32(pairs[r], SLOT * (2 * q + h) + 8 * p);
            const __m512 meaning = _mm512_permutexvar_ps(index, unpacker->meanings);
            w[r] = weigh(has_scales, grid, meaning, unpacker->scale[h][r], unpacker->offset[h][r]);
        }
        _mm512_store_si512(to + h * TILE_BYTES + (2 * q + p) * LINE, (__m512i) _mm512_cvtne2ps_pbh(w[1], w[0]));
    }
}
#endif
