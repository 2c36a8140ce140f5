// Builds the lookup tables of ternary weights: of each triple of columns the sums with -1, 0 or +1 of each, of one of
// either sign.
//
// Needs before it: the vocabulary of an instruction set; PREPARE_TRITS and PREPARE_EXACT_TRITS, the names of the functions
// that it gives. Needs after it: store_entries.
#pragma once

#include "activations/exact_tables.h"
#include "activations/steps.h"
#include "activations/trit_tables.h"
#include "interface/catalog.h"

#if !defined(PREPARE_TRITS) || !defined(PREPARE_EXACT_TRITS)
#error "activations/trits.h: define PREPARE_TRITS and PREPARE_EXACT_TRITS before it"
#endif

enum { BLOCK_GROUPS = TMAC_TABLE_BLOCK / TMAC_TABLE_GROUP };
// Columns of a line; lines that a block has in memory. What a block has no columns for counts as columns of zeros.
enum { LINE_COLS = 3 * TMAC_LINE_TRIPLES };
// Columns whose tables share a step: few, because larger ones lose more.
enum {
    BLOCK_LINES = TRIT_TABLE_LINES + 1,
    PADDED_COLS = BLOCK_LINES * LINE_COLS,
    STEP_COLS = TMAC_STEP_LINES * LINE_COLS
};

// The digits of an index, which is digit 0 + 3 * digit 1 + 9 * digit 2, each -1, 0 or +1; 14 and 15 are not used.
#define DIGITS_0 { 0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, 0, 0 }
#define DIGITS_1 { 0, 0, 1, 1, 1, -1, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0 }
#define DIGITS_2 { 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0 }
static const float float_digits[3][16] = { DIGITS_0, DIGITS_1, DIGITS_2 };
static const int16_t whole_digits[3][16] = { DIGITS_0, DIGITS_1, DIGITS_2 };

// Columns 3 n.. of a block, in which those that it does not have are 0.
static void load_block(const struct tmac_vector * x, int64_t block, float columns[PADDED_COLS]) {
    for (int k = TMAC_TABLE_BLOCK; k < PADDED_COLS; k++) {
        columns[k] = 0;
    }
    for (int g = 0; g < BLOCK_GROUPS; g++) {
        float * to = columns + g * TMAC_TABLE_GROUP;
        const float * from = floats_of_group(x, block * BLOCK_GROUPS + g, to);
        if (from != to) {
            memcpy(to, from, TMAC_TABLE_GROUP * sizeof *to);
        }
    }
}

// The largest magnitude of a sum of three; an infinity or a NaN if there is one.
static float top_of(const float columns[STEP_COLS]) {
    uint32_t top = 0;
    for (int k = 0; k < STEP_COLS; k += 3) {
        const uint32_t sum = bits_of_float(fabsf(columns[k]) + fabsf(columns[k + 1]) + fabsf(columns[k + 2]));
        top = top > sum ? top : sum;
    }
    return float_of_bits(top);
}

// Stores 16 numbers, rounded to the nearest whole ones, as signed bytes.
TMAC_INLINE void store_entries(uint8_t * to, const floats values[16 / FLOATS]);

TMAC_INLINE void build_triple(const float columns[3], float factor, uint8_t * entries) {
    floats values[16 / FLOATS];
    for (int i = 0; i < 16 / FLOATS; i++) {
        // A product with a digit is exact, so fma only adds.
        floats sum = multiply_floats(load_floats(float_digits[0] + i * FLOATS), broadcast(columns[0]));
        sum = multiply_add(load_floats(float_digits[1] + i * FLOATS), broadcast(columns[1]), sum);
        sum = multiply_add(load_floats(float_digits[2] + i * FLOATS), broadcast(columns[2]), sum);
        values[i] = multiply_floats(sum, broadcast(factor));
    }
    store_entries(entries, values);
}

// The same tables for a GEMM.
static void store_unsigned(const uint8_t * entries, const uint32_t * steps, float scale, float sum, uint8_t * to) {
    for (int i = 0; i < STEPS_AT; i++) {
        to[i] = entries[i] ^ 0x80;
    }
    uint32_t numbers[TMAC_LINE_BYTES / 4] = { 0 };
    for (int i = 0; i < TRIT_STEPS; i++) {
        numbers[i] = steps[i * TMAC_STEP_LINES] & 255;
        numbers[TRIT_STEPS + i / 2] |= numbers[i] << i % 2 * 16;
    }
    numbers[(SCALE_AT - STEPS_AT) / 4] = bits_of_float(scale);
    numbers[(START_AT - STEPS_AT) / 4] = bits_of_float(0 * sum);
    memcpy(to + STEPS_AT, numbers, sizeof numbers);
}

void PREPARE_TRITS(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                   const struct tmac_activations * to) {
    for (int64_t block = first_block; block < last_block; block++) {
        float columns[PADDED_COLS], top[BLOCK_LINES / TMAC_STEP_LINES], highest = 0;
        int is_finite = 1;
        load_block(x, block, columns);
        for (int i = 0; i < BLOCK_LINES / TMAC_STEP_LINES; i++) {
            top[i] = top_of(columns + i * STEP_COLS);
            highest = highest > top[i] ? highest : top[i];
            is_finite &= top[i] <= FLT_MAX;
        }
        // below 1e-34 the scale would be denormal
        const int usable = is_finite && highest >= 1e-34f;
        const float steps_per_value = usable ? TMAC_LARGEST_STEP / highest : 0;
        uint8_t * entries = to->entries + block * BLOCK_LINES * TMAC_LINE_BYTES;
        memset(entries, 0, BLOCK_LINES * TMAC_LINE_BYTES);
        for (int i = 0; i < 4 * BLOCK_GROUPS; i++) {
            const int step = usable && i < TRIT_TABLE_LINES ? step_for(top[i / TMAC_STEP_LINES], steps_per_value) : 1;
            const float factor = 127 * steps_per_value / (float) step;
            to->steps[4 * BLOCK_GROUPS * block + i] = 0x01010101u * (uint32_t) step;
            for (int n = i * TMAC_LINE_TRIPLES; usable && n < TMAC_TRIPLES && n < (i + 1) * TMAC_LINE_TRIPLES; n++) {
                build_triple(columns + 3 * n, factor, entries + 16 * n);
            }
        }
        for (int i = 0; i < BLOCK_GROUPS; i++) {
            to->sum[BLOCK_GROUPS * block + i] = is_finite ? 0 : INFINITY;
        }
        to->scale[block] = usable ? highest / (127 * TMAC_LARGEST_STEP) : 0;
        store_unsigned(entries, to->steps + 4 * BLOCK_GROUPS * block, to->scale[block], to->sum[BLOCK_GROUPS * block],
                       unsigned_tables(to->entries, x->cols, block));
    }
}

void PREPARE_EXACT_TRITS(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                         const struct tmac_activations * to) {
    const float steps = int8_per_value(x, first_block, last_block, to->output_scale);
    for (int64_t block = first_block; block < last_block; block++) {
        int16_t columns[PADDED_COLS] = { 0 };
        for (int g = 0; g < BLOCK_GROUPS; g++) {
            int8_of_group(x, block * BLOCK_GROUPS + g, steps, columns + g * TMAC_TABLE_GROUP);
            to->sum[BLOCK_GROUPS * block + g] = 0;
        }
        for (int n = 0; n < PADDED_COLS / 3; n++) {
            const int16_t * triple = columns + 3 * n;
            uint8_t * low = to->entries + (block * BLOCK_LINES + n / TMAC_LINE_TRIPLES) * 2 * TMAC_LINE_BYTES +
                            n % TMAC_LINE_TRIPLES * 16;
            for (int i = 0; i < 16; i++) {
                const int16_t sum = (int16_t) (whole_digits[0][i] * triple[0] + whole_digits[1][i] * triple[1] +
                                               whole_digits[2][i] * triple[2]);
                const int16_t high = (int16_t) ((sum + 2) >> 2);
                low[i] = (uint8_t) (sum - 4 * high);
                low[TMAC_LINE_BYTES + i] = (uint8_t) high;
            }
        }
        to->scale[block] = 1;
    }
}
