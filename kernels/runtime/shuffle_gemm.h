// GEMM by byte shuffles. A register of BYTES looks up one quad of columns for as many rows, with the quad's table in each
// 128-bit lane: a unit of TILES row tiles. Two planes' indices of a row are neighbouring bytes, so that one multiply-add of
// neighbours weighs both, adds them and widens to 16 bits, and the multiplication by the step of the table group widens to 32.
//
// The including template defines `bytes` (a register of BYTES) and what is done with it, in the manner of shuffle.h;
// quad_indices; `floats` as walk.h asks for; and vector_tile and vector_row, the rows of float vector v of a unit.
#pragma once

#include "tables.h"

enum { COLUMNS = TMAC_TABLE_BLOCK, CHUNK_QUADS = TMAC_CHUNK_COLS / 4 };
enum { TILES = BYTES / TMAC_TILE_ROWS, VECTORS = 4, QUAD_INDICES = BITS * BYTES };
// Tiles whose indices, and tokens whose sums, are in the first-level cache together; they use the same tables.
enum { TILES_AT_ONCE = BITS <= 2 ? 8 : 4, TOKENS = 192 / TILES_AT_ONCE, UNITS = TILES_AT_ONCE / TILES };

#include "gemm_blocks.h"

// One block of columns of a unit. Of each quad: the indices of pairs of planes, lower and upper rows, then of an odd plane.
struct unit {
    uint8_t indices[TMAC_TABLE_BLOCK / 4 * QUAD_INDICES];
    struct tile_scales scales[TILES];
};

TMAC_INLINE void index_chunk(const uint8_t * const tiles[TILES], int64_t offset, uint8_t * to) {
    bytes rows[BITS][CHUNK_QUADS];
#pragma GCC unroll 4
    for (int b = 0; b < BITS; b++) {
        const uint8_t * lines[TILES];
        for (int i = 0; i < TILES; i++) {
            lines[i] = tiles[i] + offset + b * LINE;
            prefetch(lines[i] + PREFETCH);
        }
        quad_indices(lines, rows[b]);
    }
#pragma GCC unroll 4
    for (int q = 0; q < CHUNK_QUADS; q++) {
        uint8_t * at = to + q * QUAD_INDICES;
#pragma GCC unroll 2
        for (int b = 0; b + 1 < BITS; b += 2) {
            store_bytes(at + b * BYTES, low_rows(rows[b][q], rows[b + 1][q]));
            store_bytes(at + (b + 1) * BYTES, high_rows(rows[b][q], rows[b + 1][q]));
        }
        if (BITS % 2) {
            store_bytes(at + (BITS - 1) * BYTES, rows[BITS - 1][q]);
        }
    }
}

static __attribute__((noinline)) void make_unit(const struct tmac_matrix * w, const int64_t tiles[TILES],
                                                const struct columns * columns, struct unit * unit) {
    const uint8_t * planes[TILES];
    const int64_t chunk = columns->first * TMAC_TABLE_GROUP / TMAC_CHUNK_COLS;
    for (int i = 0; i < TILES; i++) {
        planes[i] = w->planes + tiles[i] * tile_bytes(w) + chunk * BITS * LINE;
        load_scales(w, tiles[i], columns, &unit->scales[i]);
    }
    for (int c = 0; c < columns->count * TMAC_TABLE_GROUP / TMAC_CHUNK_COLS; c++) {
        index_chunk(planes, (int64_t) c * BITS * LINE, unit->indices + c * CHUNK_QUADS * QUAD_INDICES);
    }
}

// Adds to a sum now: GCC would put a row of additions into another order, which needs more registers than there are.
TMAC_INLINE void add_now(bytes * sum, bytes words) {
    *sum = add_words(*sum, words);
    __asm__("" : REGISTER(*sum));
}

// The sums of one table group, in 16 bits: of rows with even and odd numbers of lower rows and of upper ones.
TMAC_INLINE void look_up_group(const uint8_t * indices, const uint8_t * entries, bytes words[2]) {
    words[0] = words[1] = spread(0);
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q += 2) {
        const bytes tables[2] = { spread_table(entries + 16 * q), spread_table(entries + 16 * (q + 1)) };
        const uint8_t * index = indices + q * QUAD_INDICES;
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
#pragma GCC unroll 2
            for (int b = 0; b + 1 < BITS; b += 2) {
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    const bytes found = look_up(tables[i], load(index + i * QUAD_INDICES + (b + h) * BYTES));
                    add_now(&words[h], multiply_pairs(spread(0x0201 << b), found));
                }
            }
        }
        if (BITS % 2) {
            const bytes weights = spread(0x0101 << (BITS - 1));
            const bytes a = look_up(tables[0], load(index + (BITS - 1) * BYTES));
            const bytes b = look_up(tables[1], load(index + QUAD_INDICES + (BITS - 1) * BYTES));
            add_now(&words[0], multiply_pairs(weights, low_rows(a, b)));
            add_now(&words[1], multiply_pairs(weights, high_rows(a, b)));
        }
    }
}
_Static_assert(TOP_CODE * QUADS * 128 < 32768, "the 16-bit sums would overflow");

// The numbers of a block's weight group looked up: rows of a unit for one token, added to `out`.
TMAC_INLINE void add_group(const struct unit * unit, const int table_groups, const int whole_row, const int has_zeros, int group,
                           const uint8_t * entries, const uint32_t * steps, floats scale, const struct token_sums * sums,
                           float * out) {
    bytes sum[VECTORS] = { spread(0), spread(0), spread(0), spread(0) };
    const uint8_t * indices = unit->indices + group * table_groups * QUADS * QUAD_INDICES;
    for (int i = 0; i < table_groups; i++) {
        bytes words[2];
        look_up_group(indices + i * QUADS * QUAD_INDICES, entries + i * QUADS * 16, words);
        const bytes even = even_words(steps + 4 * i), odd = odd_words(steps + 4 * i);
        for (int v = 0; v < VECTORS; v++) {
            sum[v] = add_ints(sum[v], multiply_words(words[v / 2], v % 2 ? odd : even));
        }
    }
    for (int v = 0; v < VECTORS; v++) {
        const struct tile_scales * scales = &unit->scales[vector_tile(v)];
        float * to = out + v * FLOATS;
        floats part = multiply_add(floats_of_ints(sum[v]), scale, whole_row ? load_floats(to) : broadcast(sums->start[group]));
        if (has_zeros) {
            part = multiply_add(load_floats(scales->zeros[group] + vector_row(v)), broadcast(sums->per_zero[group]), part);
        }
        store(to, whole_row ? part : multiply_add(part, load_floats(scales->scales[group] + vector_row(v)), load_floats(to)));
    }
}

// What one token looks up in its tables, for all units.
TMAC_INLINE void add_token(const struct unit * unit, int units, const struct columns columns, const int per_group,
                           const int whole_row, const int has_zeros, const struct tmac_activations * x,
                           const struct token_sums * sums, float (*out)[TOKENS][VECTORS * FLOATS]) {
    const uint8_t * entries = x->entries + columns.first * QUADS * 16;
    const uint32_t * steps = x->steps + columns.first * 4;
    const floats scale = broadcast(x->scale[columns.first * TMAC_TABLE_GROUP / TMAC_TABLE_BLOCK]);
    for (int u = 0; u < units; u++) {
        for (int g = 0; g * per_group < columns.count; g++) {
            add_group(&unit[u], per_group, whole_row, has_zeros, g, entries + g * per_group * QUADS * 16,
                      steps + g * per_group * 4, scale, sums, *out[u]);
        }
    }
}

typedef void (*add_token_fn)(const struct unit * unit, int units, const struct columns * columns,
                             const struct tmac_activations * x, const struct token_sums * sums,
                             float (*out)[TOKENS][VECTORS * FLOATS]);
#define ADD_TOKEN(name, per_group, whole_row, has_zeros)                                                                     \
    static void name(const struct unit * unit, int units, const struct columns * columns, const struct tmac_activations * x, \
                     const struct token_sums * sums, float (*out)[TOKENS][VECTORS * FLOATS]) {                               \
        add_token(unit, units, *columns, per_group, whole_row, has_zeros, x, sums, out);                                     \
    }
ADD_TOKEN(add_token_plain, columns->per_group, 0, 0)
ADD_TOKEN(add_token_zeros, columns->per_group, 0, 1)
ADD_TOKEN(add_token_whole_row, columns->per_group, 1, 0)

TMAC_INLINE void prefetch_tables(const struct tmac_activations * x, const struct columns * columns) {
    for (int line = 0; line < columns->count * 2; line++) {
        prefetch(x->entries + (columns->first * 2 + line) * LINE);
    }
}

static __attribute__((noinline)) void multiply_units(int group, int has_zeros, const struct tmac_matrix * w,
                                                     const struct tmac_activations * x, float * const * y, int64_t tokens,
                                                     int64_t first, int64_t count) {
    const int units = (int) ((count + TILES - 1) / TILES);
    struct unit unit[UNITS];
    float out[UNITS][TOKENS][VECTORS * FLOATS];
    struct token_sums sums[TOKENS];
    const add_token_fn add = !group ? add_token_whole_row : has_zeros ? add_token_zeros : add_token_plain;
    for (int u = 0; u < units; u++) {
        start_rows(x, tokens, group, w, sum_factor(has_zeros), VECTORS * FLOATS, out[u][0]);
    }
    for (int64_t k = 0; k < w->cols; k += COLUMNS) {
        const struct columns columns = columns_from(k, COLUMNS, group, has_zeros, w);
        for (int u = 0; u < units; u++) {
            int64_t tiles[TILES];
            for (int i = 0; i < TILES; i++) {
                tiles[i] = first + least(u * TILES + i, count - 1); // the last tile takes the place of one that is missing
            }
            make_unit(w, tiles, &columns, &unit[u]);
        }
        sum_groups(x, tokens, &columns, sum_factor(has_zeros), sums);
        for (int64_t t = 0; t < tokens; t++) {
            prefetch_tables(x + least(t + 1, tokens - 1), &columns);
            add(unit, units, &columns, x + t, &sums[t], (float (*)[TOKENS][VECTORS * FLOATS]) out[0][t]);
        }
    }
    for (int64_t t = 0; t < tokens; t++) {
        for (int i = 0; i < count * TMAC_TILE_ROWS; i += FLOATS) {
            const int u = i / (VECTORS * FLOATS), row = i % (VECTORS * FLOATS);
            for (int v = 0; v < VECTORS; v++) {
                if (vector_tile(v) * TMAC_TILE_ROWS + vector_row(v) == row) {
                    store(y[t] + first * TMAC_TILE_ROWS + i, load_floats(out[u][t] + v * FLOATS));
                }
            }
        }
    }
}

static void multiply_tiles(int group, int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                           float * const * y, int64_t tokens, int64_t first, int64_t last) {
    const int64_t step = tokens < FEW_TOKENS ? 2 : TILES_AT_ONCE;
    for (int64_t tile = first; tile < last; tile += step) {
        multiply_units(group, has_zeros, w, x, y, tokens, tile, least(step, last - tile));
    }
}
