// Tables of blocks of columns, in the order of operations that all builders share. The including template defines
// `struct values` (the 16 signed sums of each quad of a table group), values_of_group, which fills it and tells the largest
// magnitude and the sum of the activations, and round_values, which writes entries = values * factor (usable == 0: zeros).
#pragma once

#include "vector.h"

#include <float.h>

enum { QUADS = TMAC_TABLE_GROUP / 4, BLOCK_GROUPS = TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP };

// 1..TMAC_LARGEST_STEP: how many units the entries of a group stand for, when the block's largest sum takes the largest step.
TMAC_INLINE int step_for(float top, float steps_per_value) {
    const int step = (int) ceilf(top * steps_per_value);
    return step < 1 ? 1 : step > TMAC_LARGEST_STEP ? TMAC_LARGEST_STEP : step;
}

TMAC_INLINE void build_block(const struct tmac_vector * x, int64_t block, const struct tmac_activations * to) {
    const int64_t first = block * BLOCK_GROUPS, rest = x->cols / TMAC_TABLE_GROUP - first;
    const int count = rest < BLOCK_GROUPS ? (int) rest : BLOCK_GROUPS;
    struct values values[BLOCK_GROUPS];
    float top[BLOCK_GROUPS], sum[BLOCK_GROUPS], highest = 0;
    int usable = 1;
    for (int i = 0; i < count; i++) {
        float buffer[TMAC_TABLE_GROUP];
        values_of_group(floats_of_group(x, first + i, buffer), &values[i], &top[i], &sum[i]);
        highest = highest > top[i] ? highest : top[i];
        usable &= top[i] <= FLT_MAX && fabsf(sum[i]) <= FLT_MAX;
    }
    // below 1e-34 the scale would be denormal
    usable &= highest >= 1e-34f;
    const float steps_per_value = usable ? TMAC_LARGEST_STEP / highest : 0;
    for (int i = 0; i < count; i++) {
        const int step = usable ? step_for(top[i], steps_per_value) : 1;
        round_values(&values[i], 127 * steps_per_value / (float) step, usable, to->entries + (first + i) * QUADS * 16);
        for (int plane = 0; plane < 4; plane++) {
            to->steps[4 * (first + i) + plane] = 0x01010101u * (uint32_t) (step << plane);
        }
        to->sum[first + i] = top[i] <= FLT_MAX ? sum[i] : top[i];
    }
    to->scale[block] = usable ? highest / (2 * 127 * TMAC_LARGEST_STEP) : 0;
}

TMAC_INLINE void build_blocks(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                              const struct tmac_activations * to) {
    for (int64_t block = first_block; block < last_block; block++) {
        build_block(x, block, to);
    }
}
