// How codes of 3 and 4 bits become bfloat16 weights: as floats they are multiplied by their scales.
//
// Needs: BITS of 3 or 4. Gives: load_activations, `struct unpacker`, make_unpacker, begin_group, unpack_quads.
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

TMAC_INLINE void begin_group(const int has_scales, const int grid, const struct tmac_matrix * w, int64_t at,
                             struct unpacker * unpacker) {
    const struct scales scales = load_scales(has_scales, grid, w, at);
    for (int i = 0; i < 4; i++) {
        unpacker->scale[i / 2][i % 2] = spread_rows(2, 8 * (i / 2), scales.scale[i % 2]);
        unpacker->offset[i / 2][i % 2] = spread_rows(2, 8 * (i / 2), scales.offset[i % 2]);
    }
}

TMAC_INLINE void unpack_quads(const int has_scales, const int grid, const struct unpacker * unpacker,
                              __m512i codes, uint8_t * to) {
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
