// The vocabulary of plain C: a register of floats is one float.
#pragma once

#include "activations/vector.h"

#define FLOATS 1 // in a register

typedef float floats;
typedef int32_t ints;
typedef struct {
    int16_t of[2];
} words;

TMAC_INLINE void prefetch(const uint8_t * at) { __builtin_prefetch(at); }

TMAC_INLINE floats load_floats(const float * from) { return *from; }
TMAC_INLINE void store_floats(float * to, floats value) { *to = value; }
TMAC_INLINE floats broadcast(float value) { return value; }
TMAC_INLINE floats multiply_add(floats a, floats b, floats c) { return fmaf(a, b, c); }
TMAC_INLINE floats floats_of_scales(const uint16_t * from) { return fp16_to_float(*from); }
TMAC_INLINE floats floats_of_zeros(const uint8_t * from) { return (float) *from; }
// The low or the high halves of bytes.
TMAC_INLINE floats floats_of_halves(const uint8_t * from, int high) { return (float) (high ? *from >> 4 : *from & 15); }

// What attention does with floats. A NaN in b is the larger one.
TMAC_INLINE floats add_floats(floats a, floats b) { return a + b; }
TMAC_INLINE floats subtract_floats(floats a, floats b) { return a - b; }
TMAC_INLINE floats multiply_floats(floats a, floats b) { return a * b; }
TMAC_INLINE floats divide_floats(floats a, floats b) { return a / b; }
TMAC_INLINE floats larger_floats(floats a, floats b) { return a > b ? a : b; }
TMAC_INLINE floats whole_floats(floats v) { return rintf(v); }
// v * 2^n for whole n within +-126.
TMAC_INLINE floats times_power_of_two(floats v, floats n) {
    return n == n ? v * float_of_bits((uint32_t) ((int) n + 127) << 23) : n;
}
// v, but 0 where x < limit; a NaN is not less.
TMAC_INLINE floats zero_where_less(floats v, floats x, float limit) { return x < limit ? 0 : v; }
// Whether v is more than the limit; a NaN is.
TMAC_INLINE int any_above(floats v, float limit) { return !(v <= limit); }
TMAC_INLINE float largest_of_floats(floats v) { return v; }
TMAC_INLINE float sum_of_floats(floats v) { return v; }

TMAC_INLINE floats floats_of_bf16(const uint16_t * from) { return float_of_bits((uint32_t) *from << 16); }
TMAC_INLINE floats floats_of_codes(const int8_t * from) { return (float) *from; }
// The fp16 number at `from`.
TMAC_INLINE floats broadcast_half(const uint8_t * from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return fp16_to_float(half);
}
// Codes j and 16 + j are the entries of the table at the low and the high half of byte j.
TMAC_INLINE void codes_of_nibbles(const uint8_t * from, const int8_t table[16], int8_t codes[32]) {
    for (int j = 0; j < 16; j++) {
        codes[j] = table[from[j] & 15];
        codes[16 + j] = table[from[j] >> 4];
    }
}
// Adds 16 to code j if bit j of the 4 bytes is 1, and subtracts `origin` from all.
TMAC_INLINE void add_fifth_bits(const uint8_t * from, int origin, int8_t codes[32]) {
    for (int j = 0; j < 32; j++) {
        codes[j] = (int8_t) (codes[j] + ((from[j / 8] >> j % 8 & 1) << 4) - origin);
    }
}

// What attention does with signed 16-bit words, of which a register has 2 * FLOATS, and their sums in 32 bits.
TMAC_INLINE words load_words(const int16_t * from) { return (words) { { from[0], from[1] } }; }
TMAC_INLINE words words_of_codes(const int8_t * from) { return (words) { { from[0], from[1] } }; }
// The whole number nearest to v, within 16 bits; of a NaN 0.
TMAC_INLINE void store_words(int16_t * to, floats v) { *to = v == v ? (int16_t) rintf(v) : 0; }
TMAC_INLINE ints no_ints(void) { return 0; }
TMAC_INLINE floats floats_of_ints(ints v) { return (float) v; }
// Two products.
TMAC_INLINE ints multiply_words(words a, words b) { return a.of[0] * b.of[0] + a.of[1] * b.of[1]; }
TMAC_INLINE ints add_word_products(ints sum, words a, words b) { return sum + a.of[0] * b.of[0] + a.of[1] * b.of[1]; }
// 32 codes of a and of b in turn, as add_weighted_pairs takes them.
TMAC_INLINE void pairs_of_codes(const int8_t * a, const int8_t * b, words pairs[32]) {
    for (int i = 0; i < 32; i++) {
        pairs[i] = (words) { { a[i], b[i] } };
    }
}
// Adds weights[0] times the codes of a and weights[1] times those of b to the sums of 32 columns.
TMAC_INLINE void add_weighted_pairs(ints sums[32], const words pairs[32], const int16_t weights[2]) {
    for (int i = 0; i < 32; i++) {
        sums[i] = add_word_products(sums[i], pairs[i], load_words(weights));
    }
}
// Sums of add_weighted_pairs in the order of columns.
TMAC_INLINE void floats_of_columns(const ints sums[32], floats v[32]) {
    for (int i = 0; i < 32; i++) {
        v[i] = floats_of_ints(sums[i]);
    }
}

// Lane i: the sum of the lanes of v[i].
TMAC_INLINE floats sums_of_registers(const floats v[FLOATS]) { return v[0]; }
// Transposes a square: lane j of v[i] becomes lane i of v[j].
TMAC_INLINE void transpose_floats(floats v[FLOATS]) { (void) v; }

// For stride 1, 2, ... FLOATS / 2: lanes i and i + stride become their sum and their difference, where bit `stride` of i
// is 0.
TMAC_INLINE floats butterflies_in_register(floats v) { return v; }
