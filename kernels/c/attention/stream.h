// Few rows: K and V are read once, position after position, and multiplied while they are in registers.
//
// Needs interface/attention.h, attention/caches.h, and macros: STREAM_ROWS, how many rows are multiplied by a vector of K
// or V at once (1, 2 or 4); V_VECTORS(rows), how many registers of each row's sum of V are kept (a multiple of
// BLOCK_VECTORS).
#pragma once

#if !defined STREAM_ROWS || !defined V_VECTORS
#error "attention/stream.h: define STREAM_ROWS and V_VECTORS(rows) before"
#endif

#include "attention/scaled_scores.h"
#include "attention/scaled_values.h"
#include "attention/step.h"

// Adds the products of values, of a block or of half of one, at the TOGETHER positions from `k` on.
TMAC_INLINE void add_products(const int type, const int rows, const int vectors, const uint8_t * k,
                              int64_t position_bytes, int64_t block, const float * q, int64_t width,
                              floats sums[STREAM_ROWS][TOGETHER]) {
    floats v[TOGETHER][BLOCK_VECTORS];
    for (int p = 0; p < TOGETHER; p++) {
        load_values(type, k + p * position_bytes, block, vectors, v[p]);
    }
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++) {
            const floats x = load_floats(q + r * width + block * CACHE_BLOCK + i * FLOATS);
            for (int p = 0; p < TOGETHER; p++) {
                sums[r][p] = multiply_add(v[p][i], x, sums[r][p]);
            }
        }
    }
}

// s[r * STEP + p] = q[r] . k[p] for types without scales.
TMAC_INLINE void scores_of_rows(const int type, const int rows, const struct step * k, const float * q, float * s) {
    const int64_t position_bytes = k->position_bytes, blocks = k->width / CACHE_BLOCK;
    const uint8_t * at = k->at;
    for (int first = 0; first < STEP; first += FLOATS) {
        floats products[STREAM_ROWS][FLOATS];
        for (int some = 0; some < FLOATS; some += TOGETHER, at += TOGETHER * position_bytes) {
            floats sums[STREAM_ROWS][TOGETHER];
            for (int p = 0; p < TOGETHER; p++) {
                prefetch_row_ahead(k, at + p * position_bytes);
                for (int r = 0; r < rows; r++) {
                    sums[r][p] = broadcast(0);
                }
            }
            for (int64_t block = 0; block < blocks; block++) {
                add_products(type, rows, BLOCK_VECTORS, at, position_bytes, block, q, k->width, sums);
            }
            if (k->width % CACHE_BLOCK) {
                add_products(type, rows, HALF_VECTORS, at, position_bytes, blocks, q, k->width, sums);
            }
            for (int r = 0; r < rows; r++) {
                for (int p = 0; p < TOGETHER; p++) {
                    products[r][some + p] = sums[r][p];
                }
            }
        }
        for (int r = 0; r < rows; r++) {
            store_floats(s + r * STEP + first, sums_of_registers(products[r]));
        }
    }
}

// `vectors` registers of each row's sum of V, from value 32 * block on, for types without scales:
// sums[r * stride] = factors[r] * sums[r * stride] + sum over p of weights[r * STEP + p] * v[p].
TMAC_INLINE void add_values(const int type, const int rows, const int vectors, const struct step * v, int64_t block,
                            const float * weights, const float * factors, float * sums, int64_t stride) {
    floats sum[STREAM_ROWS][V_VECTORS(1)];
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++) {
            sum[r][i] = multiply_floats(load_floats(sums + r * stride + i * FLOATS), broadcast(factors[r]));
        }
    }
    for (int p = 0; p < STEP; p++) {
        const uint8_t * row = v->at + p * v->position_bytes;
        floats weight[STREAM_ROWS];
        if (block == 0) {
            prefetch_row_ahead(v, row);
        }
        for (int r = 0; r < rows; r++) {
            weight[r] = broadcast(weights[r * STEP + p]);
        }
        for (int first = 0; first < vectors; first += BLOCK_VECTORS) {
            const int here = vectors - first < BLOCK_VECTORS ? vectors - first : BLOCK_VECTORS;
            floats x[BLOCK_VECTORS];
            load_values(type, row, block + first / BLOCK_VECTORS, here, x);
            for (int r = 0; r < rows; r++) {
                for (int i = 0; i < here; i++) {
                    sum[r][first + i] = multiply_add(weight[r], x[i], sum[r][first + i]);
                }
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++) {
            store_floats(sums + r * stride + i * FLOATS, sum[r][i]);
        }
    }
}

TMAC_INLINE void add_values_of_rows(const int type, const int rows, const struct step * v, const float * weights,
                                    const float * factors, float * sums, int64_t stride) {
    const int vectors = V_VECTORS(rows);
    const int64_t blocks = v->width / CACHE_BLOCK;
    int64_t block = 0;
    for (; block + vectors / BLOCK_VECTORS <= blocks; block += vectors / BLOCK_VECTORS) {
        add_values(type, rows, vectors, v, block, weights, factors, sums + block * CACHE_BLOCK, stride);
    }
    for (; block < blocks; block++) {
        add_values(type, rows, BLOCK_VECTORS, v, block, weights, factors, sums + block * CACHE_BLOCK, stride);
    }
    if (v->width % CACHE_BLOCK) {
        add_values(type, rows, HALF_VECTORS, v, block, weights, factors, sums + block * CACHE_BLOCK, stride);
    }
}

// Calls DO(n), n = STREAM_ROWS or less, for rows [r, r + n) of all `rows`.
#if STREAM_ROWS == 4
#define CALL_FOR_LESS(DO)                                                                                              \
    case 3: DO(3); break;                                                                                              \
    case 2: DO(2); break;                                                                                              \
    case 1: DO(1); break;
#elif STREAM_ROWS == 2
#define CALL_FOR_LESS(DO)                                                                                              \
    case 1: DO(1); break;
#else
#define CALL_FOR_LESS(DO)
#endif
#define IN_GROUPS_OF_ROWS(DO)                                                                                          \
    for (int64_t r = 0; r < rows; r += STREAM_ROWS) {                                                                  \
        switch (rows - r) {                                                                                            \
            CALL_FOR_LESS(DO)                                                                                          \
            default: DO(STREAM_ROWS); break;                                                                           \
        }                                                                                                              \
    }

#define SCORES_OF(n)                                                                                                   \
    if (is_blocked(type)) {                                                                                            \
        scaled_scores_of_rows(type, n, k, q, r, s + r * STEP);                                                         \
    } else {                                                                                                           \
        scores_of_rows(type, n, k, q->floats + r * k->width, s + r * STEP);                                            \
    }
#define VALUES_OF(n)                                                                                                   \
    if (is_blocked(type)) {                                                                                            \
        scaled_values_of_rows(type, n, v, weights + r * STEP, factors + r, sums + r * stride, stride);                 \
    } else {                                                                                                           \
        add_values_of_rows(type, n, v, weights + r * STEP, factors + r, sums + r * stride, stride);                    \
    }

TMAC_INLINE void step_scores_of_type(const int type, int64_t rows, const struct step * k, const struct queries * q,
                                     float * s){ IN_GROUPS_OF_ROWS(SCORES_OF) }

TMAC_INLINE
    void step_values_of_type(const int type, int64_t rows, const struct step * v, const float * weights,
                             const float * factors, float * sums, int64_t stride){ IN_GROUPS_OF_ROWS(VALUES_OF) }
#define SCORES_OF_TYPE(type)                                                                                           \
    case type: step_scores_of_type(type, rows, k, q, s); break;
#define VALUES_OF_TYPE(type)                                                                                           \
    case type: step_values_of_type(type, rows, v, weights, factors, sums, stride); break;

static __attribute__((noinline)) void step_scores(int64_t rows, const struct step * k, const struct queries * q,
                                                  float * s) {
    switch (k->type) { TMAC_CACHE_TYPES(SCORES_OF_TYPE) }
}

static __attribute__((noinline)) void step_values(int64_t rows, const struct step * v, const float * weights,
                                                  const float * factors, float * sums, int64_t stride) {
    switch (v->type) { TMAC_CACHE_TYPES(VALUES_OF_TYPE) }
}
