// GEMM for ternary weights by lookups with NEON: the indices and signs of a range of a tile are made once, in first-level
// cache, for all tokens of a block. A multiplication by the signs widens what 16 rows look up and adds it.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/neon.h"
#include "weights/trits.h"

// Of a triple: indices of the lower and of the higher rows, then signs of both, 1 or -1.
enum { TRIPLE_CODES = 4 * 16, BLOCK_CODES = TRIPLES * TRIPLE_CODES, STEP_TRIPLES = TMAC_STEP_LINES * LINE_TRIPLES };
#define BLOCK_TOKENS 16
#define STEP_UNITS 8 // tiles use the same tables
#define RANGE_COLUMNS 256
#define CODE_BYTES (RANGE_COLUMNS / TMAC_TRIT_BLOCK * BLOCK_CODES)
#include "gemm/neon.h"

SHARED void unpack(const uint8_t * lines, int count, uint8_t * codes) {
    for (int b = 0; b < count / BLOCK_GROUPS; b++, lines += BLOCK_BYTES) {
        for (int n = 0; n < TRIPLES; n++, codes += TRIPLE_CODES) {
            const uint8x16_t pairs = vld1q_u8(lines + UNIT * n);
            const uint8x16_t units = vld1q_u8(lines + SIGNS + n / LINE_TRIPLES * UNIT);
            vst1q_u8(codes, vandq_u8(pairs, vdupq_n_u8(15)));
            vst1q_u8(codes + 16, vshrq_n_u8(pairs, 4));
            for (int h = 0; h < 2; h++) {
                const int8x16_t shift = vdupq_n_s8((int8_t) (n % LINE_TRIPLES * 2 + h));
                const int8x16_t top = vshrq_n_s8(vreinterpretq_s8_u8(vshlq_u8(units, shift)), 7);
                vst1q_s8((int8_t *) codes + 32 + 16 * h, vorrq_s8(top, vdupq_n_s8(1)));
            }
        }
    }
}

_Static_assert(STEP_TRIPLES * 128 < 32768, "the 16-bit sums would overflow");
_Static_assert(TRIPLES * TOP_ENTRY < 1 << 22, "more than `above_origin` takes");

// sums[t] += step * what `count` triples look up, whose tables begin at entries[t].
TMAC_INLINE void add_step(const int tokens, const int count, const uint8_t * codes, const uint8_t * const entries[],
                          const int16_t steps[], int32x4_t sums[][8]) {
    int16x8_t found[4][4];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 4; i++) {
            found[t][i] = vdupq_n_s16(0);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < count; n++) {
        const uint8_t * at = codes + n * TRIPLE_CODES;
        const uint8x16_t index[2] = { vld1q_u8(at), vld1q_u8(at + 16) };
        const int8x16_t signs[2] = { vreinterpretq_s8_u8(vld1q_u8(at + 32)), vreinterpretq_s8_u8(vld1q_u8(at + 48)) };
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            const uint8x16_t table = vld1q_u8(entries[t] + 16 * n);
            keep_order();
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                const int8x16_t entry = vreinterpretq_s8_u8(vqtbl1q_u8(table, index[h]));
                int16x8_t * to = &found[t][2 * h];
                to[0] = vmlal_s8(to[0], vget_low_s8(entry), vget_low_s8(signs[h]));
                to[1] = vmlal_high_s8(to[1], entry, signs[h]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            sums[t][2 * i] = vmlal_n_s16(sums[t][2 * i], vget_low_s16(found[t][i]), steps[t]);
            sums[t][2 * i + 1] = vmlal_high_n_s16(sums[t][2 * i + 1], found[t][i], steps[t]);
        }
    }
}

// The integer sums of a block, whose first table group is `first`, above ORIGIN.
TMAC_INLINE void add_block(const int tokens, const uint8_t * codes, const struct tmac_activations * x, int64_t first,
                           int32x4_t sums[][8]) {
    for (int i = 0; i < 8 * tokens; i++) {
        sums[i / 8][i % 8] = vdupq_n_s32(ORIGIN);
    }
    for (int n = 0; n < TRIPLES; n += STEP_TRIPLES) {
        const uint8_t * entries[4];
        int16_t steps[4];
        for (int t = 0; t < tokens; t++) {
            entries[t] = entries_of_block(x + t, first) + 16 * n;
            steps[t] = (int16_t) (steps_of_line(x + t, first, n / LINE_TRIPLES) & 255);
        }
        if (n + STEP_TRIPLES <= TRIPLES) {
            add_step(tokens, STEP_TRIPLES, codes + n * TRIPLE_CODES, entries, steps, sums);
        } else {
            add_step(tokens, TRIPLES % STEP_TRIPLES, codes + n * TRIPLE_CODES, entries, steps, sums);
        }
    }
}

TMAC_INLINE void multiply(const int tokens, int group, int grid, const struct range * range,
                          const struct scratch * scratch, const struct tmac_activations * x, token_rows * out) {
    const int per_group = groups_of_sum(group, range->count);
    for (int g = 0; g * per_group < range->count; g++) {
        floats part[4][8];
        for (int t = 0; t < tokens; t++) {
            const struct group_sum sum_x = group_sum_at(group, 0, x + t, range->first + g * per_group);
            for (int i = 0; i < 8; i++) {
                part[t][i] = group ? broadcast(sum_x.start) : load_floats(out[t] + FLOATS * i);
            }
        }
        for (int a = g * per_group; a < (g + 1) * per_group; a += BLOCK_GROUPS) {
            const int64_t first = range->first + a;
            int32x4_t sums[4][8];
            add_block(tokens, scratch->codes + a / BLOCK_GROUPS * BLOCK_CODES, x, first, sums);
            for (int t = 0; t < tokens; t++) {
                const floats scale = broadcast(x[t].scale[first / BLOCK_GROUPS]);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    part[t][i] = multiply_add(above_origin(sums[t][i], 0), scale, part[t][i]);
                }
            }
        }
        for (int t = 0; t < tokens; t++) {
            finish_rows(group, 0, scratch, g, 0, TMAC_TILE_ROWS, 0, part[t], out[t]);
        }
    }
    (void) grid;
}
