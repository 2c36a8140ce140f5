// GEMM for weights of BITS bits by lookups with AVX-512 VBMI and VNNI. The integer sums of two row tiles and up to six
// tokens are in registers. More tokens share the indices of a range, which are made before, in first-level cache.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx512_vbmi.h"
#include "weights/lookup.h"

#define BLOCK_TOKENS (BITS <= 2 ? 30 : 40) // they share the indices; fewer leave cache for the sums of more units
#define TOKEN_STEP 1
#define UNIT_TILES 2
#define STEP_UNITS (BITS <= 2 ? 4 : 2) // they use the same tables, which stay in the first-level cache
#define TILE_BLOCK_BYTES (2 * 1024 * 1024)
#define PREFETCHES_RESULTS 1
#define SLAB_COLUMNS 4096
#define RANGE_COLUMNS TMAC_TABLE_BLOCK
#include "gemm/slab_sums.h"

enum { TOKENS_AT_ONCE = 5, PREFETCH = 3328 };
// Fewer tokens wait for the weights, which one unit at a time fetches more evenly.
enum { FEW_TOKENS = 12 };

// What the sums of a unit's range become, and of which rows: factors of the weight group, and the floats that they are
// added to.
struct unit {
    int group, grid;
    const uint8_t * lines[UNIT_TILES]; // of the range's first columns
    floats offsets[UNIT_TILES][2], scales[UNIT_TILES][2];
};

struct scratch {
    bytes index[BLOCK_GROUPS * CHUNKS * BITS][UNIT_TILES][2]; // of each line of the range
    struct unit unit;
    struct slab_sums slab;
};

#include "gemm/plain_rows.h"

TMAC_INLINE int step_tiles(const struct block * block) {
    return block->tokens < FEW_TOKENS ? UNIT_TILES : UNIT_TILES * STEP_UNITS;
}

// One weight group: its integer sums end in the registers that they are made in.
TMAC_INLINE int range_columns(int group, const struct block * block) {
    (void) block;
    return group ? group : RANGE_COLUMNS;
}

// All tiles use the same sums of the activations.
TMAC_INLINE void begin_slab(const int group, const int grid, const struct block * block, int64_t first, int64_t last,
                            struct scratch * scratch) {
    make_slab_sums(group, grid, block->x, block->tokens, first, last, &scratch->slab);
}

TMAC_INLINE void end_slab(struct scratch * scratch) { (void) scratch; }

SHARED void make_indices(int tiles, int count, struct scratch * scratch) {
    const struct index_constants constants = index_constants();
    for (int i = 0; i < tiles; i++) {
        const uint8_t * line = scratch->unit.lines[i];
        for (int l = 0; l < count * CHUNKS * BITS; l++, line += LINE) {
            prefetch(line + PREFETCH);
            indices_of_line(constants, line, scratch->index[l][i]);
        }
    }
}

// Some tokens of a range: `count` table groups from `first` on.
struct part {
    const struct tmac_activations * x;
    int64_t first;
    int count;
    const struct group_sum * group_sums;
    float (*out)[UNIT_ROWS];
};

TMAC_INLINE void finish(const int group, const int grid, const int tiles, const int tokens, const struct part * part,
                        const struct unit * unit, bytes sums[TOKENS_AT_ONCE][UNIT_TILES][2]) {
    // All that is read is read before anything is stored: GCC would read it again after every store.
    const struct factors factors[2 * UNIT_TILES] = {
        { unit->offsets[0][0], unit->scales[0][0] },
        { unit->offsets[0][1], unit->scales[0][1] },
        { unit->offsets[tiles - 1][0], unit->scales[tiles - 1][0] },
        { unit->offsets[tiles - 1][1], unit->scales[tiles - 1][1] },
    };
    float (*out)[UNIT_ROWS] = part->out;
    float scales[TOKENS_AT_ONCE];
    struct group_sum group_sums[TOKENS_AT_ONCE];
#pragma GCC unroll 5
    for (int t = 0; t < tokens; t++) {
        scales[t] = part->x[t].scale[part->first / BLOCK_GROUPS];
        group_sums[t] = part->group_sums[t];
    }
#pragma GCC unroll 5
    for (int t = 0; t < tokens; t++) {
        const floats scale = broadcast(scales[t]), start = broadcast(group ? group_sums[t].start : 0);
        const float per_offset = grid ? group_sums[t].per_offset : 0;
#pragma GCC unroll 4
        for (int i = 0; i < 2 * tiles; i++) {
            float * to = out[t] + i * FLOATS;
            const floats value = floats_of_ints(sums[t][i / 2][i % 2]);
            const floats whole = multiply_add(value, scale, group ? start : load_floats(to));
            store_floats(to, finish_group(group, grid, factors[i], per_offset, whole, load_floats(to)));
        }
    }
}

// Adds what `tokens` tokens look up for a unit. Indices are made, or `are_made` before.
TMAC_INLINE void look_up_part(const int are_made, const int tiles, const int tokens, const struct part * part,
                              const struct scratch * scratch) {
    const struct index_constants constants = index_constants();
    const struct unit * unit = &scratch->unit;
    const struct tmac_activations * x = part->x;
    const uint8_t * lines[UNIT_TILES] = { unit->lines[0], unit->lines[tiles - 1] };
    bytes sums[TOKENS_AT_ONCE][UNIT_TILES][2];
#pragma GCC unroll 5
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 4
        for (int i = 0; i < 2 * tiles; i++) {
            sums[t][i / 2][i % 2] = broadcast_word(0);
        }
    }
    for (int64_t a = 0; a < part->count; a++) {
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
#pragma GCC unroll 5
            for (int t = 0; t < tokens; t++) {
                const bytes table = load_bytes(x[t].entries + (part->first + a) * GROUP_ENTRIES + c * CHUNK_ENTRIES);
                const bytes weight = broadcast_int((int) x[t].steps[4 * (part->first + a) + b]);
                for (int i = 0; i < tiles; i++) {
                    add_look_ups_of_64(sums[t][i], weight, table, index[i]);
                }
            }
        }
    }
    if (!unit->group) {
        finish(0, 0, tiles, tokens, part, unit, sums);
    } else if (unit->grid == TMAC_GRID_MINIMA) {
        finish(1, TMAC_GRID_MINIMA, tiles, tokens, part, unit, sums);
    } else if (unit->grid == TMAC_GRID_ZEROS) {
        finish(1, TMAC_GRID_ZEROS, tiles, tokens, part, unit, sums);
    } else {
        finish(1, 0, tiles, tokens, part, unit, sums);
    }
}

// One function for each number of tiles and tokens, with indices made before and not, shared by all types of the file.
typedef void (*look_up_fn)(const struct part * part, const struct scratch * scratch);
#define NAME(are_made, tiles, tokens) look_up_part_##are_made##_##tiles##_##tokens
#define LOOK_UP(are_made, tiles, tokens)                                                                               \
    SHARED void NAME(are_made, tiles, tokens)(const struct part * part, const struct scratch * scratch) {              \
        look_up_part(are_made, tiles, tokens, part, scratch);                                                          \
    }
#define LOOK_UPS(m, n) LOOK_UP(m, n, 1) LOOK_UP(m, n, 2) LOOK_UP(m, n, 3) LOOK_UP(m, n, 4) LOOK_UP(m, n, 5)
#define NAMES(m, n) { NAME(m, n, 1), NAME(m, n, 2), NAME(m, n, 3), NAME(m, n, 4), NAME(m, n, 5) }
LOOK_UPS(0, 1)
LOOK_UPS(0, 2)
LOOK_UPS(1, 1)
LOOK_UPS(1, 2)
static const look_up_fn look_ups[2][UNIT_TILES][TOKENS_AT_ONCE] = { { NAMES(0, 1), NAMES(0, 2) },
                                                                    { NAMES(1, 1), NAMES(1, 2) } };

TMAC_INLINE void add_range(const int group, const int grid, const struct block * block, const struct range * range,
                           struct scratch * scratch, unit_sums * sums) {
    const int parts = (block->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    const struct group_sum * group_sums = slab_sums_at(group, &scratch->slab, range->first);
    struct unit * unit = &scratch->unit;
    unit->group = group, unit->grid = grid;
    for (int u = 0; u * UNIT_TILES < range->tiles; u++) {
        const int tiles = (int) least(UNIT_TILES, range->tiles - u * UNIT_TILES);
        for (int i = 0; i < tiles; i++) {
            const int64_t tile = range->tile + u * UNIT_TILES + i;
            const int64_t index = factors_index(group, block->w, tile, range->first * TMAC_TABLE_GROUP);
            for (int h = 0; h < 2; h++) {
                const struct factors factors = factors_at(group, grid, block->w, index + h * FLOATS);
                unit->offsets[i][h] = factors.offset, unit->scales[i][h] = factors.scale;
            }
            unit->lines[i] = lines_at(block->w, tile, range->first);
        }
        if (parts > 1) {
            make_indices(tiles, range->count, scratch);
        }
        for (int p = 0; p < parts; p++) {
            const int token = block->tokens * p / parts, tokens = block->tokens * (p + 1) / parts - token;
            const struct part part = { block->x + token, range->first, range->count, group_sums + token,
                                       sums[u] + token };
            look_ups[parts > 1][tiles - 1][tokens - 1](&part, scratch);
        }
    }
}
