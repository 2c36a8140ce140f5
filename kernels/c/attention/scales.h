// Few rows, of types whose blocks have scales: codes are multiplied as signed 16-bit words, where the instruction set
// does not get floats of them sooner, and sums of a block by its scale.
//
// Queries and weights are rounded for it, to whole multiples of a step: the largest value of a row of Q over 32767, and
// the largest weight times scale of a block at the positions of a step over 32767.
#pragma once

#include "attention/step.h"

// Blocks whose scales are converted together. As many as a row of 128 values has.
enum { SCALED_BLOCKS = 4, MOST_WORD = 32767 };

// Weights and queries that are all smaller count as 0: MOST_WORD over them would not be a number.
#define LEAST_LARGEST 0x1p-100f

// Whether a type's codes are multiplied as words.
TMAC_INLINE int is_of_words(const int type) {
#if defined HAS_FLOATS_OF_NIBBLES
    return type == TMAC_CACHE_Q8_0;
#else
    return is_blocked(type);
#endif
}

// Rows of Q, [rows, width]; the same as words, which count in the row's step; sums of the values of each block,
// [rows, width / 32]. Of a row that has a number that is not finite, the step is NaN.
struct queries {
    const float * floats;
    const int16_t * words;
    const float * steps;
    const float * block_sums;
};

// What numbers of which the largest is so large are multiplied by to become words.
TMAC_INLINE float words_per_unit(float largest) {
    return largest >= LEAST_LARGEST && largest < INFINITY ? MOST_WORD / largest : 0;
}

// The step of such words: NaN if a number is not finite.
TMAC_INLINE float step_of_words(float largest) { return largest < INFINITY ? largest / MOST_WORD : NAN; }

// The largest magnitude of `count` numbers, a multiple of FLOATS; infinity if one of them is not finite.
TMAC_INLINE float largest_magnitude_of(const float * x, int64_t count) {
    floats largest = broadcast(0), sum = broadcast(0);
    for (int64_t i = 0; i < count; i += FLOATS) {
        const floats v = load_floats(x + i), magnitude = larger_floats(v, subtract_floats(broadcast(0), v));
        largest = larger_floats(largest, magnitude);
        sum = add_floats(sum, magnitude);
    }
    // `largest` may have lost a NaN, the sum has not.
    return any_above(sum, FLT_MAX) ? INFINITY : largest_of_floats(largest);
}

// `count` numbers, a multiple of FLOATS, of which the largest magnitude is `largest`, as words.
TMAC_INLINE void floats_to_words(const float * x, int64_t count, float largest, int16_t * to) {
    const floats factor = broadcast(words_per_unit(largest));
    for (int64_t i = 0; i < count; i += FLOATS) {
        store_words(to + i, multiply_floats(load_floats(x + i), factor));
    }
}

// A row of Q as words, and the sums of its blocks; returns the step. The width is a multiple of 32.
TMAC_INLINE float query_words(const float * q, int64_t width, int16_t * to, float * block_sums) {
    const float largest = largest_magnitude_of(q, width);
    floats_to_words(q, width, largest, to);
    for (int64_t block = 0; block < width / CACHE_BLOCK; block++) {
        floats sum = broadcast(0);
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            sum = add_floats(sum, load_floats(q + block * CACHE_BLOCK + i * FLOATS));
        }
        block_sums[block] = sum_of_floats(sum);
    }
    return step_of_words(largest);
}

// Of each block of some, at each position of a step. Converted FLOATS at a time and read from memory as an operand,
// which costs less than converting each alone.
struct scales {
    float scales[SCALED_BLOCKS][STEP], minima[SCALED_BLOCKS][STEP]; // minima: of types that have them
};

// All scales of a step are read at its beginning, so a whole step before: 4 and 12 % faster than 8 positions before, with
// q8_0 and q4_0 on the same CPU.
TMAC_INLINE void prefetch_blocks_ahead(const int type, const uint8_t * at, int64_t position_bytes, const int blocks) {
    for (int64_t line = 0; line < blocks * tmac_cache_block_bytes(type); line += 64) {
        prefetch(at + STEP * position_bytes + line);
    }
}

// GCC would collect halves in vector registers, by instructions that compete with those of the products: makes each a
// number in a general register.
TMAC_INLINE uint16_t half_at(const uint8_t * from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    __asm__("" : "+r"(half));
    return half;
}

// Those of `blocks` blocks that begin at `at`.
TMAC_INLINE void load_scales(const int type, const uint8_t * at, int64_t position_bytes, const int blocks,
                             struct scales * to) {
    uint16_t halves[2][SCALED_BLOCKS][STEP];
    for (int p = 0; p < STEP; p++, at += position_bytes) {
        for (int b = 0; b < blocks; b++) {
            halves[0][b][p] = half_at(at + b * tmac_cache_block_bytes(type));
            if (has_minimum(type)) {
                halves[1][b][p] = half_at(at + b * tmac_cache_block_bytes(type) + 2);
            }
        }
    }
    for (int b = 0; b < blocks; b++) {
        for (int p = 0; p < STEP; p += FLOATS) {
            store_floats(to->scales[b] + p, floats_of_scales(halves[0][b] + p));
            if (has_minimum(type)) {
                store_floats(to->minima[b] + p, floats_of_scales(halves[1][b] + p));
            }
        }
    }
}
