// GEMV for weights of BITS bits with NEON: 16 bytes of a plane line, one quad for 32 rows, in a register. Needs: BITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "isa/neon.h"
#include "gemv/walk.h"
#include "weights/lookup.h"

#ifndef PREFETCH
#error "gemv/neon.c: define PREFETCH, in bytes ahead, before it"
#endif

// Of one table group: what the low bytes of the tables add up to in rows 8i..8i+7 and (exact) the high bytes, -2 to 2,
// of so many planes as fit into 8 bits in rows 16i..16i+15.
enum { HIGH_PLANES = BITS == 4 ? 2 : BITS };
struct sums {
    int16x8_t low[4];
    int8x16_t high[BITS / HIGH_PLANES][2];
};
// 6 bits come in groups of a chunk only (common/format.py).
_Static_assert(TOP_CODE *(BITS == 6 ? QUADS / CHUNKS : QUADS) * (IS_EXACT ? 255 : 128) < 32768,
               "the 16-bit sums would overflow");
_Static_assert(!IS_EXACT || ((1 << HIGH_PLANES) - 1) * QUADS * 2 < 128, "the 8-bit sums would overflow");

// Entries of rows 0..15 (half 0) or 16..31 (half 1).
TMAC_INLINE int8x16_t look_up(const uint8_t * entries, uint8x16_t codes, int half) {
    const uint8x16_t index = half ? vshrq_n_u8(codes, 4) : vandq_u8(codes, vdupq_n_u8(15));
    return vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(entries), index));
}

TMAC_INLINE void add(int16x8_t sums[2], int8x16_t a, int8x16_t b) {
    sums[0] = vaddq_s16(sums[0], vaddl_s8(vget_low_s8(a), vget_low_s8(b)));
    sums[1] = vaddq_s16(sums[1], vaddl_high_s8(a, b));
}

// The low bytes of exact tables.
TMAC_INLINE void add_unsigned(int16x8_t sums[2], int8x16_t a, int8x16_t b) {
    const uint8x16_t u = vreinterpretq_u8_s8(a), v = vreinterpretq_u8_s8(b);
    sums[0] = vaddq_s16(sums[0], vreinterpretq_s16_u16(vaddl_u8(vget_low_u8(u), vget_low_u8(v))));
    sums[1] = vaddq_s16(sums[1], vreinterpretq_s16_u16(vaddl_high_u8(u, v)));
}

// Adds what one plane of a table group looks up; quads j and j+4 lie in the two chunks.
TMAC_INLINE void look_up_plane(const uint8_t * plane, const uint8_t * entries, struct sums * sums, int8x16_t high[2]) {
#pragma GCC unroll 4
    for (int j = 0; j < QUADS / 2; j++) {
        const uint8x16_t codes[2] = { vld1q_u8(plane + 16 * j), vld1q_u8(plane + BITS * LINE + 16 * j) };
        const uint8_t * table = entries + 16 * j;
        keep_order();
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int8x16_t low[2] = { look_up(table, codes[0], half), look_up(table + CHUNK_ENTRIES, codes[1], half) };
            (IS_EXACT ? add_unsigned : add)(sums->low + 2 * half, low[0], low[1]);
            if (IS_EXACT) {
                const int8x16_t found = look_up(table + 64, codes[0], half);
                high[half] = vaddq_s8(high[half], vaddq_s8(found, look_up(table + CHUNK_ENTRIES + 64, codes[1], half)));
            }
        }
    }
}

// Rounding averages of the quads j, j+4 and of those, j, j+2.
TMAC_INLINE void average_plane(const uint8_t * plane, const uint8_t * entries, struct sums * sums) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int8x16_t average[4];
#pragma GCC unroll 4
        for (int j = 0; j < QUADS / 2; j++) {
            const uint8_t *codes = plane + 16 * j, *table = entries + 16 * j;
            keep_order();
            average[j] = vrhaddq_s8(look_up(table, vld1q_u8(codes), half),
                                    look_up(table + CHUNK_ENTRIES, vld1q_u8(codes + BITS * LINE), half));
        }
        add(sums->low + 2 * half, vrhaddq_s8(average[0], average[2]), vrhaddq_s8(average[1], average[3]));
    }
}

TMAC_INLINE struct sums sums_of_group(const uint8_t * lines, const uint8_t * entries) {
    struct sums sums = { { vdupq_n_s16(0) }, { { vdupq_n_s8(0) } } };
#pragma GCC unroll 5
    for (int b = BITS - 1; b >= 0; b--) {
        int8x16_t * high = sums.high[b / HIGH_PLANES];
        for (int i = 0; i < 4; i++) {
            sums.low[i] = vaddq_s16(sums.low[i], sums.low[i]);
        }
        for (int half = 0; half < 2; half++) {
            high[half] = vaddq_s8(high[half], high[half]);
        }
        if (IS_FAST) {
            average_plane(lines + b * LINE, entries, &sums);
        } else {
            look_up_plane(lines + b * LINE, entries, &sums, high);
        }
    }
    return sums;
}

TMAC_INLINE struct sums sums_of_chunk(const uint8_t * lines, const uint8_t * entries) {
    struct sums sums = { { vdupq_n_s16(0) }, { { vdupq_n_s8(0) } } };
#pragma GCC unroll 6
    for (int b = BITS - 1; b >= 0; b--) {
        for (int i = 0; i < 4; i++) {
            sums.low[i] = vaddq_s16(sums.low[i], sums.low[i]);
        }
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const uint8_t *plane = lines + b * LINE + 16 * j, *table = entries + 16 * j;
            const uint8x16_t codes[2] = { vld1q_u8(plane), vld1q_u8(plane + 32) };
            keep_order();
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                add(sums.low + 2 * half, look_up(table, codes[0], half), look_up(table + 32, codes[1], half));
            }
        }
    }
    return sums;
}

// What the high bytes of all planes add up to, rows 8i...
TMAC_INLINE int16x8_t sum_of_high(const struct sums * sums, int i) {
    const int8x16_t first = sums->high[0][i / 2], last = sums->high[BITS / HIGH_PLANES - 1][i / 2];
    const int16x8_t sum = i % 2 ? vmovl_high_s8(first) : vmovl_s8(vget_low_s8(first));
    const int16x8_t of_last = i % 2 ? vshll_high_n_s8(last, HIGH_PLANES) : vshll_n_s8(vget_low_s8(last), HIGH_PLANES);
    return BITS > HIGH_PLANES ? vaddq_s16(sum, of_last) : sum;
}

// Rows 8i+4*upper.. as floats. Averages of four count four times.
TMAC_INLINE float32x4_t floats_of_sums(const struct sums * sums, int i, int upper) {
    const int16x8_t low = IS_FAST ? vshlq_n_s16(sums->low[i], 2) : sums->low[i];
    const int32x4_t origin = vdupq_n_s32(ORIGIN);
    int32x4_t bits = upper ? vaddw_high_s16(origin, low) : vaddw_s16(origin, vget_low_s16(low));
    if (IS_EXACT) {
        const int16x8_t high = sum_of_high(sums, i);
        bits = upper ? vmlal_high_n_s16(bits, high, 256) : vmlal_n_s16(bits, vget_low_s16(high), 256);
    }
    return above_origin(bits, BIAS);
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
#pragma GCC unroll 2
    for (int s = 0; s < streams; s++) {
        float32x4_t total[8];
        for (int i = 0; i < 8; i++) {
            total[i] = vdupq_n_f32(0);
        }
#pragma GCC unroll 4
        for (int n = 0; n < count; n++) {
            for (int line = 0; line < CHUNKS * BITS; line++) {
                prefetch(lines[s] + line * LINE + PREFETCH);
            }
            const struct sums sums = sums_of_group(lines[s], x->entries + (first + n) * GROUP_ENTRIES);
            const float32x4_t step = vdupq_n_f32((float) step_of(x, first + n));
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                total[i] = vfmaq_f32(total[i], floats_of_sums(&sums, i / 2, i % 2), step);
            }
            lines[s] += CHUNKS * BITS * LINE;
        }
        const float32x4_t scale = vdupq_n_f32(x->scale[first / BLOCK_GROUPS]);
        for (int i = 0; i < 8; i++) {
            part[s][i] = vfmaq_f32(part[s][i], total[i], scale);
        }
    }
}

TMAC_INLINE void add_chunk(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t chunk,
                           floats part[][REGISTERS]) {
    const float32x4_t step = vdupq_n_f32((float) step_of(x, chunk / CHUNKS));
    const float32x4_t scale = vdupq_n_f32(x->scale[chunk / CHUNKS / BLOCK_GROUPS]);
#pragma GCC unroll 2
    for (int s = 0; s < streams; s++) {
        for (int line = 0; line < BITS; line++) {
            prefetch(lines[s] + line * LINE + PREFETCH);
        }
        const struct sums sums = sums_of_chunk(lines[s], x->entries + chunk * CHUNK_ENTRIES);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            part[s][i] = vfmaq_f32(part[s][i], vmulq_f32(floats_of_sums(&sums, i / 2, i % 2), step), scale);
        }
        lines[s] += BITS * LINE;
    }
}
