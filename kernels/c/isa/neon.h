// The vocabulary of NEON: what headers for all instruction sets do with a register of floats. NEON's own templates use
// intrinsics.
#pragma once

#include "interface/tmac.h"

#include <arm_neon.h>

#define FLOATS 4 // in a register

typedef float32x4_t floats;

TMAC_INLINE void prefetch(const uint8_t * at) { __builtin_prefetch(at); }

TMAC_INLINE floats load_floats(const float * from) { return vld1q_f32(from); }
TMAC_INLINE void store_floats(float * to, floats values) { vst1q_f32(to, values); }
TMAC_INLINE floats broadcast(float value) { return vdupq_n_f32(value); }
TMAC_INLINE floats multiply_add(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
TMAC_INLINE floats floats_of_scales(const uint16_t * from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
TMAC_INLINE floats floats_of_zeros(const uint8_t * from) {
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}

// An integer within +-2^22 added to ORIGIN, the bits of the float 1.5 * 2^23, gives the bits of their sum; conversions
// of integers take four times as long on Cortex-A76 and Neoverse V1.
enum { ORIGIN = 0x4B400000 };
TMAC_INLINE floats above_origin(int32x4_t bits, float bias) {
    return vsubq_f32(vreinterpretq_f32_s32(bits), vdupq_n_f32(0x1.8p23f + bias));
}

// GCC would begin with all loads and then keep registers in memory: half the speed.
TMAC_INLINE void keep_order(void) { __asm__ volatile("" ::: "memory"); }
