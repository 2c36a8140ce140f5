// How plane lines become codes with AMX: 8 x 8 bits are transposed at a time.
//
// Needs: BITS and PRECISION (weights/planes.h). Gives: codes_of_quads.
#pragma once

#include "isa/amx.h"
#include "weights/planes.h"

// Columns [first, last) of a row tile, `step` at a time, and what the template unpacks them with.
struct columns {
    const struct tmac_matrix * w;
    struct unpacker * unpacker;
    int64_t tile, first, last;
    int step;
};

// Bits of a byte that a code has while its register is unpacked, and how many quads, each 4 columns of 32 rows, it then
// has. Of 5 and 6 bits those are the lower four; the others are unpacked as codes of 2 bits for themselves.
enum { SLOT = BITS >= 3 ? 4 : BITS, QUADS = 4 / SLOT, UPPER_SLOT = 2 };

struct code_constants {
    __m512i gather; // the bits of rows r, r+8, r+16, r+24 of all quads and planes into the 8 bytes of r
    __m512i column; // bit i of byte i: by its product with them they are transposed
    __m512i upper;  // as `gather`, of the upper bits
};

TMAC_INLINE __m512i gather_for(const int slot) {
    uint8_t gather[LINE] = { 0 };
    const int quads = 4 / slot;
    for (int r = 0; r < 16; r++) {
        for (int q = 0; q < quads; q++) {
            for (int b = 0; b < slot; b++) {
                gather[8 * (r % 8) + 7 - slot * (2 * q + r / 8) - b] = (uint8_t) (16 * (quads * b + q) + r);
            }
        }
    }
    return _mm512_loadu_si512(gather);
}

TMAC_INLINE struct code_constants code_constants(void) {
    uint8_t column[LINE];
    for (int i = 0; i < LINE; i++) {
        column[i] = (uint8_t) (1 << i % 8);
    }
    const struct code_constants constants = { gather_for(SLOT), _mm512_loadu_si512(column), gather_for(UPPER_SLOT) };
    return constants;
}

TMAC_INLINE __m128i quad_of_line(const uint8_t * line) { return _mm_loadu_si128((const __m128i *) line); }

// Quads from `quad` on of the planes whose lines begin at `lines`, plane after plane.
TMAC_INLINE __m512i load_quads(const uint8_t * lines, int quad) {
    const uint8_t * at = lines + 16 * quad;
    if (BITS == 1) {
        return _mm512_loadu_si512(at);
    }
    if (BITS == 2) {
        const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) at));
        return _mm512_inserti64x4(first, _mm256_loadu_si256((const __m256i *) (at + LINE)), 1);
    }
    __m512i planes = _mm512_castsi128_si512(quad_of_line(at));
    planes = _mm512_mask_broadcast_i32x4(planes, 0x00F0, quad_of_line(at + LINE));
    planes = _mm512_mask_broadcast_i32x4(planes, 0x0F00, quad_of_line(at + 2 * LINE));
    return BITS == 3 ? planes : _mm512_mask_broadcast_i32x4(planes, 0xF000, quad_of_line(at + 3 * LINE));
}

// Byte 8r+u has column u of rows r and r+8, byte 8r+4+u of rows r+16 and r+24, of each quad q: the code of row r+8h at
// bit SLOT*(2q+h), of 3 bits with a bit of any value above.
TMAC_INLINE __m512i codes_of_quads(const struct code_constants constants, const uint8_t * lines, int quad) {
    const __m512i bits = _mm512_permutexvar_epi8(constants.gather, load_quads(lines, quad));
    return _mm512_gf2p8affine_epi64_epi8(constants.column, bits, 0);
}

// The same of the bits above the lower four, of `quad` and the next one: those of row r+8h at bit UPPER_SLOT*(2q+h).
TMAC_INLINE __m512i upper_codes_of_quads(const struct code_constants constants, const uint8_t * lines, int quad) {
    const uint8_t * at = lines + 4 * LINE + 16 * quad;
    __m512i planes = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) at));
    planes = BITS == 6 ? _mm512_inserti64x4(planes, _mm256_loadu_si256((const __m256i *) (at + LINE)), 1)
                       : _mm512_zextsi256_si512(_mm512_castsi512_si256(planes));
    return _mm512_gf2p8affine_epi64_epi8(constants.column, _mm512_permutexvar_epi8(constants.upper, planes), 0);
}
