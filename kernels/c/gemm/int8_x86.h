// GEMM by int8 multiplication with AVX2, AVX-VNNI, AVX-512 BW and VNNI. The planes of a unit's columns become codes of 8
// bits in a scratch, once for all tokens of a block; a register holds four neighbouring columns of FLOATS rows, and meets
// the activations of the four, broadcast.
//
// The integer sums of TOKENS_AT_ONCE tokens and ROWS rows are in registers: 12 sums, 2 registers of codes, one of
// activations and one product fill the 16 of AVX2. AVX-512 has room for the 12 sums of floats too, which AVX2 keeps in
// memory. More sums would not help: 12 cover the latency of a multiplication, and a pass reads 8 times for 12
// multiplications.
//
// Needs: isa/avx2.h, isa/avx_vnni.h, isa/avx512.h or isa/avx512_vbmi.h before it. Gives: gemm (gemm/frame.h).
#pragma once

#include "weights/codes.h"

#ifndef BYTES
#error "gemm/int8_x86.h: include isa/avx2.h, isa/avx_vnni.h, isa/avx512.h or isa/avx512_vbmi.h before it"
#endif

#define BLOCK_TOKENS 96
#define TOKEN_STEP 1
#define STEP_UNITS 1
#define TILE_BLOCK_BYTES (512 * 1024)
#define UNIT_TILES 1
#define RANGE_COLUMNS 512 // whose codes, 16 KiB, are half of the smallest first-level cache
#define SLAB_COLUMNS 2048
#include "gemm/slab_sums.h"

enum { QUADS = TMAC_TABLE_GROUP / 4, LANES = BYTES / 16, PARTS = LINE / BYTES };
// Of a pass, what one walk over columns serves.
enum { VECTORS = 2, ROWS = VECTORS * FLOATS, PASSES = TMAC_TILE_ROWS / ROWS, QUAD_CODES = 4 * ROWS };
enum { TOKENS_AT_ONCE = 6 };
// Fewer tokens wait for the weights, which fewer columns at a time fetch more evenly. Prefetched in bytes ahead.
enum { FEW_TOKENS = 8, FEW_COLUMNS = 128, PREFETCH = 4096 };

// Codes of a tile: [pass][quad][row][column of the quad].
struct tile_codes {
    uint8_t codes[PASSES][RANGE_COLUMNS / 4 * QUAD_CODES] __attribute__((aligned(64)));
};

struct scratch {
    struct tile_codes codes;
    struct tile_factors factors;
    struct slab_sums slab;
};

#include "gemm/plain_rows.h"

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return 1;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    return block->tokens >= FEW_TOKENS ? RANGE_COLUMNS : group > FEW_COLUMNS ? group : FEW_COLUMNS;
}

TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    make_slab_sums(group, grid, block->x, block->tokens, first, last, &scratch->slab);
}

TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }

#ifdef TRITS
#include "gemm/unpack_trits_x86.h"
#else
#include "gemm/unpack_planes_x86.h"
#endif

SHARED void unpack_codes(const struct tmac_matrix * w, const struct range * range, struct tile_codes * to) {
    unpack_columns(lines_at(w, range->tile, range->first), range->count, to);
}

SHARED void load_range_factors(int group, int grid, const struct tmac_matrix * w, const struct range * range,
                               struct tile_factors * to) {
    load_tile_factors(group, grid, w, range->tile, range->first, range->count, to);
}

TMAC_INLINE void unpack_range(const int group, const int grid, const struct tmac_matrix * w, const struct range * range,
                              struct scratch * to) {
    unpack_codes(w, range, &to->codes);
    // With levels, of which a file has one type, constants take the place of divisions.
    if (has_levels(grid)) {
        load_tile_factors(group, grid, w, range->tile, range->first, range->count, &to->factors);
    } else {
        load_range_factors(group, grid, w, range, &to->factors);
    }
}

// Without dot products, sums have 16 bits, each of half the columns, and become sums of 32 bits: of few bits when they
// become floats, of more after these quads.
enum { NARROW_QUADS = BITS < 5 ? QUADS : BITS == 5 ? 4 : 2 };
_Static_assert(TOP_CODE * 128 * 2 * NARROW_QUADS < 32768, "the 16-bit sums would overflow");
#ifdef HAS_DOT_PRODUCTS
enum { HAS_NARROW_SUMS = 0 };
#else
enum { HAS_NARROW_SUMS = (int) NARROW_QUADS < (int) QUADS };
#endif

// Adds four products to each row's sum; without dot products to two sums of 16 bits.
TMAC_INLINE void add_products(bytes * sum, bytes codes, bytes values) {
#ifdef HAS_DOT_PRODUCTS
    add_dot_products_to(sum, codes, values);
#else
    *sum = add_words(*sum, multiply_pairs(codes, values));
    make_now(sum);
#endif
}

// What the sums of products start with.
TMAC_INLINE bytes no_products(void) {
#ifdef PRODUCTS_ORIGIN
    return broadcast_int(PRODUCTS_ORIGIN);
#else
    return broadcast_word(0);
#endif
}

TMAC_INLINE bytes widened(bytes sum) { return multiply_words(sum, broadcast_word(1)); }

TMAC_INLINE floats floats_of_products(bytes sum) {
#ifdef PRODUCTS_ORIGIN
    return floats_of_products_from_origin(sum);
#elif defined(HAS_DOT_PRODUCTS)
    return floats_of_ints(sum);
#else
    return floats_of_ints(HAS_NARROW_SUMS ? sum : widened(sum));
#endif
}

// Table groups whose integer sums become floats at once: those of a scale. One scale of a token (exact) holds for a
// whole weight group, and sums of 32 bits have room for it.
#ifdef HAS_DOT_PRODUCTS
enum { RUNS_ON = IS_EXACT };
#else
enum { RUNS_ON = 0 };
#endif
_Static_assert(TOP_CODE * 128 * RANGE_COLUMNS < 1 << 22, "more than PRODUCTS_ORIGIN takes");

// What some tokens and the rows of a pass multiply.
struct pass {
    int group, grid, first_row;
    const struct range * range;
    const struct tile_factors * factors;
    const struct tmac_activations * x;
    const struct group_sum (*group_sums)[BLOCK_TOKENS]; // [weight group of the range][token]
    float (*out)[UNIT_ROWS];
};

// What the sums of a weight group start with.
TMAC_INLINE void begin_group(const int tokens, const int group, const struct pass * pass, int g,
                             floats part[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        for (int v = 0; v < VECTORS; v++) {
            part[t][v] = group ? broadcast(pass->group_sums[g][t].start) : load_floats(pass->out[t] + v * FLOATS);
        }
    }
}

TMAC_INLINE void end_group(const int tokens, const int group, const int grid, const struct pass * pass, int g,
                           const floats part[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        const float per_offset = grid ? pass->group_sums[g][t].per_offset : 0;
        for (int v = 0; v < VECTORS; v++) {
            float * out = pass->out[t] + v * FLOATS;
            const struct factors factors = factors_of_row(pass->factors, g, pass->first_row + v * FLOATS);
            store_floats(out, finish_group(group, grid, factors, per_offset, part[t][v], load_floats(out)));
        }
    }
}

// Adds the products of so many quads from `column` on.
TMAC_INLINE void add_quads(const int tokens, const int quads, const uint8_t * const values[TOKENS_AT_ONCE],
                           int64_t column, const uint8_t * codes, bytes sums[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) {
        const bytes rows[VECTORS] = { load_bytes(codes + q * QUAD_CODES), load_bytes(codes + q * QUAD_CODES + BYTES) };
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            const bytes quad = broadcast_4(values[t] + column + 4 * q);
            add_products(&sums[t][0], rows[0], quad);
            add_products(&sums[t][1], rows[1], quad);
        }
    }
}

// The integer sums of so many quads from `column` on.
TMAC_INLINE void add_columns(const int tokens, const int quads, const uint8_t * const values[TOKENS_AT_ONCE],
                             int64_t column, const uint8_t * codes, bytes sums[TOKENS_AT_ONCE][VECTORS]) {
    if (!HAS_NARROW_SUMS) {
        add_quads(tokens, quads, values, column, codes, sums);
        return;
    }
#pragma GCC unroll 4
    for (int q = 0; q < quads; q += NARROW_QUADS) {
        bytes narrow[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            narrow[t][0] = narrow[t][1] = broadcast_word(0);
        }
        add_quads(tokens, NARROW_QUADS, values, column + 4 * q, codes + q * QUAD_CODES, narrow);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            for (int v = 0; v < VECTORS; v++) {
                sums[t][v] = add_ints(sums[t][v], widened(narrow[t][v]));
            }
        }
    }
}

TMAC_INLINE void multiply(const int tokens, const struct pass * pass, const uint8_t * codes) {
    const struct tmac_activations * x = pass->x;
    const int count = pass->range->count, per_group = groups_of_sum(pass->group, count);
    const int at_once = RUNS_ON ? per_group : 1;
    const uint8_t * values[TOKENS_AT_ONCE];
    const float * scales[TOKENS_AT_ONCE];
    int64_t at = pass->range->first;
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        values[t] = x[t].entries;
        scales[t] = x[t].scale;
    }
    for (int g = 0; g * per_group < count; g++) {
        floats part[TOKENS_AT_ONCE][VECTORS];
        if (pass->group) {
            begin_group(tokens, 1, pass, g, part);
        } else {
            begin_group(tokens, 0, pass, g, part);
        }
        for (int j = 0; j < per_group; j += at_once) {
            bytes sums[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++) {
                sums[t][0] = sums[t][1] = no_products();
            }
            for (int i = 0; i < at_once; i++, at++, codes += QUADS * QUAD_CODES) {
                add_columns(tokens, QUADS, values, at * TMAC_TABLE_GROUP, codes, sums);
            }
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++) {
                const floats scale = broadcast(scales[t][at - 1]);
                for (int v = 0; v < VECTORS; v++) {
                    part[t][v] = multiply_add(floats_of_products(sums[t][v]), scale, part[t][v]);
                }
            }
        }
        if (!pass->group) {
            end_group(tokens, 0, 0, pass, g, part);
        } else if (pass->grid == TMAC_GRID_MINIMA) {
            end_group(tokens, 1, TMAC_GRID_MINIMA, pass, g, part);
        } else if (pass->grid == TMAC_GRID_ZEROS) {
            end_group(tokens, 1, TMAC_GRID_ZEROS, pass, g, part);
        } else {
            end_group(tokens, 1, 0, pass, g, part);
        }
    }
}

// Whether the results of so many tokens are in registers beside their sums.
TMAC_INLINE int keeps_results(int tokens) { return FLOATS == 16 || tokens <= 2; }

// The same with groups of at most a table group: `quads` quads of columns.
TMAC_INLINE void multiply_small(const int tokens, const int quads, const int grid, const struct pass * pass,
                                const uint8_t * codes) {
    const int per_table_group = QUADS / quads, count = pass->range->count * per_table_group;
    const uint8_t * values[TOKENS_AT_ONCE];
    const float * scales[TOKENS_AT_ONCE];
    floats kept[TOKENS_AT_ONCE][VECTORS];
    int64_t at = pass->range->first * per_table_group;
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        values[t] = pass->x[t].entries;
        scales[t] = pass->x[t].scale;
        for (int v = 0; v < VECTORS && keeps_results(tokens); v++) {
            kept[t][v] = load_floats(pass->out[t] + v * FLOATS);
        }
    }
    for (int g = 0; g < count; g++, at++, codes += quads * QUAD_CODES) {
        bytes sums[TOKENS_AT_ONCE][VECTORS];
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            sums[t][0] = sums[t][1] = no_products();
        }
        add_columns(tokens, quads, values, at * quads * 4, codes, sums);
        struct factors factors[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            factors[v] = factors_of_row(pass->factors, g, pass->first_row + v * FLOATS);
        }
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            const struct group_sum sum_x = pass->group_sums[g][t];
            const floats scale = broadcast(scales[t][at / per_table_group]), start = broadcast(sum_x.start);
            for (int v = 0; v < VECTORS; v++) {
                float * out = pass->out[t] + v * FLOATS;
                const floats part = multiply_add(floats_of_products(sums[t][v]), scale, start);
                const floats before = keeps_results(tokens) ? kept[t][v] : load_floats(out);
                const floats after = finish_group(1, grid, factors[v], sum_x.per_offset, part, before);
                if (keeps_results(tokens)) {
                    kept[t][v] = after;
                } else {
                    store_floats(out, after);
                }
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        for (int v = 0; v < VECTORS && keeps_results(tokens); v++) {
            store_floats(pass->out[t] + v * FLOATS, kept[t][v]);
        }
    }
}

TMAC_INLINE void multiply_small_groups(const int tokens, const int quads, const struct pass * pass,
                                       const uint8_t * codes) {
    if (pass->grid == TMAC_GRID_MINIMA) {
        multiply_small(tokens, quads, TMAC_GRID_MINIMA, pass, codes);
    } else if (pass->grid == TMAC_GRID_ZEROS) {
        multiply_small(tokens, quads, TMAC_GRID_ZEROS, pass, codes);
    } else {
        multiply_small(tokens, quads, 0, pass, codes);
    }
}

TMAC_INLINE void multiply_any(const int tokens, const struct pass * pass, const uint8_t * codes) {
    if (HAS_HALVES && pass->group == HALF_GROUP) {
        multiply_small_groups(tokens, QUADS / 2, pass, codes);
    } else if (pass->group == TMAC_TABLE_GROUP) {
        multiply_small_groups(tokens, QUADS, pass, codes);
    } else {
        multiply(tokens, pass, codes);
    }
}

typedef void (*multiply_fn)(const struct pass * pass, const uint8_t * codes);
#define MULTIPLY(tokens)                                                                                               \
    static void multiply_##tokens(const struct pass * pass, const uint8_t * codes) {                                   \
        multiply_any(tokens, pass, codes);                                                                             \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)
MULTIPLY(5)
MULTIPLY(6)
// By the number of tokens.
static const multiply_fn multiply_tokens[] = {
    0, multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6
};

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    unpack_range(group, grid, block->w, range, scratch);
    for (int p = 0; p < parts; p++) {
        const int first = block->tokens * p / parts, count = block->tokens * (p + 1) / parts - first;
        const struct tmac_activations * x = block->x + first;
        const struct group_sum(*group_sums)[BLOCK_TOKENS] =
            (const struct group_sum(*)[BLOCK_TOKENS])(slab_sums_at(group, &scratch->slab, range->first) + first);
        for (int i = 0; i < PASSES; i++) {
            float (*out)[UNIT_ROWS] = (float (*)[UNIT_ROWS])(sums[0][first] + i * ROWS);
            const struct pass pass = { group, grid_of_factors(grid), i * ROWS, range, &scratch->factors, x, group_sums,
                                       out };
            multiply_tokens[count](&pass, scratch->codes.codes[i]);
        }
    }
}
