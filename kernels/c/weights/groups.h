// Weight groups: the columns that share a scale and a zero-point, and how a group's sum becomes part of a row's result.
// In all kernels alike, so that all give the same bits.
//
// A row's result is the sum over its groups of scale * (sum of code * x - zero-point * sum of x). `group` is the
// columns of a group; 0: a single one, the whole row, whose scale is not stored with the weights.
//
// Needs: an instruction set's vocabulary (isa/) before it, and start_factor, of weights/lookup.h, weights/trits.h or
// weights/codes.h.
#pragma once

#include "weights/planes.h"

#ifndef FLOATS
#error "weights/groups.h: include the vocabulary of an instruction set, isa/*.h, before it"
#endif

// A row's sum starts with start_factor * (sum of x). It then becomes the sum of (code - symmetric zero-point) * x, or, of
// types with stored zero-points, of code * x.
TMAC_INLINE float start_factor(int has_zeros);

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

// What the sum of x over a weight group adds to the sum of each of its rows: at the start, and for each unit of
// zero-point.
TMAC_INLINE float start_of(int has_zeros, float sum_x) { return start_factor(has_zeros) * sum_x; }
TMAC_INLINE float per_zero(float sum_x) { return sum_x * (-1.0f / TMAC_ZERO_UNITS); }

// Of rows of a weight group.
struct factors {
    floats zero, scale;
};

// The number of scales before the one of a tile's first row, in the weight group that holds a column.
TMAC_INLINE int64_t factors_index(int group, const struct tmac_matrix * w, int64_t tile, int64_t column) {
    return group ? (tile * (w->cols / group) + column / group) * TMAC_TILE_ROWS : 0;
}

TMAC_INLINE struct factors factors_at(const int group, const int has_zeros, const struct tmac_matrix * w,
                                      int64_t index) {
    const struct factors factors = { .zero = has_zeros ? floats_of_zeros(w->zeros + index) : broadcast(0),
                                     .scale = group ? floats_of_scales(w->scales + index) : broadcast(0) };
    return factors;
}

// `out` with what rows of a weight group have added up to. A group that is the whole row has `out` in its sum already.
TMAC_INLINE floats finish_group(const int group, const int has_zeros, struct factors factors, float per_zero,
                                floats part, floats out) {
    if (has_zeros) {
        part = multiply_add(factors.zero, broadcast(per_zero), part);
    }
    return group ? multiply_add(part, factors.scale, out) : part;
}
