// Blocks of ggml's types with one scale: codes, and scales as the layout has them. convert/readers/ggml_blocks.py has the
// bytes of each block.
#pragma once

#include "repack/bytes.h"
#include "repack/halves.h"

TMAC_INLINE void nibbles_of_32(const uint8_t * packed, uint8_t * codes) {
    for (int j = 0; j < 16; j += 8) {
        const uint64_t eight = eight_at(packed + j);
        put_eight(bits_of(eight, 0, 4), codes + j);
        put_eight(bits_of(eight, 4, 4), codes + 16 + j);
    }
}

// The fifth bits of 32 codes: bit j of the four bytes.
TMAC_INLINE void add_fifth_bits(const uint8_t * bits, uint8_t * codes) {
    for (int i = 0; i < 4; i++) {
        put_eight(eight_at(codes + 8 * i) | bits_as_bytes(bits[i]) << 4, codes + 8 * i);
    }
}

TMAC_INLINE void codes_of_q4_0(const uint8_t * block, uint8_t * codes) { nibbles_of_32(block + 2, codes); }

TMAC_INLINE void codes_of_q4_1(const uint8_t * block, uint8_t * codes) { nibbles_of_32(block + 4, codes); }

TMAC_INLINE void codes_of_q5_0(const uint8_t * block, uint8_t * codes) {
    nibbles_of_32(block + 6, codes);
    add_fifth_bits(block + 2, codes);
}

TMAC_INLINE void codes_of_q5_1(const uint8_t * block, uint8_t * codes) {
    nibbles_of_32(block + 8, codes);
    add_fifth_bits(block + 4, codes);
}

TMAC_INLINE void codes_of_q1_0(const uint8_t * block, uint8_t * codes) {
    for (int i = 0; i < 16; i++) {
        put_eight(bits_as_bytes(block[2 + i]), codes + 8 * i);
    }
}

// (c - 1) d = -d ((3 - c) - 2)
TMAC_INLINE void codes_of_q2_0(const uint8_t * block, uint8_t * codes) {
    for (int i = 0; i < 16; i++) {
        const uint32_t byte = block[2 + i], four = (byte | byte << 6 | byte << 12 | byte << 18) & 0x03030303;
        const uint32_t reversed = four ^ 0x03030303;
        memcpy(codes + 4 * i, &reversed, 4);
    }
}

// (c - 1) d = d ((c + 1) - 2)
TMAC_INLINE void codes_of_tq2_0(const uint8_t * block, uint8_t * codes) {
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 32; j += 8) {
            const uint64_t eight = eight_at(block + 32 * half + j);
            for (int i = 0; i < 4; i++) {
                put_eight(bits_of(eight, 2 * i, 2) + EACH_BYTE(1), codes + 128 * half + 32 * i + j);
            }
        }
    }
}

// Digits to base 3 of `count` bytes: first all first ones, then all second ones, ... Returns what follows them.
TMAC_INLINE uint8_t * put_digits(const uint8_t * bytes, int count, int digits, uint8_t * codes) {
    for (int n = 0, power = 1; n < digits; n++, power *= 3) {
        for (int j = 0; j < count; j++) {
            // A byte is a fraction of 256; what is left of it after n digits wraps in 8 bits, as ggml computes it.
            const uint16_t fraction = (uint8_t) (bytes[j] * power);
            codes[j] = (uint8_t) ((fraction * 3 >> 8) + 1);
        }
        codes += count;
    }
    return codes;
}

TMAC_INLINE void codes_of_tq1_0(const uint8_t * block, uint8_t * codes) {
    codes = put_digits(block, 32, 5, codes);
    codes = put_digits(block + 32, 16, 5, codes);
    put_digits(block + 48, 4, 4, codes);
}

// Of one row: the block's scale goes to `scale`, its minimum to the bytes `to_minimum` behind that.
TMAC_INLINE int scales_of_q4_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    (void) to_minimum;
    return put_half(half_at(block), scale);
}

TMAC_INLINE int scales_of_q5_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    return scales_of_q4_0(block, scale, to_minimum);
}

TMAC_INLINE int scales_of_q4_1(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    return put_half(half_at(block), scale) | put_half(half_at(block + 2), scale + to_minimum);
}

TMAC_INLINE int scales_of_q5_1(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    return scales_of_q4_1(block, scale, to_minimum);
}

// +-d = 2 d (q - 1/2)
TMAC_INLINE int scales_of_q1_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    (void) to_minimum;
    return put_doubled(half_at(block), scale);
}

TMAC_INLINE int scales_of_q2_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    (void) to_minimum;
    return put_negated(half_at(block), scale);
}

TMAC_INLINE int scales_of_tq1_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    (void) to_minimum;
    return put_half(half_at(block + 52), scale);
}

TMAC_INLINE int scales_of_tq2_0(const uint8_t * block, uint8_t * scale, int64_t to_minimum) {
    (void) to_minimum;
    return put_half(half_at(block + 64), scale);
}
