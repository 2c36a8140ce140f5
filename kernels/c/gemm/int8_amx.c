// GEMM for weights of BITS bits and int8 activations with AMX: codes become bytes, and each weight group's integer sums
// are scaled by themselves.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#define COLUMN_BYTES 1
#define multiply_tiles _tile_dpbsud         // signed activations, unsigned codes
#define load_activations _tile_stream_loadd // as a stream, so that weights stay in the first-level cache
#include "gemm/amx_codes.h"
#include "weights/codes.h"

#ifdef TRITS
#include "gemm/amx_trits.h"
#endif

enum { PREFETCH = 4096 };
_Static_assert(IS_EXACT, "activations have one scale");

#ifdef TRITS
struct unpacker {
    struct trit_constants trits;
};

TMAC_INLINE struct unpacker make_unpacker(int grid) {
    (void) grid;
    const struct unpacker unpacker = { trit_constants() };
    return unpacker;
}
#else
struct unpacker {
    struct code_constants codes;
    __m512i halves; // the dwords of rows 0..7, then those of 16..23; and (high bits) of 8..15 and 24..31
};

TMAC_INLINE struct unpacker make_unpacker(int grid) {
    (void) grid;
    const struct unpacker unpacker = { code_constants(),
                                       _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0) };
    return unpacker;
}
#endif

#include "gemm/amx.h"

#ifdef TRITS
TMAC_INLINE void unpack_step(const int group, const int grid, const struct columns * columns, int64_t column,
                             uint8_t * to) {
    (void) group, (void) grid;
    if (!begins_block(column)) {
        return;
    }
    const uint8_t * block = lines_at(columns->w, columns->tile, column / TMAC_TABLE_GROUP);
    const struct trit_constants constants =
        columns->unpacker->trits; // a copy, which the stores cannot be thought to change
    const int step_quads = columns->step / 4;
    prefetch_block(block + PREFETCH);
    for (int line = 0; line < TRIT_LINES; line++) {
        bytes codes[2];
        codes_of_halves(constants, block, line, codes);
        for (int q = 0; q < quads_of_line(line); q++) {
            const int quad = line * LINE_QUADS + q;
            uint8_t * there = to + quad / step_quads * STEP_WEIGHTS + quad % step_quads * LINE;
            _mm512_store_si512(there, codes_of_quad(constants, codes[0], q));
            _mm512_store_si512(there + TILE_BYTES, codes_of_quad(constants, codes[1], q));
        }
    }
}
#else
TMAC_INLINE void unpack_step(const int group, const int grid, const struct columns * columns, int64_t column,
                             uint8_t * to) {
    const uint8_t * lines = lines_at(columns->w, columns->tile, column / TMAC_TABLE_GROUP);
    for (int c = 0; c < columns->step / TMAC_CHUNK_COLS; c++, lines += BITS * LINE, to += 4 * LINE) {
        for (int b = 0; b < BITS; b++) {
            prefetch(lines + PREFETCH + b * LINE);
        }
#pragma GCC unroll 4
        for (int l = 0; l < 4; l += QUADS) {
            const __m512i quads = codes_of_quads(columns->unpacker->codes, lines, l);
            const __m512i codes = _mm512_permutexvar_epi32(columns->unpacker->halves, quads);
#pragma GCC unroll 8
            for (int i = 0; i < 2 * QUADS; i++) {
                const __m512i bytes = _mm512_and_si512(_mm512_srli_epi16(codes, SLOT * i), _mm512_set1_epi8(TOP_CODE));
                _mm512_store_si512(to + i % 2 * TILE_BYTES + (l + i / 2) * LINE, bytes);
            }
        }
    }
    (void) group, (void) grid;
}
#endif

// Half of a tile's columns where only so many divide the columns that are added up.
TMAC_INLINE int step_columns(int group, int64_t cols) { return group % LINE || cols % LINE ? LINE / 2 : LINE; }

// Adds the integer sums of a weight group to those of floats.
TMAC_INLINE void add_group(const int group, const int grid, const struct columns * columns,
                           const struct token_part * part, const int32_t * products, float * sums) {
    const int64_t at = factors_index(group, columns->w, columns->tile, columns->first);
    const struct factors rows[2] = { factors_at(group, grid, columns->w, at),
                                     factors_at(group, grid, columns->w, at + FLOATS) };
    floats scales[2] = { rows[0].scale, rows[1].scale }, offsets[2] = { rows[0].offset, rows[1].offset };
    swap_rows(scales);
    swap_rows(offsets);
    for (int t = 0; t < part->tokens; t++) {
        const float sum_x = sum_of(part->x[t].sum, columns->first / TMAC_TABLE_GROUP, columns->last / TMAC_TABLE_GROUP);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++, products += FLOATS, sums += FLOATS) {
            const struct factors factors = { offsets[h], scales[h] };
            const floats product = floats_of_ints(_mm512_loadu_si512(products));
            const floats start = has_offsets(grid) ? product : _mm512_add_ps(broadcast(start_of(0, sum_x)), product);
            store_floats(sums, finish_group(group, grid, factors, per_offset(grid, sum_x), start, load_floats(sums)));
        }
    }
}

TMAC_INLINE void add_columns(const int is_first, const int group, const int grid, const struct columns * columns,
                             const struct token_part * part, uint8_t * weights, float * sums) {
    if (!group) {
        multiply(is_first, group, grid, columns, part, weights, sums);
        return;
    }
    _Alignas(LINE) float products[PART_SUMS];
    for (int64_t k = columns->first; k < columns->last; k += group, weights += group / columns->step * STEP_WEIGHTS) {
        const struct columns of_group = { columns->w, columns->unpacker, columns->tile, k, k + group, columns->step };
        memset(products, 0, (size_t) part->tokens * SUMS_STRIDE);
        multiply(is_first, group, grid, &of_group, part, weights, products);
        add_group(group, grid, &of_group, part, (const int32_t *) products, sums);
    }
}

// Where there are no groups sums are integers.
TMAC_INLINE floats sums_of_floats(int group, floats values) {
    return group ? values : _mm512_castsi512_ps(_mm512_cvtps_epi32(values));
}

TMAC_INLINE floats floats_of_sums(int group, floats sums) {
    return group ? sums : floats_of_ints(_mm512_castps_si512(sums));
}
