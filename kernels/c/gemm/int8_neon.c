// GEMM for weights of BITS bits and int8 activations with NEON: one activation times a column of codes.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#define ROW_CODES 1
#include "gemm/int8_neon.h"

// Column by column.
TMAC_INLINE void store_quads(const struct quads * quads, uint8_t * codes) {
    for (int i = 0; i < 8; i++, codes += TMAC_TILE_ROWS) {
        vst1q_u8(codes, first_rows(quads->column[i / 4][i % 4], quads->high[i / 4][i % 4]));
        vst1q_u8(codes + 16, last_rows(quads->column[i / 4][i % 4], quads->high[i / 4][i % 4]));
    }
}

// As many columns as 16-bit sums hold.
enum { NARROW_COLUMNS = BITS < 4 ? 32 : 256 >> BITS };
_Static_assert(TOP_CODE * 128 * NARROW_COLUMNS < 32768, "the 16-bit sums would overflow");

// Sixteen times the byte at *from, which moves on. GCC would make two instructions of vld1q_dup_s8, by way of a general
// register.
TMAC_INLINE int8x16_t next_value(const int8_t ** from) {
    int8x16_t value;
    __asm__ volatile("ld1r {%0.16b}, [%1], #1" : "=w"(value), "+r"(*from) : : "memory");
    return value;
}

TMAC_INLINE void add_products(const int rows, const int tokens, const int first, const int last, const uint8_t * codes,
                              const int8_t * const * values, int32x4_t * sums) {
    const int step = last - first < NARROW_COLUMNS ? last - first : NARROW_COLUMNS;
    const int8_t * next[4];
    for (int t = 0; t < tokens; t++) {
        next[t] = values[t] + first;
    }
#pragma GCC unroll 8
    for (int from = first; from < last; from += step) {
        int16x8_t narrow[4][4];
        for (int i = 0; i < 16; i++) {
            narrow[i / 4][i % 4] = vdupq_n_s16(0);
        }
#pragma GCC unroll 32
        for (int k = from; k < from + step; k++) {
            int8x16_t code[2];
            keep_order();
            for (int i = 0; i < rows / 16; i++) {
                code[i] = vreinterpretq_s8_u8(vld1q_u8(codes + k * TMAC_TILE_ROWS + 16 * i));
            }
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const int8x16_t value = next_value(&next[t]);
                for (int i = 0; i < rows / 16; i++) {
                    narrow[t][2 * i] = vmlal_s8(narrow[t][2 * i], vget_low_s8(code[i]), vget_low_s8(value));
                    narrow[t][2 * i + 1] = vmlal_high_s8(narrow[t][2 * i + 1], code[i], value);
                }
            }
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 4
            for (int i = 0; i < rows / 8; i++) {
                int32x4_t * wide = sums + t * rows / 4 + 2 * i;
                wide[0] = vaddw_s16(wide[0], vget_low_s16(narrow[t][i]));
                wide[1] = vaddw_high_s16(wide[1], narrow[t][i]);
            }
        }
    }
}

TMAC_INLINE int32x4_t rows_of_products(const int rows, const int32x4_t * sums, int t, int i) {
    return sums[t * rows / 4 + i];
}
