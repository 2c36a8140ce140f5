// GEMM for weights of BITS bits by lookups with NEON: the indices of 128 columns of a tile are made once, in
// first-level cache, for all tokens of a block.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/neon.h"
#include "weights/lookup.h"

enum { PAIRS = QUADS / 2, PAIR_INDICES = 4, GROUP_INDICES = BITS * PAIRS * PAIR_INDICES };
#define BLOCK_TOKENS 16
#define STEP_UNITS 8 // tiles use the same tables
#define RANGE_COLUMNS TMAC_TABLE_BLOCK
#define CODE_BYTES (RANGE_COLUMNS / TMAC_TABLE_GROUP * GROUP_INDICES * 16)
#include "gemm/neon.h"

// Neighbouring bytes are two quads of a row; sixteen rows of both, and the others.
TMAC_INLINE void make_indices(uint8x16_t first, uint8x16_t second, uint8x16_t index[PAIR_INDICES]) {
    const uint8x16_t second_table = vreinterpretq_u8_u16(vdupq_n_u16(16 << 8));
    const uint8x16_t rows[2] = { vzip1q_u8(first, second), vzip2q_u8(first, second) };
    for (int i = 0; i < 2; i++) {
        index[i] = vorrq_u8(vandq_u8(rows[i], vdupq_n_u8(15)), second_table);
        index[2 + i] = vorrq_u8(vshrq_n_u8(rows[i], 4), second_table);
    }
}

// Looks up in the tables of both quads at once, and adds them up: sums of rows 8i... Cortex-A72 takes as long for this
// as for two lookups in one table each and four additions, later cores two thirds.
TMAC_INLINE void add_pair(const uint8_t * tables, const uint8x16_t index[PAIR_INDICES], int16x8_t sums[4]) {
    const uint8x16x2_t both = vld1q_u8_x2(tables);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        sums[i] = vpadalq_s8(sums[i], vreinterpretq_s8_u8(vqtbl2q_u8(both, index[i])));
    }
}

// Index vectors [table group][plane][pair of quads][4].
SHARED void unpack(const uint8_t * lines, int count, uint8_t * codes) {
    for (int a = 0; a < count; a++, lines += CHUNKS * BITS * LINE) {
        for (int b = 0; b < BITS; b++) {
            for (int p = 0; p < PAIRS; p++, codes += 16 * PAIR_INDICES) {
                REGION_BEGIN("unpack", BITS);
                const uint8_t * quads = lines + (p / 2 * BITS + b) * LINE + p % 2 * 32;
                uint8x16_t index[PAIR_INDICES];
                make_indices(vld1q_u8(quads), vld1q_u8(quads + 16), index);
                for (int i = 0; i < PAIR_INDICES; i++) {
                    vst1q_u8(codes + 16 * i, index[i]);
                }
                REGION_END();
            }
        }
    }
}

_Static_assert(TOP_CODE * QUADS * 128 < 32768, "the 16-bit sums would overflow");
_Static_assert(TOP_CODE * QUADS * 128 * TMAC_LARGEST_STEP * BLOCK_GROUPS < 1 << 22, "more than `above_origin` takes");

// sums[t] += step * what a table group looks up.
TMAC_INLINE void add_table_group(const int tokens, const uint8_t * codes, const struct tmac_activations * x,
                                 int64_t table_group, int32x4_t sums[][8]) {
    int16x8_t found[4][4];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 4; i++) {
            found[t][i] = vdupq_n_s16(0);
        }
    }
#pragma GCC unroll 4
    for (int b = BITS - 1; b >= 0; b--) {
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            for (int i = 0; i < 4; i++) {
                found[t][i] = vaddq_s16(found[t][i], found[t][i]);
            }
        }
#pragma GCC unroll 4
        for (int p = 0; p < PAIRS; p++) {
            uint8x16_t index[PAIR_INDICES];
            for (int i = 0; i < PAIR_INDICES; i++) {
                index[i] = vld1q_u8(codes + ((b * PAIRS + p) * PAIR_INDICES + i) * 16);
            }
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const uint8_t * tables = x[t].entries + table_group * GROUP_ENTRIES + p * 32;
                keep_order();
                add_pair(tables, index, found[t]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        const int16_t step = (int16_t) step_of(x + t, table_group);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            sums[t][2 * i] = vmlal_n_s16(sums[t][2 * i], vget_low_s16(found[t][i]), step);
            sums[t][2 * i + 1] = vmlal_high_n_s16(sums[t][2 * i + 1], found[t][i], step);
        }
    }
}

// Weight group g of the range, which begins with its table group `a`.
TMAC_INLINE void multiply_group(int group, int grid, const int tokens, const struct range * range,
                                const struct scratch * scratch, const struct tmac_activations * x, int a, int g,
                                token_rows * out) {
    const int count = groups_of_sum(group, range->count);
    int32x4_t sums[4][8];
    for (int i = 0; i < 8 * tokens; i++) {
        sums[i / 8][i % 8] = vdupq_n_s32(ORIGIN);
    }
    for (int n = a; n < a + count; n++) {
        add_table_group(tokens, scratch->codes + n * GROUP_INDICES * 16, x, range->first + n, sums);
    }
    for (int t = 0; t < tokens; t++) {
        const struct group_sum sum_x = group_sum_at(group, grid, x + t, range->first + a);
        const floats scale = broadcast(x[t].scale[range->first / BLOCK_GROUPS]), start = broadcast(sum_x.start);
        floats part[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            part[i] =
                multiply_add(above_origin(sums[t][i], 0), scale, group ? start : load_floats(out[t] + FLOATS * i));
        }
        finish_rows(group, grid, scratch, g, 0, TMAC_TILE_ROWS, sum_x.per_offset, part, out[t]);
    }
}

TMAC_INLINE void multiply(const int tokens, int group, int grid, const struct range * range,
                          const struct scratch * scratch, const struct tmac_activations * x, token_rows * out) {
    for (int a = 0, g = 0; a < range->count; a += groups_of_sum(group, range->count), g++) {
        REGION_BEGIN("multiply", tokens);
        multiply_group(group, grid, tokens, range, scratch, x, a, g, out);
        REGION_END();
    }
}
