// Weight groups: the columns that share a scale and a zero-point or a minimum, and how a group's sum becomes part of a
// row's result. In all kernels alike, so that all give the same bits.
//
// A row's result is the sum over its groups of scale * (sum of code * x - zero-point * sum of x), or of scale * (sum of
// code * x) + minimum * (sum of x). `group` is the columns of a group; 0: a single one, the whole row, whose scale is not
// stored with the weights. `grid` is one of `enum tmac_grid`.
//
// Needs: an instruction set's vocabulary (isa/) before it, and start_factor, of weights/lookup.h, weights/trits.h or
// weights/codes.h.
#pragma once

#include "weights/planes.h"

#ifndef FLOATS
#error "weights/groups.h: include the vocabulary of an instruction set, isa/*.h, before it"
#endif

// A row's sum starts with start_factor * (sum of x). It then becomes the sum of (code - symmetric zero-point) * x, or, of
// types with stored zero-points or minima, of code * x.
TMAC_INLINE float start_factor(int grid);

TMAC_INLINE int64_t group_columns(int group, const struct tmac_matrix * w) { return group ? group : w->cols; }

// Table groups of the weight group, or of at most one block of tables, that begin at `first` and end before `last`.
TMAC_INLINE int piece(int group, int64_t first, int64_t last) {
    const int64_t rest = last - first;
    return group && group < TMAC_TABLE_BLOCK ? group / TMAC_TABLE_GROUP
           : rest < BLOCK_GROUPS             ? (int) rest
                                             : BLOCK_GROUPS;
}

TMAC_INLINE float sum_of(const float * sums, int64_t first, int64_t last) {
    float sum = 0;
    for (int64_t i = first; i < last; i++) {
        sum += sums[i];
    }
    return sum;
}

// The columns of a group of half a table group, whose sums of x are in `half_sum`.
enum { HALF_GROUP = TMAC_TABLE_GROUP / 2 };

// The grid without levels that has the same factors, when these are floats.
TMAC_INLINE int grid_of_factors(int grid) { return has_minima(grid) ? TMAC_GRID_MINIMA : has_levels(grid) ? 0 : grid; }
_Static_assert(TMAC_GRID_SYMMETRIC == 0, "grid_of_factors");

// What the sum of x over a weight group adds to the sum of each of its rows: at the start, and for each unit of the stored
// zero-point or minimum.
TMAC_INLINE float start_of(int grid, float sum_x) { return start_factor(grid) * sum_x; }
TMAC_INLINE float per_offset(int grid, float sum_x) {
    return grid == TMAC_GRID_ZEROS ? sum_x * (-1.0f / TMAC_ZERO_UNITS) : sum_x;
}

// Of rows of a weight group. The offset is the zero-point or the minimum.
struct factors {
    floats offset, scale;
};

// The number of scales before the one of a tile's first row, in the weight group that holds a column.
TMAC_INLINE int64_t factors_index(int group, const struct tmac_matrix * w, int64_t tile, int64_t column) {
    return group ? (tile * (w->cols / group) + column / group) * TMAC_TILE_ROWS : 0;
}

// Of types with levels: bytes of the levels of a tile's rows in a group, of the fp16 numbers before them, and of a block.
enum { TILE_HALVES = 2 * TMAC_TILE_ROWS };
TMAC_INLINE int64_t level_bytes(int grid) {
    return grid == TMAC_GRID_LEVELS_MINIMA && BITS > 2 ? 2 * TMAC_TILE_ROWS : TMAC_TILE_ROWS;
}
TMAC_INLINE int64_t halves_bytes(int grid) { return has_minima(grid) ? 2 * TILE_HALVES : TILE_HALVES; }
TMAC_INLINE int64_t scale_block_bytes(int group, int grid) {
    return halves_bytes(grid) + TMAC_LEVELS_BLOCK / group * level_bytes(grid);
}

// Scales and minima are products of the fp16 numbers of a block and levels, exact as floats. Of the block of a group:
TMAC_INLINE struct factors factors_of_block(const int group, const int grid, const struct tmac_matrix * w,
                                            int64_t index) {
    const uint64_t tile_group = (uint64_t) index / TMAC_TILE_ROWS, row = (uint64_t) index % TMAC_TILE_ROWS;
    const uint8_t * block =
        w->levels + tile_group / (TMAC_LEVELS_BLOCK / (unsigned) group) * (uint64_t) scale_block_bytes(group, grid);
    const uint16_t * halves = (const uint16_t *) block + row;
    const floats scale = floats_of_scales(halves);
    if (!has_minima(grid)) {
        return (struct factors) { broadcast(0), scale };
    }
    return (struct factors) { -floats_of_scales(halves + TMAC_TILE_ROWS), scale };
}

// Of the group, of whose block they are given.
TMAC_INLINE struct factors times_levels(const int group, const int grid, const struct tmac_matrix * w, int64_t index,
                                        struct factors of_block) {
    const uint64_t tile_group = (uint64_t) index / TMAC_TILE_ROWS, row = (uint64_t) index % TMAC_TILE_ROWS;
    const uint64_t groups = TMAC_LEVELS_BLOCK / (unsigned) group;
    const uint8_t * block = w->levels + tile_group / groups * (uint64_t) scale_block_bytes(group, grid);
    const uint8_t * levels = block + halves_bytes(grid) + tile_group % groups * (uint64_t) level_bytes(grid) + row;
    if (has_minima(grid) && BITS == 2) {
        return (struct factors) { of_block.offset * floats_of_halves(levels, 1),
                                  of_block.scale * floats_of_halves(levels, 0) };
    }
    const floats scale = of_block.scale * floats_of_codes((const int8_t *) levels);
    if (!has_minima(grid)) {
        return (struct factors) { broadcast(0), scale };
    }
    return (struct factors) { of_block.offset * floats_of_codes((const int8_t *) levels + TMAC_TILE_ROWS), scale };
}

TMAC_INLINE struct factors factors_at(const int group, const int grid, const struct tmac_matrix * w, int64_t index) {
    if (has_levels(grid)) {
        return times_levels(group, grid, w, index, factors_of_block(group, grid, w, index));
    }
    const struct factors factors = { .offset = grid == TMAC_GRID_ZEROS    ? floats_of_zeros(w->zeros + index)
                                               : grid == TMAC_GRID_MINIMA ? floats_of_scales(w->minima + index)
                                                                          : broadcast(0),
                                     .scale = group ? floats_of_scales(w->scales + index) : broadcast(0) };
    return factors;
}

// What factors_at will read of the tile's rows of a group, `ahead` bytes later.
TMAC_INLINE void prefetch_factors(const int group, const int grid, const struct tmac_matrix * w, int64_t index,
                                  int64_t ahead) {
    if (has_levels(grid)) {
        const int64_t groups = TMAC_LEVELS_BLOCK / group;
        prefetch(w->levels + index / TMAC_TILE_ROWS / groups * scale_block_bytes(group, grid) +
                 index / TMAC_TILE_ROWS % groups * level_bytes(grid) + ahead);
        return;
    }
    if (group) {
        prefetch((const uint8_t *) (w->scales + index) + ahead);
    }
    if (grid == TMAC_GRID_ZEROS) {
        prefetch(w->zeros + index + ahead);
    }
    if (grid == TMAC_GRID_MINIMA) {
        prefetch((const uint8_t *) (w->minima + index) + ahead);
    }
}

// `out` with what rows of a weight group have added up to. A group that is the whole row has `out` in its sum already.
TMAC_INLINE floats finish_group(const int group, const int grid, struct factors factors, float per_offset, floats part,
                                floats out) {
    if (grid == TMAC_GRID_ZEROS) {
        part = multiply_add(factors.offset, broadcast(per_offset), part);
    }
    if (!group) {
        return part;
    }
    const floats sum = multiply_add(part, factors.scale, out);
    return has_minima(grid) ? multiply_add(factors.offset, broadcast(per_offset), sum) : sum;
}
