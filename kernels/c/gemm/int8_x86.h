// GEMM by int8 multiplication with AVX2, AVX-VNNI, AVX-512 BW and VNNI. The planes of a unit's columns become codes of 8
// bits in a scratch, once for all tokens of a block; a register holds four neighbouring columns of FLOATS rows, and meets
// the activations of the four, broadcast.
//
// The integer sums of TOKENS_AT_ONCE tokens and ROWS rows are in registers (gemm/int8_tile_x86.h): 12 sums, 2 registers of
// codes, one of activations and one product fill the 16 of AVX2, which keeps the sums of floats in memory. AVX-512 VNNI has
// 14, and as many sums of floats: 12 chains just cover the latency of two multiplications a cycle. A pass reads 8 or 9
// times for them. The activations of a slab are packed once in the order in which the passes read them.
//
// Needs: isa/avx2.h, isa/avx_vnni.h, isa/avx512.h or isa/avx512_vbmi.h before it. Gives: gemm (gemm/frame.h).
#pragma once

#include "weights/codes.h"

#ifndef BYTES
#error "gemm/int8_x86.h: include isa/avx2.h, isa/avx_vnni.h, isa/avx512.h or isa/avx512_vbmi.h before it"
#endif

#if defined(HAS_DOT_PRODUCTS) && BYTES == 64
#define TOKENS_AT_ONCE 7
#else
#define TOKENS_AT_ONCE 6
#endif
#define BLOCK_PARTS (TOKENS_AT_ONCE == 7 ? 14 : 16)
#define BLOCK_TOKENS (BLOCK_PARTS * TOKENS_AT_ONCE)
#define TOKEN_STEP 1
#define STEP_UNITS 1
#define TILE_BLOCK_BYTES (INT64_MAX / 2) // all: a block's activations are packed once
#define UNIT_TILES 1
#define RANGE_COLUMNS 512 // whose codes, 16 KiB, are half of the smallest first-level cache
// All that is on the stack grows with them: `struct scratch`, of which packed activations are 400 KB and their sums up to
// 200, and 13 KB of sums and tokens are 690 KB; with half of them 364 KB. A thread of macOS has 512 KB, of Windows 1 MB.
#ifdef __APPLE__
#define SLAB_COLUMNS 2048
#define MOST_SCRATCH_BYTES 352000
#else
#define SLAB_COLUMNS 4096
#define MOST_SCRATCH_BYTES 680000
#endif
#define PREFETCHES_RESULTS 1
#include "gemm/slab_sums.h"

enum { QUADS = TMAC_TABLE_GROUP / 4, LANES = BYTES / 16, PARTS = LINE / BYTES };
// Of a pass, what one walk over columns serves.
enum { VECTORS = 2, ROWS = VECTORS * FLOATS, PASSES = TMAC_TILE_ROWS / ROWS, QUAD_CODES = 4 * ROWS };
enum { SLAB_GROUPS = SLAB_COLUMNS / TMAC_TABLE_GROUP };
// Fewer tokens wait for the weights, which fewer columns at a time fetch more evenly: they are prefetched so many bytes
// ahead while they are unpacked. More tokens prefetch the next range between their products: memory would rest during
// these otherwise.
enum { FEW_TOKENS = 8, FEW_COLUMNS = 128, PREFETCH = 4096 };

// Codes of a tile: [pass][quad][row][column of the quad].
struct tile_codes {
    uint8_t codes[PASSES][RANGE_COLUMNS / 4 * QUAD_CODES] __attribute__((aligned(64)));
};

// Activations of a slab, for each part of a block's tokens in the order in which they are multiplied. Rows of tokens
// that lie a power of two apart would share cache sets. values[part][table group][token][column],
// scales[part][table group][token].
struct packed_slab {
    uint8_t values[BLOCK_PARTS][SLAB_GROUPS * TOKENS_AT_ONCE * TMAC_TABLE_GROUP] __attribute__((aligned(64)));
    float scales[BLOCK_PARTS][SLAB_GROUPS * TOKENS_AT_ONCE];
};

// Those of a part from a range's first column on.
struct packed_columns {
    const uint8_t * values;
    const float * scales;
};

struct scratch {
    struct tile_codes codes;
    struct tile_factors factors;
    struct slab_sums slab;
    struct packed_slab packed;
};
_Static_assert(sizeof(struct scratch) <= MOST_SCRATCH_BYTES, "the stack of a thread might not hold it");

#include "gemm/plain_rows.h"

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return 1;
}

TMAC_INLINE int has_few_tokens(const struct block * block) { return block->tokens < FEW_TOKENS; }

TMAC_INLINE int range_columns(int group, const struct block * block) {
    return !has_few_tokens(block) ? RANGE_COLUMNS : group > FEW_COLUMNS ? group : FEW_COLUMNS;
}

TMAC_INLINE int parts_of(const struct block * block) { return (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE; }

TMAC_INLINE int first_of_part(const struct block * block, int part) { return block->tokens * part / parts_of(block); }

// Table groups [first, last).
SHARED void pack_slab(const struct block * block, int64_t first, int64_t last, struct packed_slab * to) {
    for (int p = 0; p < parts_of(block); p++) {
        const int token = first_of_part(block, p), tokens = first_of_part(block, p + 1) - token;
        for (int t = 0; t < tokens; t++) {
            const struct tmac_activations * x = block->x + token + t;
            for (int64_t g = first; g < last; g++) {
                const int64_t at = (g - first) * tokens + t;
                memcpy(to->values[p] + at * TMAC_TABLE_GROUP, x->entries + g * TMAC_TABLE_GROUP, TMAC_TABLE_GROUP);
                to->scales[p][at] = x->scale[g];
            }
        }
    }
}

TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    make_slab_sums(group, grid, block->x, block->tokens, first, last, &scratch->slab);
    pack_slab(block, first / TMAC_TABLE_GROUP, last / TMAC_TABLE_GROUP, &scratch->packed);
}

TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }

#ifdef TRITS
#include "gemm/unpack_trits_x86.h"
#else
#include "gemm/unpack_planes_x86.h"
#endif

SHARED void unpack_codes(int is_prefetching, const struct tmac_matrix * w, const struct range * range,
                         struct tile_codes * to) {
    unpack_columns(is_prefetching, lines_at(w, range->tile, range->first), range->count, to);
}

SHARED void load_range_factors(int group, int grid, const struct tmac_matrix * w, const struct range * range,
                               struct tile_factors * to) {
    load_tile_factors(group, grid, w, range->tile, range->first, range->count, to);
}

TMAC_INLINE void unpack_range(int is_prefetching, const int group, const int grid, const struct tmac_matrix * w,
                              const struct range * range, struct scratch * to) {
    unpack_codes(is_prefetching, w, range, &to->codes);
    // With levels, of which a file has one type, constants take the place of divisions.
    if (has_levels(grid)) {
        load_tile_factors(group, grid, w, range->tile, range->first, range->count, &to->factors);
    } else {
        load_range_factors(group, grid, w, range, &to->factors);
    }
}

#include "gemm/int8_tile_x86.h"

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
#if TOKENS_AT_ONCE == 7
MULTIPLY(7)
#endif
// By the number of tokens.
static const multiply_fn multiply_tokens[] = { 0,          multiply_1, multiply_2, multiply_3,
                                               multiply_4, multiply_5, multiply_6,
#if TOKENS_AT_ONCE == 7
                                               multiply_7
#endif
};

// The weights that a block of tokens multiplies next: of the next range of the slab, or of the next tile's first one.
struct next_weights {
    const uint8_t * first;
    int lines;
};

TMAC_INLINE struct next_weights next_weights(const struct block * block, const struct range * range, int64_t slab) {
    const int64_t row = block->w->cols / TMAC_TABLE_GROUP, end = least(row, slab + SLAB_GROUPS);
    const int64_t after = range->first + range->count;
    const int64_t tile = after < end ? range->tile : range->tile + 1, first = after < end ? after : slab;
    const int64_t last = least(first + RANGE_COLUMNS / TMAC_TABLE_GROUP, end);
    // Blocks of ternary weights need not begin or end with a line.
    const uint8_t * from = lines_at(block->w, tile, first);
    const uint8_t * line = from - (uintptr_t) from % LINE;
    const struct next_weights next = { line, (int) ((lines_at(block->w, tile, last) - line + LINE - 1) / LINE) };
    return next;
}

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int is_few = has_few_tokens(block), parts = parts_of(block), shares = PASSES * parts;
    const struct next_weights next = next_weights(block, range, scratch->slab.first);
    const int lines = is_few ? 0 : next.lines;
    unpack_range(is_few, group, grid, block->w, range, scratch);
    const int64_t from = range->first - scratch->slab.first;
    for (int p = 0; p < parts; p++) {
        const int first = first_of_part(block, p), count = first_of_part(block, p + 1) - first;
        const struct packed_columns x = { scratch->packed.values[p] + from * count * TMAC_TABLE_GROUP,
                                          scratch->packed.scales[p] + from * count };
        const struct group_sum(*group_sums)[BLOCK_TOKENS] =
            (const struct group_sum(*)[BLOCK_TOKENS])(slab_sums_at(group, &scratch->slab, range->first) + first);
        for (int i = 0; i < PASSES; i++) {
            float (*out)[UNIT_ROWS] = (float (*)[UNIT_ROWS])(sums[0][first] + i * ROWS);
            const int share = p * PASSES + i, line = lines * share / shares;
            const int pass_lines = lines * (share + 1) / shares - line;
            const struct pass pass = { .group = group,
                                       .grid = grid_of_factors(grid),
                                       .first_row = i * ROWS,
                                       .range = range,
                                       .factors = &scratch->factors,
                                       .x = x,
                                       .group_sums = group_sums,
                                       .out = out,
                                       .next = next.first + line * LINE,
                                       .lines = pass_lines,
                                       .lines_per_group = (pass_lines + range->count - 1) / range->count };
            multiply_tokens[count](&pass, scratch->codes.codes[i]);
        }
    }
}
