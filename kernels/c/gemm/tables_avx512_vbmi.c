// GEMM for weights of BITS bits by lookups with AVX-512 VBMI and VNNI. The integer sums of two row tiles and up to six
// tokens are in registers. More tokens share the indices of a range, which are made before, in first-level cache.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx512_vbmi.h"
#include "weights/lookup.h"

#define BLOCK_TOKENS 24 // they share the indices
#define TOKEN_STEP 1
#define UNIT_TILES 2
#define STEP_UNITS 1
#define TILE_BLOCK_BYTES (256 * 1024)
#define SLAB_COLUMNS 4096
#define RANGE_COLUMNS TMAC_TABLE_BLOCK
#include "gemm/range_groups.h"

enum { TOKENS_AT_ONCE = 6, PREFETCH = 3328 };

struct scratch {
    const uint8_t * lines[UNIT_TILES];                        // of the range's first columns
    bytes index[BLOCK_GROUPS * CHUNKS * BITS][UNIT_TILES][2]; // of each line of the range
    bytes sums[TOKENS_AT_ONCE][UNIT_TILES][2];
    struct group_sum group_sums[SLAB_COLUMNS / TMAC_TABLE_GROUP][BLOCK_TOKENS]; // of each weight group of the slab
    int64_t first;                                                              // table group of the slab
};

#include "gemm/plain_rows.h"

TMAC_INLINE int step_tiles(const struct block * block) {
    (void) block;
    return UNIT_TILES;
}

// One weight group: its integer sums end in the registers that they are made in.
TMAC_INLINE int range_columns(int group, const struct block * block) {
    (void) block;
    return group ? group : RANGE_COLUMNS;
}

// All tiles use the same sums of the activations.
TMAC_INLINE void begin_slab(const int group, const int has_zeros, const struct block * block, int64_t first,
                            int64_t last, struct scratch * scratch) {
    scratch->first = first / TMAC_TABLE_GROUP;
    for (int64_t k = first, g = 0; group && k < last; k += group, g++) {
        for (int t = 0; t < block->tokens; t++) {
            scratch->group_sums[g][t] = group_sum_at(group, has_zeros, block->x + t, k / TMAC_TABLE_GROUP);
        }
    }
}

TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }

SHARED void make_indices(int tiles, int count, struct scratch * scratch) {
    const struct index_constants constants = index_constants();
    for (int i = 0; i < tiles; i++) {
        const uint8_t * line = scratch->lines[i];
        for (int l = 0; l < count * CHUNKS * BITS; l++, line += LINE) {
            prefetch(line + PREFETCH);
            indices_of_line(constants, line, scratch->index[l][i]);
        }
    }
}

// The integer sums of `tokens` tokens over `count` table groups from `first` on. Indices are made, or `are_made`
// before.
TMAC_INLINE void sum_look_ups(const int are_made, const int tiles, const int tokens, const struct tmac_activations * x,
                              int64_t first, int count, struct scratch * scratch) {
    const struct index_constants constants = index_constants();
    const uint8_t * lines[UNIT_TILES] = { scratch->lines[0], scratch->lines[tiles - 1] };
    bytes sums[TOKENS_AT_ONCE][UNIT_TILES][2];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 2 * tiles; i++) {
            sums[t][i / 2][i % 2] = broadcast_word(0);
        }
    }
    for (int64_t a = 0; a < count; a++) {
#pragma GCC unroll 8
        for (int l = 0; l < CHUNKS * BITS; l++) {
            // Lines that are read go by in their order; else a plane's step serves both chunks.
            const int c = are_made ? l % CHUNKS : l / BITS, b = are_made ? l / CHUNKS : l % BITS;
            bytes index[UNIT_TILES][2];
#pragma GCC unroll 2
            for (int i = 0; i < tiles; i++) {
                if (are_made) {
                    index[i][0] = scratch->index[(a * CHUNKS + c) * BITS + b][i][0];
                    index[i][1] = scratch->index[(a * CHUNKS + c) * BITS + b][i][1];
                } else {
                    prefetch(lines[i] + PREFETCH);
                    indices_of_line(constants, lines[i], index[i]);
                    lines[i] += LINE;
                }
            }
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++) {
                const bytes table = load_bytes(x[t].entries + (first + a) * GROUP_ENTRIES + c * CHUNK_ENTRIES);
                const bytes weight = broadcast_int((int) x[t].steps[4 * (first + a) + b]);
#pragma GCC unroll 4
                for (int i = 0; i < 2 * tiles; i++) {
                    bytes * sum = &sums[t][i / 2][i % 2];
                    *sum = add_dot_products(*sum, weight, look_up_64(table, index[i / 2][i % 2]));
                }
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < 2 * tiles; i++) {
            scratch->sums[t][i / 2][i % 2] = sums[t][i / 2][i % 2];
        }
    }
}

// One function for each number of tiles and tokens, with indices made before and not, shared by all types of the file.
typedef void (*look_up_fn)(const struct tmac_activations * x, int64_t first, int count, struct scratch * scratch);
#define NAME(are_made, tiles, tokens) sum_look_ups_##are_made##_##tiles##_##tokens
#define LOOK_UP(are_made, tiles, tokens)                                                                               \
    SHARED void NAME(are_made, tiles, tokens)(const struct tmac_activations * x, int64_t first, int count,             \
                                              struct scratch * scratch) {                                              \
        sum_look_ups(are_made, tiles, tokens, x, first, count, scratch);                                               \
    }
#define LOOK_UPS(m, n)                                                                                                 \
    LOOK_UP(m, n, 1) LOOK_UP(m, n, 2) LOOK_UP(m, n, 3) LOOK_UP(m, n, 4) LOOK_UP(m, n, 5) LOOK_UP(m, n, 6)
#define NAMES(m, n) { NAME(m, n, 1), NAME(m, n, 2), NAME(m, n, 3), NAME(m, n, 4), NAME(m, n, 5), NAME(m, n, 6) }
LOOK_UPS(0, 1)
LOOK_UPS(0, 2)
LOOK_UPS(1, 1)
LOOK_UPS(1, 2)
static const look_up_fn look_ups[2][UNIT_TILES][TOKENS_AT_ONCE] = { { NAMES(0, 1), NAMES(0, 2) },
                                                                    { NAMES(1, 1), NAMES(1, 2) } };

// Adds the integer sums of `tokens` tokens to their sums of floats.
TMAC_INLINE void finish(const int group, const int has_zeros, const int tiles, const struct tmac_activations * x,
                        int tokens, int64_t first, const struct factors factors[UNIT_TILES][2],
                        const struct group_sum * group_sums, const struct scratch * scratch, float (*out)[UNIT_ROWS]) {
    for (int t = 0; t < tokens; t++) {
        const floats scale = broadcast(x[t].scale[first / BLOCK_GROUPS]),
                     start = broadcast(group ? group_sums[t].start : 0);
        const float zero = has_zeros ? group_sums[t].per_zero : 0;
#pragma GCC unroll 4
        for (int i = 0; i < 2 * tiles; i++) {
            float * to = out[t] + i * FLOATS;
            const floats value = floats_of_ints(scratch->sums[t][i / 2][i % 2]);
            const floats part = multiply_add(value, scale, group ? start : load_floats(to));
            store_floats(to, finish_group(group, has_zeros, factors[i / 2][i % 2], zero, part, load_floats(to)));
        }
    }
}

TMAC_INLINE void add_tiles(const int group, const int has_zeros, const int tiles, const struct block * block,
                           const struct range * range, struct scratch * scratch, unit_sums * sums) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    const struct group_sum * group_sums =
        scratch->group_sums[group ? (range->first - scratch->first) * TMAC_TABLE_GROUP / group : 0];
    struct factors factors[UNIT_TILES][2];
    for (int i = 0; i < 2 * tiles; i++) {
        const int64_t index = factors_index(group, block->w, range->tile + i / 2, range->first * TMAC_TABLE_GROUP);
        factors[i / 2][i % 2] = factors_at(group, has_zeros, block->w, index + i % 2 * FLOATS);
        scratch->lines[i / 2] = lines_at(block->w, range->tile + i / 2, range->first);
    }
    if (parts > 1) {
        make_indices(tiles, range->count, scratch);
    }
    for (int p = 0; p < parts; p++) {
        const int token = block->tokens * p / parts, tokens = block->tokens * (p + 1) / parts - token;
        const struct tmac_activations * x = block->x + token;
        look_ups[parts > 1][tiles - 1][tokens - 1](x, range->first, range->count, scratch);
        finish(group, has_zeros, tiles, x, tokens, range->first, (const struct factors(*)[2]) factors,
               group_sums + token, scratch, sums[0] + token);
    }
}

TMAC_INLINE void add_range(const int group, const int has_zeros, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    if (range->tiles == UNIT_TILES) {
        add_tiles(group, has_zeros, UNIT_TILES, block, range, scratch, sums);
    } else {
        add_tiles(group, has_zeros, 1, block, range, scratch, sums);
    }
}
