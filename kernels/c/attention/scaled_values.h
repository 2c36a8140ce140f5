// Sums of V of types that have scales, for few rows. Part of attention/stream.h.
#pragma once

#if !defined STREAM_ROWS
#error "attention/scaled_values.h: define STREAM_ROWS before"
#endif

#include "attention/scales.h"

// Weights of the positions of a step times scales, for each row and block: as words if the type is of words.
struct weights {
    float floats[STREAM_ROWS][SCALED_BLOCKS][STEP];
    int16_t words[STREAM_ROWS][SCALED_BLOCKS][STEP];
    float steps[STREAM_ROWS][SCALED_BLOCKS];
};

TMAC_INLINE void weights_to_words(const int rows, const int blocks, struct weights * weights) {
    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            const float * const from = weights->floats[r][b];
            const float largest = largest_magnitude_of(from, STEP);
            floats_to_words(from, STEP, largest, weights->words[r][b]);
            weights->steps[r][b] = step_of_words(largest);
        }
    }
}

// Adds to `sum` weights times the codes of block b, which begins at `at`.
TMAC_INLINE void add_word_values(const int type, const int rows, const int b, const uint8_t * at,
                                 int64_t position_bytes, const struct weights * weights,
                                 floats sum[STREAM_ROWS][BLOCK_VECTORS]) {
    ints sums[STREAM_ROWS][BLOCK_VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            sums[r][i] = no_ints();
        }
    }
    for (int p = 0; p < STEP; p += 2, at += 2 * position_bytes) {
        int8_t buffers[2][CACHE_BLOCK];
        words pairs[BLOCK_VECTORS];
        pairs_of_codes(codes_of_block(type, at, buffers[0]), codes_of_block(type, at + position_bytes, buffers[1]),
                       pairs);
        for (int r = 0; r < rows; r++) {
            add_weighted_pairs(sums[r], pairs, weights->words[r][b] + p);
        }
    }
    for (int r = 0; r < rows; r++) {
        floats v[BLOCK_VECTORS];
        floats_of_columns(sums[r], v);
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            sum[r][i] = multiply_add(v[i], broadcast(weights->steps[r][b]), sum[r][i]);
        }
    }
}

// The same with codes as floats.
TMAC_INLINE void add_float_values(const int type, const int rows, const int b, const uint8_t * at,
                                  int64_t position_bytes, const struct weights * weights,
                                  floats sum[STREAM_ROWS][BLOCK_VECTORS]) {
    for (int p = 0; p < STEP; p++, at += position_bytes) {
        floats v[BLOCK_VECTORS];
        load_codes(type, at, v);
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < BLOCK_VECTORS; i++) {
                sum[r][i] = multiply_add(broadcast(weights->floats[r][b][p]), v[i], sum[r][i]);
            }
        }
    }
}

// `blocks` blocks of each row's sum of V, from `block` on:
// sums[r * stride] = factors[r] * sums[r * stride] + sum over p of weights[r * STEP + p] * v[p].
TMAC_INLINE void values_of_blocks(const int type, const int rows, const struct step * v, int64_t block,
                                  const int blocks, const float * weights, const float * factors, float * sums,
                                  int64_t stride) {
    const int64_t block_bytes = tmac_cache_block_bytes(type), position_bytes = v->position_bytes;
    const uint8_t * const first = v->at + block * block_bytes;
    floats minima[STREAM_ROWS][SCALED_BLOCKS];
    struct scales scales;
    struct weights scaled;
    load_scales(type, first, position_bytes, blocks, &scales);
    for (int p = 0; p < STEP; p++) {
        prefetch_blocks_ahead(type, first + p * position_bytes, position_bytes, blocks);
    }
    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            floats of_minima = broadcast(0);
            for (int p = 0; p < STEP; p += FLOATS) {
                const floats weight = load_floats(weights + r * STEP + p);
                store_floats(scaled.floats[r][b] + p, multiply_floats(weight, load_floats(scales.scales[b] + p)));
                if (has_minimum(type)) {
                    of_minima = multiply_add(weight, load_floats(scales.minima[b] + p), of_minima);
                }
            }
            minima[r][b] = broadcast(has_minimum(type) ? sum_of_floats(of_minima) : 0);
        }
    }
    if (is_of_words(type)) {
        weights_to_words(rows, blocks, &scaled);
        // GCC would keep them in registers and take them apart by shuffles.
        __asm__("" : "+m"(scaled));
    }
    for (int b = 0; b < blocks; b++) {
        floats sum[STREAM_ROWS][BLOCK_VECTORS];
        float * const at = sums + (block + b) * CACHE_BLOCK;
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < BLOCK_VECTORS; i++) {
                const floats before = load_floats(at + r * stride + i * FLOATS), factor = broadcast(factors[r]);
                sum[r][i] =
                    has_minimum(type) ? multiply_add(before, factor, minima[r][b]) : multiply_floats(before, factor);
            }
        }
        if (is_of_words(type)) {
            add_word_values(type, rows, b, first + b * block_bytes, position_bytes, &scaled, sum);
        } else {
            add_float_values(type, rows, b, first + b * block_bytes, position_bytes, &scaled, sum);
        }
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < BLOCK_VECTORS; i++) {
                store_floats(at + r * stride + i * FLOATS, sum[r][i]);
            }
        }
    }
}

TMAC_INLINE void scaled_values_of_rows(const int type, const int rows, const struct step * v, const float * weights,
                                       const float * factors, float * sums, int64_t stride) {
    const int64_t blocks = v->width / CACHE_BLOCK;
    for (int64_t block = 0; block < blocks; block += SCALED_BLOCKS) {
        if (blocks - block < SCALED_BLOCKS) {
            values_of_blocks(type, rows, v, block, (int) (blocks - block), weights, factors, sums, stride);
        } else {
            values_of_blocks(type, rows, v, block, SCALED_BLOCKS, weights, factors, sums, stride);
        }
    }
}
