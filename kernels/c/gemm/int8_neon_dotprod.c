// GEMM for weights of BITS bits and int8 activations with dot products: four columns of four rows.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#define ROW_CODES 4
#include "gemm/int8_neon.h"

// Quad by quad, row by row.
TMAC_INLINE void store_quads(const struct quads * quads, uint8_t * codes) {
    for (int l = 0; l < 2; l++, codes += QUAD_CODES) {
        uint8x16_t rows[4], high[4];
        transpose_quad(quads->column[l], rows);
        transpose_quad(quads->high[l], high);
        for (int i = 0; i < 4; i++) {
            vst1q_u8(codes + 16 * i, first_rows(rows[i], high[i]));
            vst1q_u8(codes + 64 + 16 * i, last_rows(rows[i], high[i]));
        }
    }
}

// The instruction's lane is a constant.
TMAC_INLINE int32x4_t add_dot(int32x4_t sum, int8x16_t codes, int8x16_t values, int quad) {
    switch (quad) {
        case 0: return vdotq_laneq_s32(sum, codes, values, 0);
        case 1: return vdotq_laneq_s32(sum, codes, values, 1);
        case 2: return vdotq_laneq_s32(sum, codes, values, 2);
        default: return vdotq_laneq_s32(sum, codes, values, 3);
    }
}

TMAC_INLINE void add_products(const int rows, const int tokens, const int first, const int last, const uint8_t * codes,
                              const int8_t * const * values, int32x4_t * sums) {
#pragma GCC unroll 2
    for (int c = first / TMAC_CHUNK_COLS; c < last / TMAC_CHUNK_COLS; c++) {
        int8x16_t x[4];
        for (int t = 0; t < tokens; t++) {
            x[t] = vld1q_s8(values[t] + TMAC_CHUNK_COLS * c);
        }
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++) {
#pragma GCC unroll 8
            for (int i = 0; i < rows / 4; i++) {
                keep_order();
                const int8x16_t four = vreinterpretq_s8_u8(vld1q_u8(codes + (4 * c + l) * QUAD_CODES + 16 * i));
#pragma GCC unroll 4
                for (int t = 0; t < tokens; t++) {
                    sums[t * rows / 4 + i] = add_dot(sums[t * rows / 4 + i], four, x[t], l);
                }
            }
        }
    }
}

TMAC_INLINE int32x4_t rows_of_products(const int rows, const int32x4_t * sums, int t, int i) {
    return sums[t * rows / 4 + i];
}
