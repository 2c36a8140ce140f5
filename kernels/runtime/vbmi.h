// How a plane line becomes indices for look-ups of AVX-512 VBMI: transposed once so that four neighbouring bytes are the four
// quads of one row; `nibble | 16 * quad` then indexes four tables in one register.
#pragma once

#include "planes.h"

#include <immintrin.h>

struct constants {
    __m512i transpose;  // byte 4r+l <- byte 16l+r
    __m512i quad_table; // byte 4r+l: 16l, where the quad's table starts in the register
};

TMAC_INLINE struct constants make_constants(void) {
    uint8_t transpose[LINE], quad_table[LINE];
    for (int r = 0; r < 16; r++) {
        for (int l = 0; l < 4; l++) {
            transpose[4 * r + l] = (uint8_t) (16 * l + r);
            quad_table[4 * r + l] = (uint8_t) (16 * l);
        }
    }
    const struct constants constants = { _mm512_loadu_si512(transpose), _mm512_loadu_si512(quad_table) };
    return constants;
}

// The indices of rows 0..15 and 16..31 of a plane line.
TMAC_INLINE void indices_of_line(const struct constants constants, const uint8_t * line, __m512i index[2]) {
    const __m512i low_nibble = _mm512_set1_epi8(15);
    const __m512i q = _mm512_permutexvar_epi8(constants.transpose, _mm512_loadu_si512(line));
    // 0xEA: (q & low_nibble) | quad_table
    index[0] = _mm512_ternarylogic_epi32(q, low_nibble, constants.quad_table, 0xEA);
    index[1] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(q, 4), low_nibble, constants.quad_table, 0xEA);
}
