// The walk of every GEMV kernel but the scalar one over row tiles and weight groups.
//
// Needs before it: an instruction set's vocabulary (isa/), weights/lookup.h; STREAMS, the tiles that are walked
// together, and SCALES_PREFETCH, in bytes ahead, which the generator defines. Needs after it, or before: add_piece.
// Gives: gemv, which the kernels call.
#pragma once

#include "weights/groups.h"

#if !defined(STREAMS) || !defined(SCALES_PREFETCH)
#error "gemv/walk.h: define STREAMS and SCALES_PREFETCH before including"
#endif

enum { REGISTERS = TMAC_TILE_ROWS / FLOATS };

// For each stream s, part[s][i] += what rows FLOATS*i.. of its tile look up in `count` table groups of one block from
// `first` on, whose planes lie at lines[s], which is moved behind them.
TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]);

#ifndef TRITS
// The same of the lines of one chunk, half a table group. Chunks are counted from the first of the row on.
TMAC_INLINE void add_chunk(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t chunk,
                           floats part[][REGISTERS]);
#endif

// The tiles first, first + stride, ... walked together: streams far apart in memory, which use the same tables.
TMAC_INLINE void walk(const int streams, const int group, const int grid, const struct tmac_matrix * w,
                      const struct tmac_activations * x, float row_sum, float * y, int64_t first, int64_t stride) {
    const int64_t cols = group_columns(group, w), groups = w->cols / cols, table_groups = cols / TMAC_TABLE_GROUP;
    const uint8_t * lines[STREAMS];
    floats out[STREAMS][REGISTERS];
    for (int s = 0; s < streams; s++) {
        lines[s] = w->planes + (first + s * stride) * tile_bytes(w);
        for (int i = 0; i < REGISTERS; i++) {
            out[s][i] = broadcast(0);
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        REGION_BEGIN("group", streams);
        const int64_t first_group = g * table_groups, last_group = first_group + table_groups;
        const float sum_x = group == HALF_GROUP ? x->half_sum[g]
                            : group             ? sum_of(x->sum, first_group, last_group)
                                                : row_sum;
        floats part[STREAMS][REGISTERS];
        for (int s = 0; s < streams; s++) {
            for (int i = 0; i < REGISTERS; i++) {
                part[s][i] = broadcast(start_of(grid, sum_x));
            }
        }
#ifndef TRITS
        if (group == HALF_GROUP) {
            add_chunk(streams, lines, x, g, part);
        }
#endif
        for (int64_t a = first_group; a < last_group;) {
            const int count = piece(group, a, last_group);
            add_piece(streams, lines, x, a, count, part);
            a += count;
        }
        for (int s = 0; s < streams; s++) {
            const int64_t at = ((first + s * stride) * groups + g) * TMAC_TILE_ROWS;
            prefetch_factors(group, grid, w, at, SCALES_PREFETCH);
            for (int i = 0; i < REGISTERS; i++) {
                const struct factors factors = factors_at(group, grid, w, at + FLOATS * i);
                out[s][i] = finish_group(group, grid, factors, per_offset(grid, sum_x), part[s][i], out[s][i]);
            }
        }
        REGION_END();
    }
    for (int s = 0; s < streams; s++) {
        for (int i = 0; i < REGISTERS; i++) {
            if (IS_EXACT) {
                out[s][i] *= broadcast(*x->output_scale);
            }
            store_floats(y + (first + s * stride) * TMAC_TILE_ROWS + FLOATS * i, out[s][i]);
        }
    }
}

TMAC_INLINE void gemv(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * y, int64_t first_tile, int64_t last_tile) {
    const int64_t span = (last_tile - first_tile) / STREAMS;
    const float row_sum = group ? 0 : sum_of(x->sum, 0, w->cols / TMAC_TABLE_GROUP);
    for (int64_t i = 0; i < span; i++) {
        walk(STREAMS, group, grid, w, x, row_sum, y, first_tile + i, span);
    }
    for (int64_t tile = first_tile + span * STREAMS; tile < last_tile; tile++) {
        walk(1, group, grid, w, x, row_sum, y, tile, 0);
    }
}
