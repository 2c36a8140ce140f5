// Exact tables: activations rounded to int8 with one scale per vector, as BitNet models are trained (arXiv:2402.17764),
// and their sums of four, at most 512 in magnitude, in two bytes. Plain C that compilers vectorize, the same on every
// CPU. Gives: build_exact_tables.
#pragma once

#include "activations/vector.h"

#include <float.h>

// The int8 activations of one table group and what they are multiplied by; zeros if that is not finite.
TMAC_INLINE void int8_of_group(const struct tmac_vector * x, int64_t group, float steps,
                               int16_t values[TMAC_TABLE_GROUP]) {
    float buffer[TMAC_TABLE_GROUP];
    if (x->input == TMAC_I8) {
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            values[k] = ((const int8_t *) x->data)[group * TMAC_TABLE_GROUP + k];
        }
        return;
    }
    const float * from = floats_of_group(x, group, buffer);
    for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
        values[k] = (int16_t) (steps > 0 ? rintf(from[k] * steps) : 0);
    }
}

// What the activations are multiplied by to become int8; 0 if the largest is not finite. Writes output_scale with block
// 0.
TMAC_INLINE float int8_per_value(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                                 float * output_scale) {
    const float largest = x->input == TMAC_I8 ? 127 : largest_magnitude(x);
    const float top = largest <= 1e-5f ? 1e-5f : largest;
    if (first_block == 0 && last_block > 0) {
        *output_scale = x->input == TMAC_I8 ? x->scale : top / 127;
    }
    return top <= FLT_MAX ? 127 / top : 0;
}

TMAC_INLINE void build_exact_tables(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                                    const struct tmac_activations * to) {
    const float steps = int8_per_value(x, first_block, last_block, to->output_scale);
    for (int64_t g = groups_before_block(x, first_block); g < groups_before_block(x, last_block); g++) {
        int16_t values[TMAC_TABLE_GROUP];
        int8_of_group(x, g, steps, values);
        int32_t sum = 0;
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            sum += values[k];
        }
        uint8_t * entries = to->entries + g * TMAC_TABLE_GROUP * 8;
        for (int q = 0; q < TMAC_TABLE_GROUP / 4; q++) {
            const int16_t * quad = values + 4 * q;
            uint8_t * low = entries + q / 4 * 128 + q % 4 * 16;
            for (int i = 0; i < 16; i++) {
                const int16_t entry = (int16_t) ((i & 1 ? quad[0] : -quad[0]) + (i & 2 ? quad[1] : -quad[1]) +
                                                 (i & 4 ? quad[2] : -quad[2]) + (i & 8 ? quad[3] : -quad[3]));
                low[i] = (uint8_t) entry;
                low[64 + i] = (uint8_t) (entry >> 8);
            }
        }
        to->sum[g] = (float) sum;
    }
    for (int64_t block = first_block; block < last_block; block++) {
        to->scale[block] = 0.5f;
    }
}
