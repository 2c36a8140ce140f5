// Activations as floats, in plain C that compilers vectorize; shared by all that prepares activations.
#pragma once

#include "interface/tmac.h"

#include <math.h>
#include <string.h>

TMAC_INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

TMAC_INLINE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

TMAC_INLINE float fp16_to_float(uint16_t h) {
    const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
    const uint32_t normal = (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    const uint32_t magnitude = exponent ? normal : bits_of_float((float) fraction * 0x1p-24f);
    return float_of_bits(magnitude | (uint32_t) (h & 0x8000) << 16);
}

TMAC_INLINE int64_t groups_before_block(const struct tmac_vector * x, int64_t block) {
    const int64_t groups = x->cols / TMAC_TABLE_GROUP, before = block * (TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP);
    return before < groups ? before : groups;
}

// x[32*group .. 32*group+31] as they are meant; in `buffer` unless they lie so in memory.
TMAC_INLINE const float * floats_of_group(const struct tmac_vector * x, int64_t group, float buffer[TMAC_TABLE_GROUP]) {
    const int64_t first = group * TMAC_TABLE_GROUP;
    if (x->input == TMAC_F32) {
        return (const float *) x->data + first;
    }
    if (x->input == TMAC_F16) {
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            buffer[k] = fp16_to_float(((const uint16_t *) x->data)[first + k]);
        }
    } else {
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            buffer[k] = x->scale * (float) ((const int8_t *) x->data)[first + k];
        }
    }
    return buffer;
}

// The sum of 16 values, in an order that vectors of four keep.
TMAC_INLINE float sum_of_16(const float * x) {
    float sums[4];
    for (int i = 0; i < 4; i++) {
        sums[i] = x[i] + x[4 + i] + x[8 + i] + x[12 + i];
    }
    return sums[0] + sums[1] + (sums[2] + sums[3]);
}

// The largest |x| over all columns; an infinity or a NaN if there is one: as integers, the bits of such are the
// largest.
TMAC_INLINE float largest_magnitude(const struct tmac_vector * x) {
    float buffer[TMAC_TABLE_GROUP];
    uint32_t largest = 0;
    for (int64_t g = 0; g < x->cols / TMAC_TABLE_GROUP; g++) {
        const float * values = floats_of_group(x, g, buffer);
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            const uint32_t magnitude = bits_of_float(values[k]) & 0x7FFFFFFF;
            largest = largest > magnitude ? largest : magnitude;
        }
    }
    return float_of_bits(largest);
}
