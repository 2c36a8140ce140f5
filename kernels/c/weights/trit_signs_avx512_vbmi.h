// The signs of a line of triples with AVX-512 VBMI: bytes of a register whose triple is negative.
//
// Needs: weights/trit_blocks.h. Gives: sign_constants, negative_of_line.
#pragma once

#include "isa/avx512_vbmi.h"
#include "weights/trit_blocks.h"

struct sign_constants {
    bytes spread;  // byte 4r+l <- byte r
    bytes bits[2]; // byte 4r+l: the sign bit of triple l, rows 0..15 and 16..31
};

TMAC_INLINE struct sign_constants sign_constants(void) {
    uint8_t spread[BYTES], bits[2][BYTES];
    for (int i = 0; i < BYTES; i++) {
        spread[i] = (uint8_t) (i / 4);
        for (int h = 0; h < 2; h++) {
            bits[h][i] = (uint8_t) (128 >> (2 * (i % 4) + h));
        }
    }
    const struct sign_constants constants = { load_bytes(spread), { load_bytes(bits[0]), load_bytes(bits[1]) } };
    return constants;
}

// Of the 16 bytes of signs at `units`: bit 4r+l of negative[h] belongs to row 16h + r and triple l.
TMAC_INLINE void negative_of_line(const struct sign_constants constants, const uint8_t * units, __mmask64 negative[2]) {
    const __m512i loaded = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *) units));
    const bytes spread = _mm512_permutexvar_epi8(constants.spread, loaded);
    negative[0] = _mm512_test_epi8_mask(spread, constants.bits[0]);
    negative[1] = _mm512_test_epi8_mask(spread, constants.bits[1]);
}
