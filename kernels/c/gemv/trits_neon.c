// GEMV for ternary weights with NEON: 16 bytes of nibbles, one triple for 32 rows, in a register. Needs: BITS, TRITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "isa/neon.h"
#include "gemv/walk.h"
#include "weights/trits.h"

#ifndef PREFETCH
#error "gemv/trits_neon.c: define PREFETCH, in bytes ahead, before it"
#endif

// Adds what a triple looks up for rows 16h..: its entries times plus or minus the step, of exact tables also the high ones
// times 4.
TMAC_INLINE void look_up_half(uint8x16_t codes, int8x16_t steps, const uint8_t * entries, int h, int16x8_t sums[2]) {
    const uint8x16_t index = h ? vshrq_n_u8(codes, 4) : vandq_u8(codes, vdupq_n_u8(15));
#pragma GCC unroll 2
    for (int p = 0; p < ENTRY_PARTS; p++) {
        const int8x16_t found = vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(entries + p * LINE), index));
        const int8x16_t factor = p ? vshlq_n_s8(steps, 2) : steps;
        sums[0] = vmlal_s8(sums[0], vget_low_s8(found), vget_low_s8(factor));
        sums[1] = vmlal_high_s8(sums[1], found, factor);
    }
}
// Lines that are added in 16 bits.
enum { WORD_LINES = IS_EXACT ? SUM_LINES : 2 };
_Static_assert(WORD_LINES * LINE_TRIPLES * TOP_ENTRY < 32768, "the 16-bit sums would overflow");

// Adds what `count` triples of a line look up: rows 8i.. to sums[i].
TMAC_INLINE void look_up_line(const int count, const uint8_t * line, const uint8_t * units, const uint8_t * entries,
                              int step, int16x8_t sums[4]) {
    const int8x16_t steps = vdupq_n_s8((int8_t) step);
    // The sign of the next triple and half is always bit 7.
    uint8x16_t unit = vld1q_u8(units);
    keep_order();
#pragma GCC unroll 4
    for (int l = 0; l < count; l++) {
        const uint8x16_t codes = vld1q_u8(line + UNIT * l);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const int8x16_t negative = vshrq_n_s8(vreinterpretq_s8_u8(unit), 7);
            const int8x16_t factor = vsubq_s8(veorq_s8(steps, negative), negative);
            look_up_half(codes, factor, entries + UNIT * l, h, sums + 2 * h);
            unit = vaddq_u8(unit, unit);
        }
    }
}

_Static_assert(TRIPLES * TOP_ENTRY < 1 << 22, "more than `above_origin` takes");

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const uint8_t * entries = entries_of_block(x, first);
#pragma GCC unroll 2
    for (int s = 0; s < streams; s++) {
        int32x4_t total[8];
        for (int i = 0; i < 8; i++) {
            total[i] = vdupq_n_s32(ORIGIN);
        }
        for (int i = 0; i < SUMS_OF_BLOCK; i++) {
            prefetch(lines[s] + SIGNS + i * LINE + PREFETCH);
        }
#pragma GCC unroll 6
        for (int from = 0; from < TRIT_LINES; from += WORD_LINES) {
            int16x8_t sums[4] = { vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0) };
#pragma GCC unroll 4
            for (int i = 0; i < WORD_LINES; i++) {
                const int line = from + i;
                if (line >= TRIT_LINES) {
                    continue;
                }
                const int triples = line + 1 < TRIT_LINES ? LINE_TRIPLES : TRIPLES - line * LINE_TRIPLES;
                prefetch(lines[s] + line * LINE + PREFETCH);
                look_up_line(triples, lines[s] + line * LINE, lines[s] + SIGNS + line * UNIT,
                             entries + line * LINE_ENTRIES, (int) (steps_of_line(x, first, line) & 255), sums);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                total[2 * j] = vaddw_s16(total[2 * j], vget_low_s16(sums[j]));
                total[2 * j + 1] = vaddw_high_s16(total[2 * j + 1], sums[j]);
            }
        }
        const float32x4_t scale = vdupq_n_f32(x->scale[first / BLOCK_GROUPS]);
        for (int i = 0; i < 8; i++) {
            part[s][i] = vfmaq_f32(part[s][i], above_origin(total[i], 0), scale);
        }
        lines[s] += BLOCK_BYTES;
    }
    (void) count;
}
