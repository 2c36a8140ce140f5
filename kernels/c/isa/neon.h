// The vocabulary of NEON: what headers for all instruction sets do with a register of floats. NEON's own templates use
// intrinsics.
#pragma once

#include "interface/tmac.h"

#include <arm_neon.h>

#define FLOATS 4 // in a register

typedef float32x4_t floats;
typedef int16x8_t words;
typedef int32x4_t ints;

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
// The low or the high halves of bytes.
TMAC_INLINE floats floats_of_halves(const uint8_t * from, int high) {
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    const uint8x8_t pairs = vcreate_u8(four);
    const uint8x8_t nibbles = high ? vshr_n_u8(pairs, 4) : vand_u8(pairs, vdup_n_u8(15));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(nibbles))));
}

// An integer within +-2^22 added to ORIGIN, the bits of the float 1.5 * 2^23, gives the bits of their sum; conversions
// of integers take four times as long on Cortex-A76 and Neoverse V1.
enum { ORIGIN = 0x4B400000 };
TMAC_INLINE floats above_origin(int32x4_t bits, float bias) {
    return vsubq_f32(vreinterpretq_f32_s32(bits), vdupq_n_f32(0x1.8p23f + bias));
}

// GCC would begin with all loads and then keep registers in memory: half the speed.
TMAC_INLINE void keep_order(void) { __asm__ volatile("" ::: "memory"); }

// What attention does with floats. A NaN in b is the larger one.
TMAC_INLINE floats add_floats(floats a, floats b) { return vaddq_f32(a, b); }
TMAC_INLINE floats subtract_floats(floats a, floats b) { return vsubq_f32(a, b); }
TMAC_INLINE floats multiply_floats(floats a, floats b) { return vmulq_f32(a, b); }
TMAC_INLINE floats divide_floats(floats a, floats b) { return vdivq_f32(a, b); }
TMAC_INLINE floats larger_floats(floats a, floats b) { return vmaxq_f32(a, b); }
TMAC_INLINE floats whole_floats(floats v) { return vrndnq_f32(v); }
// v * 2^n for whole n, where v and the product are normal numbers; a NaN stays one.
TMAC_INLINE floats times_power_of_two(floats v, floats n) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
}
// v, but 0 where x < limit; a NaN is not less.
TMAC_INLINE floats zero_where_less(floats v, floats x, float limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, vdupq_n_f32(limit))));
}
// Whether any lane is more than the limit; a NaN is.
TMAC_INLINE int any_above(floats v, float limit) { return vminvq_u32(vcleq_f32(v, vdupq_n_f32(limit))) == 0; }
TMAC_INLINE float largest_of_floats(floats v) { return vmaxvq_f32(v); }
TMAC_INLINE float sum_of_floats(floats v) { return vaddvq_f32(v); }

TMAC_INLINE floats floats_of_bf16(const uint16_t * from) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}
TMAC_INLINE floats floats_of_codes(const int8_t * from) {
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
}
// The fp16 number at `from`, in every lane.
TMAC_INLINE floats broadcast_half(const uint8_t * from) {
    uint16_t half;
    __builtin_memcpy(&half, from, sizeof half);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
}
// Codes j and 16 + j are the entries of the table at the low and the high half of byte j.
TMAC_INLINE void codes_of_nibbles(const uint8_t * from, const int8_t table[16], int8_t codes[32]) {
    const int8x16_t of = vld1q_s8(table);
    const uint8x16_t nibbles = vld1q_u8(from);
    vst1q_s8(codes, vqtbl1q_s8(of, vandq_u8(nibbles, vdupq_n_u8(15))));
    vst1q_s8(codes + 16, vqtbl1q_s8(of, vshrq_n_u8(nibbles, 4)));
}
// Adds 16 to code j if bit j of the 4 bytes is 1, and subtracts `origin` from all.
TMAC_INLINE void add_fifth_bits(const uint8_t * from, int origin, int8_t codes[32]) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    for (int half = 0; half < 2; half++) {
        const uint8x16_t byte = vcombine_u8(vdup_n_u8(from[2 * half]), vdup_n_u8(from[2 * half + 1]));
        const int8x16_t fifth = vreinterpretq_s8_u8(vandq_u8(vtstq_u8(byte, bit), vdupq_n_u8(16)));
        const int8x16_t sum = vaddq_s8(vld1q_s8(codes + 16 * half), fifth);
        vst1q_s8(codes + 16 * half, vsubq_s8(sum, vdupq_n_s8((int8_t) origin)));
    }
}

// What attention does with signed 16-bit words, of which a register has 2 * FLOATS, and their sums in 32 bits.
TMAC_INLINE words load_words(const int16_t * from) { return vld1q_s16(from); }
TMAC_INLINE words words_of_codes(const int8_t * from) { return vmovl_s8(vld1_s8(from)); }
// FLOATS whole numbers nearest to v, within 16 bits.
TMAC_INLINE void store_words(int16_t * to, floats v) { vst1_s16(to, vmovn_s32(vcvtnq_s32_f32(v))); }
TMAC_INLINE ints no_ints(void) { return vdupq_n_s32(0); }
TMAC_INLINE floats floats_of_ints(ints v) { return vcvtq_f32_s32(v); }
// Of each lane, two products.
TMAC_INLINE ints multiply_words(words a, words b) {
    return vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b);
}
// Each sum and two products.
TMAC_INLINE ints add_word_products(ints sum, words a, words b) {
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
}
// 32 codes of a, then 32 of b, as add_weighted_pairs takes them.
TMAC_INLINE void pairs_of_codes(const int8_t * a, const int8_t * b, words pairs[8]) {
    for (int i = 0; i < 4; i++) {
        pairs[i] = words_of_codes(a + 8 * i);
        pairs[4 + i] = words_of_codes(b + 8 * i);
    }
}
// Adds weights[0] times the codes of a and weights[1] times those of b to the sums of 32 columns.
TMAC_INLINE void add_weighted_pairs(ints sums[8], const words pairs[8], const int16_t weights[2]) {
    for (int row = 0; row < 2; row++) {
        for (int i = 0; i < 4; i++) {
            const words codes = pairs[4 * row + i];
            sums[2 * i] = vmlal_n_s16(sums[2 * i], vget_low_s16(codes), weights[row]);
            sums[2 * i + 1] = vmlal_high_n_s16(sums[2 * i + 1], codes, weights[row]);
        }
    }
}
// Sums of add_weighted_pairs in the order of columns.
TMAC_INLINE void floats_of_columns(const ints sums[8], floats v[8]) {
    for (int i = 0; i < 8; i++) {
        v[i] = floats_of_ints(sums[i]);
    }
}

// Lane i: the sum of the lanes of v[i].
TMAC_INLINE floats sums_of_registers(const floats v[FLOATS]) {
    return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]));
}

// Transposes a square: lane j of v[i] becomes lane i of v[j].
TMAC_INLINE void transpose_floats(floats v[FLOATS]) {
    const float32x4x2_t a = vtrnq_f32(v[0], v[1]), b = vtrnq_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

// For stride 1, 2, ... FLOATS / 2: lanes i and i + stride become their sum and their difference, where bit `stride` of i
// is 0.
TMAC_INLINE floats butterflies_in_register(floats v) {
    const uint32x4_t odd = vreinterpretq_u32_u64(vdupq_n_u64(0xFFFFFFFF00000000));
    const uint32x4_t high = vcombine_u32(vdup_n_u32(0), vdup_n_u32(0xFFFFFFFF));
    floats other = vrev64q_f32(v);
    v = vbslq_f32(odd, subtract_floats(other, v), add_floats(other, v));
    other = vextq_f32(v, v, 2);
    return vbslq_f32(high, subtract_floats(other, v), add_floats(other, v));
}
