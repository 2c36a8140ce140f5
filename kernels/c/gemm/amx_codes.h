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
// has.
enum { SLOT = BITS == 3 ? 4 : BITS, QUADS = 4 / SLOT };

struct code_constants {
    __m512i gather; // the bits of rows r, r+8, r+16, r+24 of all quads and planes into the 8 bytes of r
    __m512i column; // bit i of byte i: by its product with them they are transposed
};

TMAC_INLINE struct code_constants code_constants(void) {
    uint8_t gather[LINE] = { 0 }, column[LINE];
    for (int r = 0; r < 16; r++) {
        for (int q = 0; q < QUADS; q++) {
            for (int b = 0; b < SLOT; b++) {
                gather[8 * (r % 8) + 7 - SLOT * (2 * q + r / 8) - b] = (uint8_t) (16 * (QUADS * b + q) + r);
            }
        }
    }
    for (int i = 0; i < LINE; i++) {
        column[i] = (uint8_t) (1 << i % 8);
    }
    const struct code_constants constants = { _mm512_loadu_si512(gather), _mm512_loadu_si512(column) };
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
