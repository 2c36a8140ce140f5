// Activations as bfloat16, rounded to nearest even. Plain C that compilers vectorize, the same on every CPU.
// Gives: round_to_bf16.
#pragma once

#include "activations/vector.h"

// A NaN stays one whatever its fraction.
TMAC_INLINE uint16_t bf16_of_float(float value) {
    const uint32_t bits = bits_of_float(value), is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    return (uint16_t) ((is_nan ? bits | 0x00400000 : bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

TMAC_INLINE void round_to_bf16(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                               const struct tmac_activations * to) {
    for (int64_t g = groups_before_block(x, first_block); g < groups_before_block(x, last_block); g++) {
        float buffer[TMAC_TABLE_GROUP];
        uint16_t rounded[TMAC_TABLE_GROUP];
        const float * from = floats_of_group(x, g, buffer);
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            rounded[k] = bf16_of_float(from[k]);
        }
        memcpy(to->entries + g * sizeof rounded, rounded, sizeof rounded);
    }
}
