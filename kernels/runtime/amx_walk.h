// The walk of the GEMM kernels on AMX over slabs and ranges of columns, row tiles and blocks of tokens. The including template
// defines add_range, the products of a range and a block of tokens to its sums, and what sums are: start_of, what they begin
// with, sums_of_floats, floats_of_sums and finish_row.
#pragma once

#include "amx_block.h"

// Tokens whose activations of a slab stay in the second-level cache while all row tiles go by, and whose sums are on the stack.
enum { MOST_TOKENS = 128, MOST_BLOCKS = MOST_TOKENS / BLOCK_TOKENS, SLAB_COLUMNS = 8192 / COLUMN_BYTES, STEPS = 8 };
// More results than that do not stay there beside the activations.
enum { CACHED_BYTES = 1 << 20 };

// What a call multiplies: tokens in blocks of one size, of which the last overlaps the one before where there are fewer left.
struct part {
    const struct tmac_matrix * w;
    const struct tmac_activations * x;
    float * const * y;
    int64_t distance;
    int tokens, block_tokens, step; // step: columns multiplied at a time
    int is_streamed; // many results, written once and in whole lines, go past the caches, where they displace activations
    float start[MOST_TOKENS];
};

TMAC_INLINE int first_token(const struct part * part, int block) {
    return (int) least(part->tokens - part->block_tokens, block * part->block_tokens);
}

TMAC_INLINE void load_sums(const int group, const struct part * part, int block, int64_t row, int is_first, float * sums) {
    for (int t = 0; t < part->block_tokens; t++, sums += TMAC_TILE_ROWS) {
        const int token = first_token(part, block) + t;
        const float * y = part->y[token] + row;
        __m512 rows[2] = { broadcast(part->start[token]), broadcast(part->start[token]) };
        if (is_first) {
            if (!part->is_streamed) {
                __builtin_prefetch(y, 1);
                __builtin_prefetch(y + FLOATS, 1);
            }
        } else {
            rows[0] = _mm512_loadu_ps(y);
            rows[1] = _mm512_loadu_ps(y + FLOATS);
            swap_rows(rows);
        }
        store(sums, sums_of_floats(group, rows[0]));
        store(sums + FLOATS, sums_of_floats(group, rows[1]));
    }
}

TMAC_INLINE void store_sums(const int group, const struct part * part, int block, int64_t row, int is_last, const float * sums) {
    for (int t = 0; t < part->block_tokens; t++, sums += TMAC_TILE_ROWS) {
        const int token = first_token(part, block) + t;
        __m512 rows[2] = { floats_of_sums(group, _mm512_loadu_ps(sums)), floats_of_sums(group, _mm512_loadu_ps(sums + FLOATS)) };
        swap_rows(rows);
        for (int h = 0; h < 2; h++) {
            float * y = part->y[token] + row + FLOATS * h;
            const __m512 values = is_last ? finish_row(&part->x[token], rows[h]) : rows[h];
            if (part->is_streamed) {
                _mm512_stream_ps(y, values);
            } else {
                store(y, values);
            }
        }
    }
}

TMAC_INLINE void multiply_part(const int group, const int has_zeros, const struct part * part, int blocks, int64_t first_tile,
                               int64_t last_tile) {
    const struct tmac_matrix * w = part->w;
    struct unpacker unpacker = make_unpacker(has_zeros);
    const int64_t range_columns = STEPS * part->step;
    const int half = part->block_tokens > TILE_TOKENS ? (part->block_tokens + 1) / 2 : part->block_tokens;
    _Alignas(LINE) uint8_t weights[STEPS * STEP_WEIGHTS];
    _Alignas(LINE) float sums[MOST_BLOCKS][BLOCK_SUMS];
    configure_tiles(half, part->step * COLUMN_BYTES);
    for (int64_t slab = 0; slab < w->cols; slab += SLAB_COLUMNS) {
        const int64_t end = least(w->cols, slab + SLAB_COLUMNS);
        for (int64_t tile = first_tile; tile < last_tile; tile++) {
            for (int b = 0; b < blocks; b++) {
                load_sums(group, part, b, tile * TMAC_TILE_ROWS, slab == 0, sums[b]);
            }
            for (int64_t k = slab; k < end; k += range_columns) {
                const struct range range = { w, &unpacker, tile, k, least(end, k + range_columns), part->step };
                for (int b = 0; b < blocks; b++) {
                    const struct block block = { part->x + first_token(part, b), part->distance, part->block_tokens, half };
                    if (b == 0) {
                        add_range(1, group, has_zeros, &range, &block, weights, sums[b]);
                    } else {
                        add_range(0, group, has_zeros, &range, &block, weights, sums[b]);
                    }
                }
            }
            for (int b = 0; b < blocks; b++) {
                store_sums(group, part, b, tile * TMAC_TILE_ROWS, end == w->cols, sums[b]);
            }
        }
    }
}

static int64_t distance_of(const struct tmac_activations * x, int64_t tokens) {
    const int64_t distance = tokens > 1 ? x[1].entries - x[0].entries : LINE;
    for (int64_t t = 2; t < tokens; t++) {
        if (x[t].entries - x[t - 1].entries != distance) {
            return 0;
        }
    }
    return distance;
}

static int all_aligned(float * const * y, int tokens) {
    uintptr_t bits = 0;
    for (int t = 0; t < tokens; t++) {
        bits |= (uintptr_t) y[t];
    }
    return bits % LINE == 0;
}

static int64_t parts_of(int64_t tokens, int64_t most) { return (tokens + most - 1) / most; }

TMAC_INLINE void gemm(const int group, const int has_zeros, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    const struct tile_config before = tile_config_now();
    const int64_t parts = parts_of(tokens, MOST_TOKENS);
    const int is_many = tokens * w->rows * (int64_t) sizeof(float) >= CACHED_BYTES;
    struct part part = { .w = w, .distance = distance_of(x, tokens), .step = step_columns(group, w->cols) };
    for (int64_t p = 0; p < parts; p++) {
        const int64_t first = tokens * p / parts;
        part.x = x + first;
        part.y = y + first;
        part.tokens = (int) (tokens * (p + 1) / parts - first);
        const int blocks = (int) parts_of(part.tokens, BLOCK_TOKENS);
        part.block_tokens = (int) parts_of(part.tokens, blocks);
        part.is_streamed = is_many && w->cols <= SLAB_COLUMNS && all_aligned(part.y, part.tokens);
        for (int t = 0; t < part.tokens; t++) {
            part.start[t] = start_of(group, w, &part.x[t]);
        }
        multiply_part(group, has_zeros, &part, blocks, first_tile, last_tile);
    }
    load_tile_config(&before);
    _mm_sfence(); // streamed results are there when the caller says so
}
