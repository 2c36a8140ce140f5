// Builds lookup tables, rounded and exact ones. Rounded: block by block, in the order of operations that all builders
// share.
//
// Needs before it: `struct values`, the 16 signed sums of each quad of a table group; PREPARE_TABLES and
// PREPARE_EXACT_TABLES, the names of the functions that it gives. Needs after it: values_of_group and round_values.
#pragma once

#include "activations/exact_tables.h"
#include "activations/steps.h"
#include "interface/catalog.h"

#if !defined(PREPARE_TABLES) || !defined(PREPARE_EXACT_TABLES)
#error "activations/tables.h: define PREPARE_TABLES and PREPARE_EXACT_TABLES before including"
#endif

enum { QUADS = TMAC_TABLE_GROUP / 4, BLOCK_GROUPS = TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP };

// Fills `values`, and tells the largest magnitude among them and the sum of the activations.
TMAC_INLINE void values_of_group(const float * quad, struct values * values, float * top, float * sum);

// entries = values * factor; zeros if they are not usable.
TMAC_INLINE void round_values(const struct values * values, float factor, int usable, uint8_t * entries);

TMAC_INLINE void build_block(const struct tmac_vector * x, int64_t block, const struct tmac_activations * to) {
    const int64_t first = block * BLOCK_GROUPS, rest = x->cols / TMAC_TABLE_GROUP - first;
    const int count = rest < BLOCK_GROUPS ? (int) rest : BLOCK_GROUPS;
    struct values values[BLOCK_GROUPS];
    float top[BLOCK_GROUPS], sum[BLOCK_GROUPS], highest = 0;
    int usable = 1;
    for (int i = 0; i < count; i++) {
        float buffer[TMAC_TABLE_GROUP];
        const float * from = floats_of_group(x, first + i, buffer);
        values_of_group(from, &values[i], &top[i], &sum[i]);
        for (int half = 0; half < 2; half++) {
            to->half_sum[2 * (first + i) + half] = top[i] <= FLT_MAX ? sum_of_16(from + 16 * half) : top[i];
        }
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

void PREPARE_TABLES(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                    const struct tmac_activations * to) {
    for (int64_t block = first_block; block < last_block; block++) {
        build_block(x, block, to);
    }
}

void PREPARE_EXACT_TABLES(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                          const struct tmac_activations * to) {
    build_exact_tables(x, first_block, last_block, to);
}
