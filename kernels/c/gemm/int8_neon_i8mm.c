// GEMM for weights of BITS bits and int8 activations with matrix products: eight columns of two rows by
// those of two tokens.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#define ROW_CODES 8
#include "gemm/int8_neon.h"

// Rows of two quads, in pairs: pairs[i][j] has the rows 4i + 2j.
TMAC_INLINE void pair_quads(const uint8x16_t quads[2][4], uint8x16_t pairs[4][2]) {
    uint8x16_t rows[2][4];
    transpose_quad(quads[0], rows[0]);
    transpose_quad(quads[1], rows[1]);
    for (int i = 0; i < 4; i++) {
        const uint32x4_t left = vreinterpretq_u32_u8(rows[0][i]), right = vreinterpretq_u32_u8(rows[1][i]);
        pairs[i][0] = vreinterpretq_u8_u32(vzip1q_u32(left, right));
        pairs[i][1] = vreinterpretq_u8_u32(vzip2q_u32(left, right));
    }
}

// Eight columns row by row.
TMAC_INLINE void store_quads(const struct quads * quads, uint8_t * codes) {
    uint8x16_t pairs[4][2], high[4][2];
    pair_quads(quads->column, pairs);
    pair_quads(quads->high, high);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++) {
            vst1q_u8(codes + 32 * i + 16 * j, first_rows(pairs[i][j], high[i][j]));
            vst1q_u8(codes + 128 + 32 * i + 16 * j, last_rows(pairs[i][j], high[i][j]));
        }
    }
}

// Sums of two rows and two tokens: row 0 by tokens 0 and 1, row 1 by both. A token without a partner is its own.
TMAC_INLINE void add_products(const int rows, const int tokens, const int first, const int last, const uint8_t * codes,
                              const int8_t * const * values, int32x4_t * sums) {
#pragma GCC unroll 4
    for (int c = first / 8; c < last / 8; c++) {
        int8x16_t x[2];
        for (int t = 0; t < tokens; t += 2) {
            x[t / 2] = vcombine_s8(vld1_s8(values[t] + 8 * c), vld1_s8(values[t + 1 < tokens ? t + 1 : t] + 8 * c));
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows / 2; i++) {
            keep_order();
            const int8x16_t two = vreinterpretq_s8_u8(vld1q_u8(codes + 2 * c * QUAD_CODES + 16 * i));
#pragma GCC unroll 2
            for (int t = 0; t < tokens; t += 2) {
                int32x4_t * sum = sums + t / 2 * rows / 2 + i;
                *sum = vmmlaq_s32(*sum, two, x[t / 2]);
            }
        }
    }
}

TMAC_INLINE int32x4_t rows_of_products(const int rows, const int32x4_t * sums, int t, int i) {
    const int32x4_t * two = sums + t / 2 * rows / 2 + 2 * i;
    return t % 2 ? vuzp2q_s32(two[0], two[1]) : vuzp1q_s32(two[0], two[1]);
}
