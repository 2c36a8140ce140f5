// GEMM for weights of BITS bits by lookups with AVX-512 BW: one quad of columns for the 64 rows of two tiles in a
// register.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx512.h"
#define UNIT_TILES 2
#include "gemm/tables_x86.h"

// Even and odd numbers of lower and of upper rows are rows 0..15 of both tiles, 16..31 of both.
TMAC_INLINE int vector_row(int v) { return v % 2 * TMAC_TILE_ROWS + v / 2 * FLOATS; }

// Of the quads of two plane lines: byte 2i+j of lane k is the nibble of row 4k+i of tile j; bytes 8..15, of 16 rows
// further on.
TMAC_INLINE void quad_indices(const uint8_t * const lines[UNIT_TILES], bytes quads[CHUNK_QUADS]) {
    const __m512i a = load_bytes(lines[0]), b = load_bytes(lines[1]);
    const __m512i rows[2] = { interleave_low(a, b), interleave_high(a, b) };
    const __m512i shifts = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    for (int q = 0; q < 4; q++) {
        const __m512i pairs =
            _mm512_setr_epi64(2 * q, 2 * q, 2 * q + 1, 2 * q + 1, 2 * q + 8, 2 * q + 8, 2 * q + 9, 2 * q + 9);
        const __m512i both = _mm512_permutex2var_epi64(rows[0], pairs, rows[1]);
        quads[q] = _mm512_and_si512(_mm512_srlv_epi64(both, shifts), _mm512_set1_epi8(15));
    }
}
