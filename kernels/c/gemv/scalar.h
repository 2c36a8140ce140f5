// GEMV by lookups in plain C, row by row: the reference that every kernel of tables equals bit for bit.
//
// Needs: BITS and PRECISION (weights/planes.h). Gives: gemv, which the kernels call, and so does gemm/tables_scalar.c for each token.
#pragma once

#include "isa/scalar.h"
#include "weights/groups.h"
#include "weights/lookup.h"

static int looked_up(const uint8_t * line, const uint8_t * entries, int quad, int row) {
    const uint8_t pair = line[16 * (quad % 4) + row % 16];
    const uint8_t * entry = entries + quad / 4 * CHUNK_ENTRIES + 16 * (quad % 4) + (row < 16 ? pair & 15 : pair >> 4);
    return IS_EXACT ? entry[0] + 256 * (int8_t) entry[64] : (int8_t) entry[0];
}

static int rounded_average(int a, int b) { return (a + b + 257) / 2 - 128; } // no shift of a negative number

// What one plane of one row looks up over one table group. Fast: averages of the quads j, j+4 and of those, j, j+2.
static int sum_of_plane(const uint8_t * lines, const uint8_t * entries, int row) {
    int entry[QUADS], sum = 0;
    for (int q = 0; q < QUADS; q++) {
        entry[q] = looked_up(lines + q / 4 * BITS * LINE, entries, q, row);
        sum += entry[q];
    }
    if (!IS_FAST) {
        return sum;
    }
    for (int j = 0; j < 4; j++) {
        entry[j] = rounded_average(entry[j], entry[j + 4]);
    }
    return 4 * (rounded_average(entry[0], entry[2]) + rounded_average(entry[1], entry[3]));
}

// What a row looks up in a chunk, half a table group.
static int32_t sum_of_chunk(const struct tmac_activations * x, int64_t chunk, const uint8_t * lines, int row) {
    int32_t sum = 0;
    for (int b = 0; b < BITS; b++) {
        for (int quad = 0; quad < QUADS / CHUNKS; quad++) {
            sum += looked_up(lines + b * LINE, x->entries + chunk * CHUNK_ENTRIES, quad, row) * (1 << b);
        }
    }
    return sum * step_of(x, chunk / CHUNKS);
}

// What a row looks up in `count` table groups from `first` on, planes at `lines`: an integer below 2^24.
static int32_t sum_of_piece(const struct tmac_activations * x, int64_t first, int count, const uint8_t * lines,
                            int row) {
    int32_t total = 0;
    for (int64_t a = first; a < first + count; a++, lines += CHUNKS * BITS * LINE) {
        int32_t sum = -BIAS;
        for (int b = 0; b < BITS; b++) {
            sum += sum_of_plane(lines + b * LINE, x->entries + a * GROUP_ENTRIES, row) * (1 << b);
        }
        total += sum * step_of(x, a);
    }
    return total;
}

TMAC_INLINE float product_of_row(const int group, const int grid, const struct tmac_matrix * w,
                                 const struct tmac_activations * x, int64_t tile, int row) {
    const int64_t cols = group_columns(group, w), groups = w->cols / cols, table_groups = cols / TMAC_TABLE_GROUP;
    float out = 0;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t last_group = (g + 1) * table_groups;
        const float sum_x = group == HALF_GROUP ? x->half_sum[g] : sum_of(x->sum, g * table_groups, last_group);
        float part = start_of(grid, sum_x);
        if (group == HALF_GROUP) {
            const uint8_t * lines = lines_at(w, tile, g / CHUNKS) + g % CHUNKS * BITS * LINE;
            part = fmaf((float) sum_of_chunk(x, g, lines, row), x->scale[g / CHUNKS / BLOCK_GROUPS], part);
        }
        for (int64_t a = g * table_groups; a < last_group;) {
            const int count = piece(group, a, last_group);
            part = fmaf((float) sum_of_piece(x, a, count, lines_at(w, tile, a), row), x->scale[a / BLOCK_GROUPS], part);
            a += count;
        }
        const struct factors factors = factors_at(group, grid, w, (tile * groups + g) * TMAC_TILE_ROWS + row);
        out = finish_group(group, grid, factors, per_offset(grid, sum_x), part, out);
    }
    return IS_EXACT ? out * *x->output_scale : out;
}

TMAC_INLINE void gemv(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * y, int64_t first_tile, int64_t last_tile) {
    for (int64_t row = first_tile * TMAC_TILE_ROWS; row < last_tile * TMAC_TILE_ROWS; row++) {
        y[row] = product_of_row(group, grid, w, x, row / TMAC_TILE_ROWS, (int) (row % TMAC_TILE_ROWS));
    }
}
