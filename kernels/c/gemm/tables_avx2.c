// GEMM for weights of BITS bits by lookups with AVX2: one quad of columns for the 32 rows of a tile in a register.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx2.h"
#define UNIT_TILES 1
#include "gemm/tables_x86.h"

// Even and odd numbers of lower and of upper rows are rows 0..7, 8..15, 16..23, 24..31.
TMAC_INLINE int vector_row(int v) { return v * FLOATS; }

// Of the quads of a plane line: byte 2i+j of lane k is the nibble of row 8j+4k+i, of which 8..15 are those of 16 rows
// further on.
TMAC_INLINE void quad_indices(const uint8_t * const lines[UNIT_TILES], bytes quads[CHUNK_QUADS]) {
    const __m256i order = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7,
                                           15, 4, 12, 5, 13, 6, 14, 7, 15);
    const __m256i shifts = _mm256_setr_epi64x(0, 4, 0, 4);
    for (int q = 0; q < 4; q++) {
        const __m256i rows = _mm256_shuffle_epi8(broadcast_16(lines[0] + 16 * q), order);
        quads[q] = _mm256_and_si256(_mm256_srlv_epi64(rows, shifts), _mm256_set1_epi8(15));
    }
}
