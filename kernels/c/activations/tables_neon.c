// Builds lookup tables with NEON: four registers hold the 16 sums of a quad.
//
// Needs: PREPARE_TABLES and PREPARE_EXACT_TABLES, the names of the functions that it gives (activations/tables.h).
#include "isa/neon.h"

struct values {
    float32x4_t quad[TMAC_TABLE_GROUP / 4][4];
};
#include "activations/tables.h"

// NaN becomes 0.
static int16x8_t rounded(float32x4_t a, float32x4_t b, float32x4_t factor) {
    return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(vmulq_f32(a, factor))),
                        vmovn_s32(vcvtnq_s32_f32(vmulq_f32(b, factor))));
}

TMAC_INLINE void values_of_group(const float * quad, struct values * values, float * top, float * sum) {
    // lane i: +1 where bit u of i is set, else -1; a product with it is exact, so fma only adds
    const float32x4_t sign0 = { -1, 1, -1, 1 }, sign1 = { -1, -1, 1, 1 };
    float32x4_t highest = vdupq_n_f32(0);
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++, quad += 4) {
        float32x4_t * value = values->quad[q];
        const float32x4_t four = vld1q_f32(quad), x2 = vdupq_laneq_f32(four, 2), x3 = vdupq_laneq_f32(four, 3);
        const float32x4_t v = vfmaq_laneq_f32(vmulq_laneq_f32(sign0, four, 0), sign1, four, 1);
        const float32x4_t without_x2 = vsubq_f32(v, x2), with_x2 = vaddq_f32(v, x2);
        value[0] = vsubq_f32(without_x2, x3);
        value[1] = vsubq_f32(with_x2, x3);
        value[2] = vaddq_f32(without_x2, x3);
        value[3] = vaddq_f32(with_x2, x3);
        // entries 0..7 are those of 8..15 with the other sign
        highest = vmaxq_f32(highest, vmaxq_f32(vabsq_f32(value[2]), vabsq_f32(value[3])));
        const float last = vgetq_lane_f32(value[3], 3);
        *sum = q ? *sum + last : last;
    }
    *top = vmaxvq_f32(highest);
}

TMAC_INLINE void round_values(const struct values * values, float factor, int usable, uint8_t * entries) {
    const float32x4_t factors = vdupq_n_f32(usable ? factor : 0);
#pragma GCC unroll 8
    for (int q = 0; q < QUADS; q++) {
        const float32x4_t * v = values->quad[q];
        const int8x8_t low = vmovn_s16(rounded(v[0], v[1], factors)), high = vmovn_s16(rounded(v[2], v[3], factors));
        vst1q_u8(entries + 16 * q, vreinterpretq_u8_s8(vcombine_s8(low, high)));
    }
}
