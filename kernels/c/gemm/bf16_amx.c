// GEMM for weights of BITS bits and bfloat16 activations with AMX: weights become bfloat16 too, scale and zero-point
// included.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#define COLUMN_BYTES 2
#define NO_SUMS // activations of this form have no sums
#define multiply_tiles _tile_dpbf16ps
#include "isa/amx.h"
#if BITS <= 2
#include "gemm/amx_bf16_lookup.h"
#else
#include "gemm/amx_bf16_multiply.h"
#endif
#include "gemm/amx.h"

enum { PREFETCH = 4096 };

// Weights include their zero-points: nothing is left for the sums of the activations to add.
TMAC_INLINE float start_factor(int grid) {
    (void) grid;
    return 0;
}

#ifdef TRITS
TMAC_INLINE void unpack_step(const int group, const int grid, const struct columns * columns, int64_t column,
                             uint8_t * to) {
    const struct tmac_matrix * w = columns->w;
    const uint8_t * block = lines_at(w, columns->tile, column / TMAC_TABLE_GROUP);
    if (!begins_block(column)) {
        return;
    }
    if (column == columns->first || (group && column % group == 0)) {
        begin_group(group, grid, w, factors_index(group, w, columns->tile, column), columns->unpacker);
    }
    const struct unpacker unpacker = *columns->unpacker; // a copy, which the stores cannot be thought to change
    enum { STEP_QUADS = LINE / 2 / 4 };
    prefetch_block(block + PREFETCH);
    for (int line = 0; line < TRIT_LINES; line++) {
        bytes codes[2];
        codes_of_halves(unpacker.trits, block, line, codes);
#pragma GCC unroll 3
        for (int q = 0; q < quads_of_line(line); q++) {
            const int quad = line * LINE_QUADS + q;
            uint8_t * there = to + quad / STEP_QUADS * STEP_WEIGHTS + quad % STEP_QUADS * 2 * LINE;
            unpack_pairs(&unpacker, codes, q, there);
        }
    }
}
#else
TMAC_INLINE void unpack_step(const int group, const int grid, const struct columns * columns, int64_t column,
                             uint8_t * to) {
    const struct tmac_matrix * w = columns->w;
    const uint8_t * lines = lines_at(w, columns->tile, column / TMAC_TABLE_GROUP);
    if (column == columns->first || (group && column % group == 0)) {
        begin_group(group, grid, w, factors_index(group, w, columns->tile, column), columns->unpacker);
    }
    struct unpacker unpacker = *columns->unpacker; // a copy, which the stores cannot be thought to change
#pragma GCC unroll 2
    for (int c = 0; c < CHUNKS; c++, lines += BITS * LINE) {
        if (group == HALF_GROUP && c) {
            const int64_t at = factors_index(group, w, columns->tile, column + c * HALF_GROUP);
            begin_group(group, grid, w, at, columns->unpacker);
            unpacker = *columns->unpacker;
        }
        for (int b = 0; b < BITS; b++) {
            prefetch(lines + PREFETCH + b * LINE);
        }
#if BITS > 4
        __m512i upper = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++, to += 2 * LINE) {
            upper = l % 2 ? upper : upper_codes_of_quads(unpacker.codes, lines, l);
            unpack_quad(&unpacker, codes_of_quads(unpacker.codes, lines, l), upper, l, to);
        }
#else
#pragma GCC unroll 4
        for (int l = 0; l < 4; l += QUADS, to += 2 * QUADS * LINE) {
            unpack_quads(group, grid, &unpacker, codes_of_quads(unpacker.codes, lines, l), to);
        }
#endif
    }
}
#endif

TMAC_INLINE int step_columns(int group, int64_t cols) {
    (void) group, (void) cols;
    return LINE / COLUMN_BYTES;
}

TMAC_INLINE void add_columns(const int is_first, const int group, const int grid, const struct columns * columns,
                             const struct token_part * part, uint8_t * weights, float * sums) {
    multiply(is_first, group, grid, columns, part, weights, sums);
}

TMAC_INLINE floats sums_of_floats(int group, floats values) {
    (void) group;
    return values;
}

TMAC_INLINE floats floats_of_sums(int group, floats sums) {
    (void) group;
    return sums;
}
