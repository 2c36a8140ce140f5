// How ternary blocks become codes with AMX: a block at a time, when its first columns are wanted.
//
// Needs: TRITS, BITS and PRECISION (weights/planes.h). Gives: begins_block, codes_of_halves.
#pragma once

#include "gemm/unpack_trits_avx512_vbmi.h"
#include "isa/amx.h"

TMAC_INLINE int begins_block(int64_t column) { return column % TMAC_TRIT_BLOCK == 0; }

// As codes_of_triples, of rows r and 16+r for r from 0 to 7, and from 8 to 15.
TMAC_INLINE void codes_of_halves(const struct trit_constants constants, const uint8_t * block, int line,
                                 bytes codes[2]) {
    bytes rows[2];
    codes_of_triples(constants, block, line, rows);
    codes[0] = _mm512_shuffle_i64x2(rows[0], rows[1], 0x44);
    codes[1] = _mm512_shuffle_i64x2(rows[0], rows[1], 0xEE);
}

TMAC_INLINE void prefetch_block(const uint8_t * block) {
    for (int at = 0; at < BLOCK_BYTES; at += LINE) {
        prefetch(block + at);
    }
}
