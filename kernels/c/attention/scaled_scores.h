// Scores of few rows with K of types that have scales. Part of attention/stream.h.
#pragma once

#if !defined STREAM_ROWS
#error "attention/scaled_scores.h: define STREAM_ROWS before"
#endif

#include "attention/scales.h"

// Products of `rows` rows of Q and the codes of `blocks` blocks at the position that begins at `at`, times scales:
// sums[r][p]. scales[b * STEP] is that of block b. Q stays in registers, or in first-level cache.
TMAC_INLINE void word_products(const int type, const int rows, const int blocks, const uint8_t * at,
                               const float * scales, const int16_t * q, int64_t width, const int p,
                               floats sums[STREAM_ROWS][FLOATS]) {
    for (int r = 0; r < rows; r++) {
        sums[r][p] = broadcast(0);
    }
    for (int b = 0; b < blocks; b++) {
        int8_t buffer[CACHE_BLOCK];
        const int8_t * of_block = codes_of_block(type, at + b * tmac_cache_block_bytes(type), buffer);
        words codes[HALF_VECTORS];
        for (int i = 0; i < HALF_VECTORS; i++) {
            codes[i] = words_of_codes(of_block + 2 * i * FLOATS);
        }
        for (int r = 0; r < rows; r++) {
            const int16_t * x = q + r * width + b * CACHE_BLOCK;
            ints products = multiply_words(codes[0], load_words(x));
            for (int i = 1; i < HALF_VECTORS; i++) {
                products = add_word_products(products, codes[i], load_words(x + 2 * i * FLOATS));
            }
            const floats scale = broadcast(scales[b * STEP]);
            sums[r][p] = multiply_add(floats_of_ints(products), scale, sums[r][p]);
        }
    }
}

// Adds the products of `rows` rows of Q with a block at the TOGETHER positions from `at` on, with codes as floats.
TMAC_INLINE void add_float_products_of_block(const int type, const int rows, const uint8_t * at, int64_t position_bytes,
                                             const float * scales, const float * q, int64_t width,
                                             floats sums[STREAM_ROWS][TOGETHER]) {
    floats v[TOGETHER][BLOCK_VECTORS];
    for (int p = 0; p < TOGETHER; p++) {
        load_codes(type, at + p * position_bytes, v[p]);
    }
    for (int r = 0; r < rows; r++) {
        floats products[TOGETHER];
        for (int p = 0; p < TOGETHER; p++) {
            products[p] = broadcast(0);
        }
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            const floats x = load_floats(q + r * width + i * FLOATS);
            for (int p = 0; p < TOGETHER; p++) {
                products[p] = i == 0 ? multiply_floats(v[p][i], x) : multiply_add(v[p][i], x, products[p]);
            }
        }
        for (int p = 0; p < TOGETHER; p++) {
            sums[r][p] = multiply_add(products[p], broadcast(scales[p]), sums[r][p]);
        }
    }
}

// s[r * STEP + p] = (adds ? s[r * STEP + p] : 0) + the products of `blocks` blocks, from `block` on, of q[row + r] and
// k[p].
TMAC_INLINE void scores_of_blocks(const int type, const int rows, const int adds, const struct step * k, int64_t block,
                                  const int blocks, const struct queries * q, int64_t row, float * s) {
    const int64_t position_bytes = k->position_bytes, block_bytes = tmac_cache_block_bytes(type);
    const int64_t first_value = row * k->width + block * CACHE_BLOCK;
    const uint8_t * at = k->at + block * block_bytes;
    struct scales scales;
    load_scales(type, at, position_bytes, blocks, &scales);
    for (int first = 0; first < STEP; first += FLOATS) {
        floats products[STREAM_ROWS][FLOATS];
        for (int p = 0; p < FLOATS && is_of_words(type); p++, at += position_bytes) {
            prefetch_blocks_ahead(type, at, position_bytes, blocks);
            word_products(type, rows, blocks, at, scales.scales[0] + first + p, q->words + first_value, k->width, p,
                          products);
        }
        for (int some = 0; some < FLOATS && !is_of_words(type); some += TOGETHER, at += TOGETHER * position_bytes) {
            floats sums[STREAM_ROWS][TOGETHER];
            for (int p = 0; p < TOGETHER; p++) {
                prefetch_blocks_ahead(type, at + p * position_bytes, position_bytes, blocks);
                for (int r = 0; r < rows; r++) {
                    sums[r][p] = broadcast(0);
                }
            }
            for (int b = 0; b < blocks; b++) {
                add_float_products_of_block(type, rows, at + b * block_bytes, position_bytes,
                                            scales.scales[b] + first + some, q->floats + first_value + b * CACHE_BLOCK,
                                            k->width, sums);
            }
            for (int r = 0; r < rows; r++) {
                for (int p = 0; p < TOGETHER; p++) {
                    products[r][some + p] = sums[r][p];
                }
            }
        }
        for (int r = 0; r < rows; r++) {
            float * to = s + r * STEP + first;
            floats sums = sums_of_registers(products[r]);
            sums = is_of_words(type) ? multiply_floats(sums, broadcast(q->steps[row + r])) : sums;
            sums = adds ? add_floats(load_floats(to), sums) : sums;
            for (int b = 0; has_minimum(type) && b < blocks; b++) {
                const float of_block = q->block_sums[(row + r) * (k->width / CACHE_BLOCK) + block + b];
                sums = multiply_add(load_floats(scales.minima[b] + first), broadcast(of_block), sums);
            }
            store_floats(to, sums);
        }
    }
}

// s[r * STEP + p] = q[row + r] . k[p].
TMAC_INLINE void scaled_scores_of_rows(const int type, const int rows, const struct step * k, const struct queries * q,
                                       int64_t row, float * s) {
    const int64_t blocks = k->width / CACHE_BLOCK;
    for (int64_t block = 0; block < blocks; block += SCALED_BLOCKS) {
        if (blocks - block < SCALED_BLOCKS) {
            scores_of_blocks(type, rows, block != 0, k, block, (int) (blocks - block), q, row, s);
        } else {
            scores_of_blocks(type, rows, block != 0, k, block, SCALED_BLOCKS, q, row, s);
        }
    }
}
