// Activations as int8. Plain C that compilers vectorize, the same on every CPU.
// Gives: round_to_int8, one scale per 32 columns, and round_to_exact_int8, one per vector.
#pragma once

#include "activations/exact_tables.h"

TMAC_INLINE void store_int8(const int16_t values[TMAC_TABLE_GROUP], float scale, float largest, int64_t group,
                            int has_half_sums, const struct tmac_activations * to) {
    int32_t sum[2] = { 0, 0 };
    for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
        to->entries[group * TMAC_TABLE_GROUP + k] = (uint8_t) values[k];
        sum[k / (TMAC_TABLE_GROUP / 2)] += values[k];
    }
    to->scale[group] = scale;
    to->sum[group] = largest <= FLT_MAX ? (float) (sum[0] + sum[1]) * scale : largest;
    for (int half = 0; half < 2 && has_half_sums; half++) {
        to->half_sum[2 * group + half] = largest <= FLT_MAX ? (float) sum[half] * scale : largest;
    }
}

TMAC_INLINE void round_to_int8(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                               const struct tmac_activations * to) {
    for (int64_t g = groups_before_block(x, first_block); g < groups_before_block(x, last_block); g++) {
        float buffer[TMAC_TABLE_GROUP];
        int16_t values[TMAC_TABLE_GROUP];
        const float * from = floats_of_group(x, g, buffer);
        const struct tmac_vector part = { from, TMAC_F32, 1, TMAC_TABLE_GROUP };
        const float largest = largest_magnitude(&part);
        // below 1e-35 the reciprocal would overflow
        const int usable = largest >= 1e-35f && largest <= FLT_MAX;
        const float steps = usable ? 127 / largest : 0;
        for (int k = 0; k < TMAC_TABLE_GROUP; k++) {
            values[k] = (int16_t) (usable ? rintf(from[k] * steps) : 0);
        }
        store_int8(values, usable ? largest / 127 : 0, largest, g, 1, to);
    }
}

TMAC_INLINE void round_to_exact_int8(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                                     const struct tmac_activations * to) {
    const float steps = int8_per_value(x, first_block, last_block, to->output_scale);
    for (int64_t g = groups_before_block(x, first_block); g < groups_before_block(x, last_block); g++) {
        int16_t values[TMAC_TABLE_GROUP];
        int8_of_group(x, g, steps, values);
        store_int8(values, 1, 0, g, 0, to);
    }
}
