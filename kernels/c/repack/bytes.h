// Eight bytes at a time in a 64-bit number, the first one lowest.
#pragma once

#include "interface/tmac.h"

#include <string.h>

#define EACH_BYTE(value) ((value) * (uint64_t) 0x0101010101010101)

TMAC_INLINE uint64_t eight_at(const uint8_t * from) {
    uint64_t eight;
    memcpy(&eight, from, sizeof eight);
    return eight;
}

TMAC_INLINE void put_eight(uint64_t eight, uint8_t * to) { memcpy(to, &eight, sizeof eight); }

// Bytes of 0 or 1, from the bits of a byte.
TMAC_INLINE uint64_t bits_as_bytes(uint8_t bits) {
    const uint64_t each = EACH_BYTE(bits) & 0x8040201008040201;
    return (each + EACH_BYTE(0x7F)) >> 7 & EACH_BYTE(1);
}

// `bits` bits of each byte, from bit `shift` on.
TMAC_INLINE uint64_t bits_of(uint64_t eight, int shift, int bits) {
    return eight >> shift & EACH_BYTE((1u << bits) - 1);
}
