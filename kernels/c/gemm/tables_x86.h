// GEMM by byte shuffles with AVX2 and AVX-512 BW. A register looks up one quad of columns for as many rows as it has
// bytes, with the quad's table in each 128-bit lane: a unit of UNIT_TILES row tiles. Two planes' indices of a row are
// neighbouring bytes, so that one multiply-add of neighbours weighs both, adds them and widens to 16 bits, and the
// multiplication by the step of the table group widens to 32.
//
// Needs before it: isa/avx2.h or isa/avx512.h; UNIT_TILES, the tiles whose rows fill a register. Needs after it:
// vector_row and quad_indices. Gives: gemm (gemm/frame.h).
#pragma once

#include "weights/lookup.h"

#if !defined(BYTES) || !defined(UNIT_TILES)
#error "gemm/tables_x86.h: include isa/avx2.h or isa/avx512.h and define UNIT_TILES before it"
#endif

// Units whose indices, and tokens whose sums, are in the first-level cache together; they use the same tables.
#define STEP_UNITS ((BITS <= 2 ? 8 : 4) / UNIT_TILES)
#define BLOCK_TOKENS (BITS <= 2 ? 24 : 48)
#define TOKEN_STEP 1
#define TILE_BLOCK_BYTES (512 * 1024)
#define RANGE_COLUMNS TMAC_TABLE_BLOCK
#include "gemm/range_groups.h"

enum { CHUNK_QUADS = TMAC_CHUNK_COLS / 4, VECTORS = 4, QUAD_INDICES = BITS * BYTES };
// Fewer tokens wait for the weights, which fewer tiles at a time fetch more evenly. Prefetched in bytes ahead.
enum { FEW_TOKENS = 8, FEW_TILES = 2, PREFETCH = 4096 };

// One range of a unit. Of each quad: the indices of pairs of planes, lower and upper rows, then of an odd plane.
struct unit {
    uint8_t indices[RANGE_COLUMNS / 4 * QUAD_INDICES];
    struct tile_factors factors[UNIT_TILES];
};

struct scratch {
    struct unit units[STEP_UNITS];
    struct group_sum group_sums[BLOCK_TOKENS][RANGE_GROUPS];
};

#include "gemm/frame.h"

// The first row of the unit that float vector v of its sums has.
TMAC_INLINE int vector_row(int v);

// The indices of the quads of a plane line of each tile, in the order of rows that vector_row tells.
TMAC_INLINE void quad_indices(const uint8_t * const lines[UNIT_TILES], bytes quads[CHUNK_QUADS]);

TMAC_INLINE void put_rows(const int group, const floats rows[UNIT_VECTORS], float * sums) {
    for (int v = 0; v < VECTORS; v++) {
        store_floats(sums + v * FLOATS, rows[vector_row(v) / FLOATS]);
    }
    (void) group;
}

TMAC_INLINE void get_rows(const int group, const float * sums, floats rows[UNIT_VECTORS]) {
    for (int v = 0; v < VECTORS; v++) {
        rows[vector_row(v) / FLOATS] = load_floats(sums + v * FLOATS);
    }
    (void) group;
}

TMAC_INLINE int step_tiles(const struct block * block) {
    return block->tokens < FEW_TOKENS ? FEW_TILES : STEP_UNITS * UNIT_TILES;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    (void) group, (void) block;
    return RANGE_COLUMNS;
}

TMAC_INLINE void index_chunk(const uint8_t * const tiles[UNIT_TILES], int64_t offset, uint8_t * to) {
    bytes rows[BITS][CHUNK_QUADS];
#pragma GCC unroll 4
    for (int b = 0; b < BITS; b++) {
        const uint8_t * lines[UNIT_TILES];
        for (int i = 0; i < UNIT_TILES; i++) {
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
            store_bytes(at + b * BYTES, interleave_low(rows[b][q], rows[b + 1][q]));
            store_bytes(at + (b + 1) * BYTES, interleave_high(rows[b][q], rows[b + 1][q]));
        }
        if (BITS % 2) {
            store_bytes(at + (BITS - 1) * BYTES, rows[BITS - 1][q]);
        }
    }
}

// Unit u of a step; its last tile takes the place of one that is missing.
SHARED void make_unit(int group, int grid, const struct tmac_matrix * w, const struct range * range, int u,
                      struct unit * unit) {
    const uint8_t * lines[UNIT_TILES];
    for (int i = 0; i < UNIT_TILES; i++) {
        const int64_t tile = range->tile + least(u * UNIT_TILES + i, range->tiles - 1);
        lines[i] = lines_at(w, tile, range->first);
        load_tile_factors(group, grid, w, tile, range->first, range->count, &unit->factors[i]);
    }
    for (int c = 0; c < range->count * CHUNKS; c++) {
        index_chunk(lines, (int64_t) c * BITS * LINE, unit->indices + c * CHUNK_QUADS * QUAD_INDICES);
    }
}

TMAC_INLINE void add_now(bytes * sum, bytes words) {
    *sum = add_words(*sum, words);
    make_now(sum);
}

// The sums of one table group, in 16 bits: of rows with even and odd numbers of lower rows and of upper ones.
TMAC_INLINE void look_up_group(const uint8_t * indices, const uint8_t * entries, bytes words[2]) {
    words[0] = words[1] = broadcast_word(0);
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q += 2) {
        const bytes tables[2] = { broadcast_16(entries + 16 * q), broadcast_16(entries + 16 * (q + 1)) };
        const uint8_t * index = indices + q * QUAD_INDICES;
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
#pragma GCC unroll 2
            for (int b = 0; b + 1 < BITS; b += 2) {
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    const bytes found = look_up(tables[i], load_bytes(index + i * QUAD_INDICES + (b + h) * BYTES));
                    add_now(&words[h], multiply_pairs(broadcast_word(0x0201 << b), found));
                }
            }
        }
        if (BITS % 2) {
            const bytes weights = broadcast_word(0x0101 << (BITS - 1));
            const bytes a = look_up(tables[0], load_bytes(index + (BITS - 1) * BYTES));
            const bytes b = look_up(tables[1], load_bytes(index + QUAD_INDICES + (BITS - 1) * BYTES));
            add_now(&words[0], multiply_pairs(weights, interleave_low(a, b)));
            add_now(&words[1], multiply_pairs(weights, interleave_high(a, b)));
        }
    }
}
_Static_assert(TOP_CODE * QUADS * 128 < 32768, "the 16-bit sums would overflow");

// The step, which is in each byte of a word of 32 bits, as factor of the even and of the odd 16-bit numbers only.
TMAC_INLINE bytes even_words(const uint32_t * step) { return shift_ints_right(broadcast_int((int) *step), 24); }
TMAC_INLINE bytes odd_words(const uint32_t * step) { return shift_ints_left(even_words(step), 16); }

// Weight group g of the range: what the rows of a unit look up for one token, added to `out`.
TMAC_INLINE void add_group(const struct unit * unit, const int table_groups, const int group, const int grid, int g,
                           const uint8_t * entries, const uint32_t * steps, floats scale,
                           const struct group_sum * group_sums, float * out) {
    bytes sum[VECTORS] = { broadcast_word(0), broadcast_word(0), broadcast_word(0), broadcast_word(0) };
    const uint8_t * indices = unit->indices + g * table_groups * QUADS * QUAD_INDICES;
    for (int i = 0; i < table_groups; i++) {
        bytes words[2];
        look_up_group(indices + i * QUADS * QUAD_INDICES, entries + i * QUADS * 16, words);
        const bytes even = even_words(steps + 4 * i), odd = odd_words(steps + 4 * i);
        for (int v = 0; v < VECTORS; v++) {
            sum[v] = add_ints(sum[v], multiply_words(words[v / 2], v % 2 ? odd : even));
        }
    }
    for (int v = 0; v < VECTORS; v++) {
        const int row = vector_row(v);
        const struct factors factors = factors_of_row(&unit->factors[row / TMAC_TILE_ROWS], g, row % TMAC_TILE_ROWS);
        float * to = out + v * FLOATS;
        const floats start = group ? broadcast(group_sums[g].start) : load_floats(to);
        const floats part = multiply_add(floats_of_ints(sum[v]), scale, start);
        store_floats(to, finish_group(group, grid, factors, group_sums[g].per_offset, part, load_floats(to)));
    }
}

// What one token looks up in its tables, for all units of a step.
TMAC_INLINE void add_token(const int group, const int grid, const int per_group, const struct range * range,
                           const struct unit * units, const struct tmac_activations * x,
                           const struct group_sum * group_sums, float (*out)[BLOCK_TOKENS][UNIT_ROWS]) {
    const uint8_t * entries = x->entries + range->first * QUADS * 16;
    const uint32_t * steps = x->steps + range->first * 4;
    const int count = range->count;
    const floats scale = broadcast(x->scale[range->first / BLOCK_GROUPS]);
    for (int u = 0; u * UNIT_TILES < range->tiles; u++) {
        for (int g = 0; g * per_group < count; g++) {
            add_group(&units[u], per_group, group, grid, g, entries + g * per_group * QUADS * 16,
                      steps + g * per_group * 4, scale, group_sums, *out[u]);
        }
    }
}

typedef void (*add_token_fn)(int per_group, const struct range * range, const struct unit * units,
                             const struct tmac_activations * x, const struct group_sum * group_sums,
                             float (*out)[BLOCK_TOKENS][UNIT_ROWS]);
#define ADD_TOKEN(name, group, grid)                                                                                   \
    static void name(int per_group, const struct range * range, const struct unit * units,                             \
                     const struct tmac_activations * x, const struct group_sum * group_sums,                           \
                     float (*out)[BLOCK_TOKENS][UNIT_ROWS]) {                                                          \
        add_token(group, grid, per_group, range, units, x, group_sums, out);                                           \
    }
ADD_TOKEN(add_token_plain, 1, 0)
ADD_TOKEN(add_token_zeros, 1, TMAC_GRID_ZEROS)
ADD_TOKEN(add_token_minima, 1, TMAC_GRID_MINIMA)
ADD_TOKEN(add_token_whole_row, 0, 0)

TMAC_INLINE void prefetch_tables(const struct tmac_activations * x, const struct range * range) {
    for (int line = 0; line < range->count * 2; line++) {
        prefetch(x->entries + (range->first * 2 + line) * LINE);
    }
}

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const add_token_fn add = !group                     ? add_token_whole_row
                             : grid == TMAC_GRID_ZEROS  ? add_token_zeros
                             : grid == TMAC_GRID_MINIMA ? add_token_minima
                                                        : add_token_plain;
    const int per_group = groups_of_sum(group, range->count);
    for (int u = 0; u * UNIT_TILES < range->tiles; u++) {
        make_unit(group, grid, block->w, range, u, &scratch->units[u]);
    }
    for (int t = 0; t < block->tokens && group; t++) {
        for (int g = 0; g * per_group < range->count; g++) {
            scratch->group_sums[t][g] = group_sum_at(group, grid, block->x + t, range->first + g * per_group);
        }
    }
    for (int t = 0; t < block->tokens; t++) {
        prefetch_tables(block->x + least(t + 1, block->tokens - 1), range);
        add(per_group, range, scratch->units, block->x + t, scratch->group_sums[t],
            (float (*)[BLOCK_TOKENS][UNIT_ROWS]) sums[0][t]);
    }
}
