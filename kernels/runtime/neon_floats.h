// Floats with NEON, as the kernels' templates name what they do with them.
#pragma once

#include "tmac.h"

#include <arm_neon.h>

enum { FLOATS = 4 };

typedef float32x4_t floats;
TMAC_INLINE float32x4_t broadcast(float value) { return vdupq_n_f32(value); }
TMAC_INLINE float32x4_t multiply_add(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(c, a, b); }
TMAC_INLINE float32x4_t floats_of_scales(const uint16_t * from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
TMAC_INLINE float32x4_t floats_of_zeros(const uint8_t * from) {
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}
TMAC_INLINE void store(float * to, float32x4_t values) { vst1q_f32(to, values); }

// An integer within +-2^22 added to ORIGIN, the bits of the float 1.5 * 2^23, gives the bits of their sum; conversions of
// integers take four times as long on Cortex-A76 and Neoverse V1.
enum { ORIGIN = 0x4B400000 };
TMAC_INLINE float32x4_t above_origin(int32x4_t bits, float bias) {
    return vsubq_f32(vreinterpretq_f32_s32(bits), vdupq_n_f32(0x1.8p23f + bias));
}

// GCC would begin with all loads and then keep registers in memory: half the speed.
TMAC_INLINE void keep_order(void) { __asm__ volatile("" ::: "memory"); }
