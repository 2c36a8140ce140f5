// GEMM for ternary weights by lookups with AVX2, AVX-512 BW and VBMI. Indices and signs of a unit's rows are made once, in
// first-level cache, for all tokens of a block.
//
// Entries are unsigned here (activations/trit_tables.h): a multiplication of unsigned by signed bytes then applies signs and
// adds up. What 128 too much in each entry adds to a row depends on its signs alone, so sums start with what takes it off.
// The lines that share a step are added up first, and multiplied by it as a whole.
//
// Needs before it: isa/*.h, UNIT_TILES, TOKENS_AT_ONCE, MANY_COLUMNS (columns of a range unless tokens are few), and `struct
// unit_block`, what a unit's rows look up in a block. Needs after it: unpack_block and sum_look_ups, and sum_at_once if
// MOST_AT_ONCE is defined, the most tokens for which indices are made anew for every TOKENS_AT_ONCE of them. Gives: gemm (gemm/frame.h).
#pragma once

#include "activations/trit_tables.h"
#include "weights/trits.h"

#if !defined(BYTES) || !defined(UNIT_TILES) || !defined(TOKENS_AT_ONCE) || !defined(MANY_COLUMNS)
#error "gemm/trits_x86.h: include isa/*.h and define UNIT_TILES, TOKENS_AT_ONCE and MANY_COLUMNS before it"
#endif

// Units use the same tables.
#define STEP_UNITS (4 / UNIT_TILES)
#define BLOCK_TOKENS 48
#define TOKEN_STEP TOKENS_AT_ONCE
#define TILE_BLOCK_BYTES (256 * 1024)
#define SLAB_COLUMNS 2048
#define RANGE_COLUMNS 256
#include "gemm/range_groups.h"

enum { RANGE_BLOCKS = RANGE_COLUMNS / TMAC_TRIT_BLOCK, VECTORS = UNIT_TILES * TMAC_TILE_ROWS / FLOATS };
// Prefetched in bytes ahead. Fewer tokens wait for the weights, which fewer tiles at a time fetch more evenly.
#ifdef MOST_AT_ONCE
enum { PREFETCH = 4096, FEW_TOKENS = MOST_AT_ONCE + 1 };
#else
enum { PREFETCH = 4096, FEW_TOKENS = 8 };
#endif

struct unit {
    struct unit_block blocks[RANGE_BLOCKS];
    struct tile_factors factors[UNIT_TILES];
};

struct scratch {
    struct unit units[STEP_UNITS];
    float part[TOKENS_AT_ONCE][UNIT_TILES * TMAC_TILE_ROWS]; // of a weight group of several blocks
};

#include "gemm/plain_rows.h"

// What some tokens and a unit multiply: blocks of one range, of which `per_group` are a weight group, and the tables of the
// first one.
struct pass {
    int group, blocks, per_group;
    const struct unit * unit;
    const uint8_t * tables[TOKENS_AT_ONCE];
#ifdef MOST_AT_ONCE
    const uint8_t * weights[UNIT_TILES]; // of the first block
    const uint8_t * signed_tables[TOKENS_AT_ONCE];
    const uint32_t * steps[TOKENS_AT_ONCE];
#endif
    float (*part)[UNIT_ROWS], (*out)[UNIT_ROWS];
};

// What the rows of a unit look up in a block: blocks[i] is that of tile i.
TMAC_INLINE void unpack_block(const int tiles, const uint8_t * const blocks[UNIT_TILES], struct unit_block * to);

// The integer sums of `tokens` tokens over a block.
TMAC_INLINE void sum_look_ups(const int tiles, const int tokens, const struct unit_block * block,
                              const uint8_t * const tables[TOKENS_AT_ONCE], bytes sums[TOKENS_AT_ONCE][VECTORS]);

#ifdef MOST_AT_ONCE
// The same where the block's indices and signs are used once: of block b of a pass.
TMAC_INLINE void sum_at_once(const int tiles, const int tokens, const struct pass * pass, int b,
                             bytes sums[TOKENS_AT_ONCE][VECTORS]);
#endif

TMAC_INLINE int step_tiles(const struct block * block) {
    return (block->tokens < FEW_TOKENS ? 1 : STEP_UNITS) * UNIT_TILES;
}

TMAC_INLINE int range_columns(int group, const struct block * block) {
    const int columns = block->tokens < FEW_TOKENS ? TMAC_TRIT_BLOCK : MANY_COLUMNS;
    return group > columns ? group : columns;
}

TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    (void) group, (void) grid, (void) block, (void) first, (void) last, (void) scratch;
}
TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }

// Unit u of a step.
SHARED void make_unit(int group, const struct tmac_matrix * w, const struct range * range, int u, struct unit * unit) {
    const int tiles = (int) least(UNIT_TILES, range->tiles - u * UNIT_TILES);
    const uint8_t * blocks[UNIT_TILES];
    for (int i = 0; i < UNIT_TILES; i++) {
        const int64_t tile = range->tile + least(u * UNIT_TILES + i, range->tiles - 1);
        blocks[i] = lines_at(w, tile, range->first);
        load_tile_factors(group, 0, w, tile, range->first, range->count, &unit->factors[i]);
    }
    for (int b = 0; b < range->count / BLOCK_GROUPS; b++) {
        if (tiles == UNIT_TILES) {
            unpack_block(UNIT_TILES, blocks, &unit->blocks[b]);
        } else {
            unpack_block(1, blocks, &unit->blocks[b]);
        }
        for (int i = 0; i < UNIT_TILES; i++) {
            blocks[i] += BLOCK_BYTES;
        }
    }
}

TMAC_INLINE floats broadcast_at(const uint8_t * from) {
    float value;
    memcpy(&value, from, sizeof value);
    return broadcast(value);
}

// Adds the sums of a block that is a weight group, or of the row if that is its group.
TMAC_INLINE void finish_block(const int group, const int tiles, const int tokens, const struct pass * pass, int g,
                              const uint8_t * const tables[TOKENS_AT_ONCE], bytes sums[TOKENS_AT_ONCE][VECTORS]) {
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS * tiles / UNIT_TILES; i++) {
        const int row = i * FLOATS;
        const struct factors factors =
            factors_of_row(&pass->unit->factors[row / TMAC_TILE_ROWS], g, row % TMAC_TILE_ROWS);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            float * out = pass->out[t] + row;
            const floats start = group ? broadcast_at(tables[t] + START_AT) : load_floats(out);
            const floats part = multiply_add(floats_of_ints(sums[t][i]), broadcast_at(tables[t] + SCALE_AT), start);
            store_floats(out, finish_group(group, 0, factors, 0, part, load_floats(out)));
        }
    }
}

// The same for block `b`, where a weight group has several, whose sums are in `part` meanwhile.
TMAC_INLINE void finish_part(const int tiles, const int tokens, const struct pass * pass, int b,
                             const uint8_t * const tables[TOKENS_AT_ONCE], bytes sums[TOKENS_AT_ONCE][VECTORS]) {
    const int g = b / pass->per_group, place = b % pass->per_group;
    for (int t = 0; t < tokens; t++) {
        floats start = broadcast(0);
        for (int i = 0; i < pass->per_group && place == 0; i++) {
            start = add_floats(start, broadcast_at(tables[t] + i * TRIT_TABLE_BYTES + START_AT));
        }
        for (int row = 0; row < tiles * TMAC_TILE_ROWS; row += FLOATS) {
            const floats before = place ? load_floats(pass->part[t] + row) : start;
            const floats sum =
                multiply_add(floats_of_ints(sums[t][row / FLOATS]), broadcast_at(tables[t] + SCALE_AT), before);
            const struct factors factors =
                factors_of_row(&pass->unit->factors[row / TMAC_TILE_ROWS], g, row % TMAC_TILE_ROWS);
            float * out = pass->out[t] + row;
            store_floats(pass->part[t] + row, sum);
            if (place + 1 == pass->per_group) {
                store_floats(out, finish_group(1, 0, factors, 0, sum, load_floats(out)));
            }
        }
    }
}

TMAC_INLINE void multiply(const int are_made, const int tiles, const int tokens, const struct pass * pass) {
    const uint8_t * tables[TOKENS_AT_ONCE];
    for (int t = 0; t < tokens; t++) {
        tables[t] = pass->tables[t];
    }
    (void) are_made;
    for (int b = 0; b < pass->blocks; b++) {
        bytes sums[TOKENS_AT_ONCE][VECTORS];
#ifdef MOST_AT_ONCE
        if (!are_made) {
            sum_at_once(tiles, tokens, pass, b, sums);
        } else
#endif
            sum_look_ups(tiles, tokens, &pass->unit->blocks[b], tables, sums);
        if (pass->per_group > 1) {
            finish_part(tiles, tokens, pass, b, tables, sums);
        } else if (pass->group) {
            finish_block(1, tiles, tokens, pass, b, tables, sums);
        } else {
            finish_block(0, tiles, tokens, pass, b, tables, sums);
        }
        for (int t = 0; t < tokens; t++) {
            tables[t] += TRIT_TABLE_BYTES;
        }
    }
}

// One function for each number of tiles and tokens, with indices made before and not, shared by all types of the file.
typedef void (*multiply_fn)(const struct pass * pass);
#define NAME(are_made, tiles, tokens) multiply_##are_made##_##tiles##_##tokens
#define MULTIPLY(are_made, tiles, tokens)                                                                              \
    SHARED void NAME(are_made, tiles, tokens)(const struct pass * pass) { multiply(are_made, tiles, tokens, pass); }
#if TOKENS_AT_ONCE == 4
#define MULTIPLY_ALL(m, n) MULTIPLY(m, n, 1) MULTIPLY(m, n, 2) MULTIPLY(m, n, 3) MULTIPLY(m, n, 4)
#define NAMES(m, n) { NAME(m, n, 1), NAME(m, n, 2), NAME(m, n, 3), NAME(m, n, 4) }
#elif TOKENS_AT_ONCE == 1
#define MULTIPLY_ALL(m, n) MULTIPLY(m, n, 1)
#define NAMES(m, n) { NAME(m, n, 1) }
#else
#error "gemm/trits_x86.h: TOKENS_AT_ONCE is 1 or 4"
#endif
MULTIPLY_ALL(1, 1)
#if UNIT_TILES == 1
static const multiply_fn multiply_tokens[UNIT_TILES][TOKENS_AT_ONCE] = { NAMES(1, 1) };
#else
MULTIPLY_ALL(1, 2)
static const multiply_fn multiply_tokens[UNIT_TILES][TOKENS_AT_ONCE] = { NAMES(1, 1), NAMES(1, 2) };
#endif

#ifdef MOST_AT_ONCE
MULTIPLY_ALL(0, 1)
MULTIPLY_ALL(0, 2)
static const multiply_fn multiply_at_once[UNIT_TILES][TOKENS_AT_ONCE] = { NAMES(0, 1), NAMES(0, 2) };

// All tokens of a block and one unit, whose indices are not kept.
TMAC_INLINE void add_range_at_once(const int group, const struct block * block, const struct range * range,
                                   struct pass pass, struct unit * unit, float (*out)[UNIT_ROWS]) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    for (int i = 0; i < range->tiles; i++) {
        load_tile_factors(group, 0, block->w, range->tile + i, range->first, range->count, &unit->factors[i]);
        pass.weights[i] = lines_at(block->w, range->tile + i, range->first);
    }
    pass.unit = unit;
    for (int p = 0; p < parts; p++) {
        const int first = block->tokens * p / parts, tokens = block->tokens * (p + 1) / parts - first;
        for (int t = 0; t < tokens; t++) {
            const struct tmac_activations * x = block->x + first + t;
            pass.tables[t] = unsigned_tables(x->entries, block->w->cols, range->first / BLOCK_GROUPS);
            pass.signed_tables[t] = entries_of_block(x, range->first);
            pass.steps[t] = x->steps + 4 * range->first;
        }
        pass.out = out + first;
        multiply_at_once[range->tiles - 1][tokens - 1](&pass);
    }
}
#endif

// Part u of `units` of the tables of some tokens.
TMAC_INLINE void prefetch_tables(const uint8_t * const tables[TOKENS_AT_ONCE], int tokens, int blocks, int u,
                                 int units) {
    const int lines = blocks * TRIT_TABLE_BYTES / LINE;
    for (int t = 0; t < tokens; t++) {
        for (int i = lines * u / units; i < lines * (u + 1) / units; i++) {
            prefetch(tables[t] + i * LINE);
        }
    }
}

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    const int units = (range->tiles + UNIT_TILES - 1) / UNIT_TILES;
    const int64_t cols = block->w->cols, first_block = range->first / BLOCK_GROUPS;
    struct pass pass = { .group = group,
                         .blocks = range->count / BLOCK_GROUPS,
                         .per_group = group > TMAC_TRIT_BLOCK ? group / TMAC_TRIT_BLOCK : 1,
                         .part = scratch->part };
#ifdef MOST_AT_ONCE
    if (block->tokens <= MOST_AT_ONCE) {
        add_range_at_once(group, block, range, pass, &scratch->units[0], sums[0]);
        return;
    }
#endif
    for (int u = 0; u < units; u++) {
        make_unit(group, block->w, range, u, &scratch->units[u]);
    }
    for (int p = 0; p < parts; p++) {
        const int first = block->tokens * p / parts, tokens = block->tokens * (p + 1) / parts - first;
        const uint8_t * next[TOKENS_AT_ONCE];
        for (int t = 0; t < tokens; t++) {
            const struct tmac_activations * x = block->x + first + t;
            pass.tables[t] = unsigned_tables(x->entries, cols, first_block);
            x = block->x + least(first + tokens + t, block->tokens - 1);
            next[t] = unsigned_tables(x->entries, cols, first_block);
        }
        for (int u = 0; u < units; u++) {
            prefetch_tables(next, tokens, pass.blocks, u, units);
            const int tiles = (int) least(UNIT_TILES, range->tiles - u * UNIT_TILES);
            pass.unit = &scratch->units[u];
            pass.out = sums[u] + first;
            multiply_tokens[tiles - 1][tokens - 1](&pass);
        }
    }
    (void) grid;
}
