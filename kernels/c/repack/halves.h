// fp16 numbers as they lie in blocks and in the layout: copied, doubled or negated bit by bit.
#pragma once

#include "interface/tmac.h"

#include <string.h>

enum { HALF_SIGN = 0x8000, HALF_EXPONENT = 0x7C00, HALF_POWER = 0x0400 };

TMAC_INLINE uint16_t half_at(const uint8_t * from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return half;
}

// All of these return what tmac_repack_fn does.
TMAC_INLINE int put_half(uint16_t half, uint8_t * to) {
    memcpy(to, &half, sizeof half);
    return (half & HALF_EXPONENT) == HALF_EXPONENT ? TMAC_REPACK_NOT_FINITE : 0;
}

// Minus the number, without negative zeros.
TMAC_INLINE int put_negated(uint16_t half, uint8_t * to) {
    return put_half(half & ~HALF_SIGN ? (uint16_t) (half ^ HALF_SIGN) : 0, to);
}

// Twice the number.
TMAC_INLINE int put_doubled(uint16_t half, uint8_t * to) {
    const int exponent = half & HALF_EXPONENT;
    if (exponent == HALF_EXPONENT) {
        return put_half(half, to);
    }
    if (exponent == HALF_EXPONENT - HALF_POWER) {
        put_half((uint16_t) (half + HALF_POWER), to);
        return TMAC_REPACK_INEXACT;
    }
    // A subnormal number is shifted, which may carry into the exponent.
    const uint16_t magnitude = half & ~HALF_SIGN;
    const uint16_t doubled = exponent ? (uint16_t) (magnitude + HALF_POWER) : (uint16_t) (magnitude << 1);
    return put_half((half & HALF_SIGN) | doubled, to);
}
