// GEMM for weights of BITS bits and int8 activations in plain C: the reference that every kernel of this form equals
// bit for bit, and the portable fallback.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm.
#include "isa/scalar.h"
#include "weights/codes.h"
#include "weights/groups.h"

#ifdef TRITS
#include "weights/trit_codes.h"
#else
static int code_at(const uint8_t * tile_planes, int64_t column, int row) {
    const uint8_t * line =
        tile_planes + column / TMAC_CHUNK_COLS * BITS * LINE + column % TMAC_CHUNK_COLS / 4 * 16 + row % 16;
    int code = 0;
    for (int b = 0; b < BITS; b++) {
        code |= (line[b * LINE] >> (row / 16 * 4 + column % 4) & 1) << b;
    }
    return code;
}
#endif

static int32_t sum_of_products(const uint8_t * tile_planes, const uint8_t * values, int64_t first, int columns,
                               int row) {
    int32_t sum = 0;
    for (int64_t k = first; k < first + columns; k++) {
        sum += code_at(tile_planes, k, row) * (int8_t) values[k];
    }
    return sum;
}

TMAC_INLINE float product_of_row(const int group, const int grid, const struct tmac_matrix * w,
                                 const struct tmac_activations * x, int64_t tile, int row) {
    const int64_t cols = group_columns(group, w), groups = w->cols / cols, table_groups = cols / TMAC_TABLE_GROUP;
    float out = 0;
    for (int64_t g = 0; g < groups; g++) {
        const float sum_x =
            group == HALF_GROUP ? x->half_sum[g] : sum_of(x->sum, g * table_groups, (g + 1) * table_groups);
        float part = start_of(grid, sum_x);
        const int columns = group == HALF_GROUP ? HALF_GROUP : TMAC_TABLE_GROUP; // whose integers become floats at once
        for (int64_t k = g * cols; k < (g + 1) * cols; k += columns) {
            const int32_t sum = sum_of_products(lines_at(w, tile, 0), x->entries, k, columns, row);
            part = fmaf((float) sum, x->scale[k / TMAC_TABLE_GROUP], part);
        }
        const struct factors factors = factors_at(group, grid, w, (tile * groups + g) * TMAC_TILE_ROWS + row);
        out = finish_group(group, grid, factors, per_offset(grid, sum_x), part, out);
    }
    return IS_EXACT ? out * *x->output_scale : out;
}

TMAC_INLINE void gemm(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    for (int64_t row = first_tile * TMAC_TILE_ROWS; row < last_tile * TMAC_TILE_ROWS; row++) {
        for (int64_t t = 0; t < tokens; t++) {
            y[t][row] = product_of_row(group, grid, w, x + t, row / TMAC_TILE_ROWS, (int) (row % TMAC_TILE_ROWS));
        }
    }
}
