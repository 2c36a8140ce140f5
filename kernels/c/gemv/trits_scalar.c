// GEMV for ternary weights in plain C: the reference that every other kernel equals bit for bit, and the portable
// fallback.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemv, which the kernels call.
#include "isa/scalar.h"
#include "weights/groups.h"
#include "weights/trits.h"

// What a row looks up in the block that begins with a table group: an integer below 2^24.
static int32_t sum_of_block(const struct tmac_activations * x, int64_t table_group, const uint8_t * block, int row) {
    const uint8_t * entries = entries_of_block(x, table_group);
    int32_t total = 0;
    for (int n = 0; n < TRIPLES; n++) {
        const int line = n / LINE_TRIPLES;
        const uint8_t * entry = entries + line * LINE_ENTRIES + n % LINE_TRIPLES * 16 + nibble_of_triple(block, n, row);
        int32_t found = (int8_t) entry[0];
        if (IS_EXACT) {
            found += 4 * (int8_t) entry[LINE];
        }
        found *= (int32_t) (steps_of_line(x, table_group, line) & 255);
        total += is_negative(block, n, row) ? -found : found;
    }
    return total;
}

TMAC_INLINE float product_of_row(const int group, const struct tmac_matrix * w, const struct tmac_activations * x,
                                 int64_t tile, int row) {
    const int64_t cols = group_columns(group, w), groups = w->cols / cols, table_groups = cols / TMAC_TABLE_GROUP;
    float out = 0;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t last_group = (g + 1) * table_groups;
        float part = start_of(0, sum_of(x->sum, g * table_groups, last_group));
        for (int64_t a = g * table_groups; a < last_group; a += BLOCK_GROUPS) {
            part = fmaf((float) sum_of_block(x, a, lines_at(w, tile, a), row), x->scale[a / BLOCK_GROUPS], part);
        }
        const struct factors factors = factors_at(group, 0, w, (tile * groups + g) * TMAC_TILE_ROWS + row);
        out = finish_group(group, 0, factors, 0, part, out);
    }
    return IS_EXACT ? out * *x->output_scale : out;
}

TMAC_INLINE void gemv(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * y, int64_t first_tile, int64_t last_tile) {
    for (int64_t row = first_tile * TMAC_TILE_ROWS; row < last_tile * TMAC_TILE_ROWS; row++) {
        y[row] = product_of_row(group, w, x, row / TMAC_TILE_ROWS, (int) (row % TMAC_TILE_ROWS));
    }
    (void) grid;
}
