// How ternary blocks become codes with AVX-512 VBMI: a lookup gives the three codes of a triple, shifts of bit fields bring
// them to their columns.
//
// Needs: weights/trit_codes.h's TRITS, BITS, PRECISION. Gives: codes_of_triples, codes_of_quad.
#pragma once

#include "isa/avx512_vbmi.h"
#include "weights/trit_codes.h"
#include "weights/trit_signs_avx512_vbmi.h"

struct trit_constants {
    bytes transpose; // byte 4r+l <- byte 16l+r
    struct sign_constants signs;
    bytes table;             // codes of the nibbles of positive triples, then, from entry 16 on, of negative ones
    bytes quads[LINE_QUADS]; // of a quad's columns: where the codes of two rows lie in 64 bits
};

TMAC_INLINE struct trit_constants trit_constants(void) {
    uint8_t quads[LINE_QUADS][BYTES], table[BYTES] = { 0 };
    memcpy(table, triple_codes, sizeof triple_codes);
    for (int i = 0; i < BYTES; i++) {
        for (int q = 0; q < LINE_QUADS; q++) {
            const int column = 4 * q + i % 4;
            quads[q][i] = (uint8_t) (i / 4 % 2 * 32 + column / 3 * 8 + column % 3 * 2);
        }
    }
    const struct trit_constants constants = {
        .transpose = index_constants().transpose,
        .signs = sign_constants(),
        .table = load_bytes(table),
        .quads = { load_bytes(quads[0]), load_bytes(quads[1]), load_bytes(quads[2]) },
    };
    return constants;
}

// Byte 4r+l: the codes of triple l of a line, rows r and 16+r. Of the last line the fourth triple is not one.
TMAC_INLINE void codes_of_triples(const struct trit_constants constants, const uint8_t * block, int line,
                                  bytes codes[2]) {
    const bytes pairs = _mm512_permutexvar_epi8(constants.transpose, load_bytes(block + line * LINE));
    const bytes low = broadcast_word(0x0F0F);
    __mmask64 negative[2];
    negative_of_line(constants.signs, block + SIGNS + line * UNIT, negative);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const bytes nibble = bits_and(h ? shift_right(pairs, 4) : pairs, low);
        codes[h] =
            look_up_64(constants.table, _mm512_mask_add_epi8(nibble, negative[h], nibble, broadcast_word(0x1010)));
    }
}

// Byte 4r+u: the code of column 4 quad + u of row r, from the codes of the triples.
TMAC_INLINE bytes codes_of_quad(const struct trit_constants constants, bytes codes, int quad) {
    return bits_and(_mm512_multishift_epi64_epi8(constants.quads[quad], codes), broadcast_word(0x0303));
}
