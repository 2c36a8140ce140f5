// Few rows: K and V are read once, position after position, and multiplied while they are in registers.
//
// Needs interface/attention.h, attention/caches.h, and macros: STREAM_ROWS, how many rows are multiplied by a vector of K
// or V at once (1, 2 or 4); V_VECTORS(rows), how many registers of each row's sum of V are kept (a multiple of
// BLOCK_VECTORS).
#pragma once

#if !defined STREAM_ROWS || !defined V_VECTORS
#error "attention/stream.h: define STREAM_ROWS and V_VECTORS(rows) before"
#endif

// K or V of one head at the positions of a step, of which there are `count`, at least one.
struct step {
    const uint8_t * at;
    int type, count;
    int64_t width, position_bytes, row_bytes; // row_bytes: of the head at one position
};

// Prefetchers lose the thread where a step ends with K or V and the other one begins, so rows are asked for so many
// positions ahead. Measured on an Intel Xeon (Granite Rapids): 11.2 GB/s without, 12.4 with 4, 12.8 with 8, 12.2 with
// 16 and with 32.
enum { POSITIONS_AHEAD = 8 };

TMAC_INLINE void prefetch_row_ahead(const struct step * step, const uint8_t * row) {
    for (int64_t line = 0; line < step->row_bytes; line += 64) {
        prefetch(row + POSITIONS_AHEAD * step->position_bytes + line);
    }
}

// Positions whose products with a register of Q are computed together.
enum { TOGETHER = FLOATS < 4 ? FLOATS : 4 };

// Adds the products of a block of values, or of half of one.
TMAC_INLINE void add_products(const int type, const int rows, const int vectors, const uint8_t * const k[TOGETHER],
                              int64_t block, const float * q, int64_t width, floats sums[STREAM_ROWS][TOGETHER]) {
    floats v[TOGETHER][BLOCK_VECTORS];
    for (int p = 0; p < TOGETHER; p++) {
        load_values(type, k[p], block, vectors, v[p]);
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

// s[r * STEP + p] = q[r] . k[p] for all positions of the step; from `count` on, those of the last one.
TMAC_INLINE void scores_of_rows(const int type, const int rows, const struct step * k, const float * q, float * s) {
    const int64_t blocks = k->width / CACHE_BLOCK;
    for (int first = 0; first < STEP; first += FLOATS) {
        floats products[STREAM_ROWS][FLOATS];
        for (int some = 0; some < FLOATS; some += TOGETHER) {
            const uint8_t * row[TOGETHER];
            floats sums[STREAM_ROWS][TOGETHER];
            for (int p = 0; p < TOGETHER; p++) {
                const int position = first + some + p;
                row[p] = k->at + (position < k->count ? position : k->count - 1) * k->position_bytes;
                prefetch_row_ahead(k, row[p]);
                for (int r = 0; r < rows; r++) {
                    sums[r][p] = broadcast(0);
                }
            }
            for (int64_t block = 0; block < blocks; block++) {
                add_products(type, rows, BLOCK_VECTORS, row, block, q, k->width, sums);
            }
            if (!is_blocked(type) && k->width % CACHE_BLOCK) {
                add_products(type, rows, HALF_VECTORS, row, blocks, q, k->width, sums);
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

// `vectors` registers of each row's sum of V, from value 32 * block on:
// sums[r * stride] = factors[r] * sums[r * stride] + sum over p of weights[r * STEP + p] * v[p].
TMAC_INLINE void add_values(const int type, const int rows, const int vectors, const struct step * v, int64_t block,
                            const float * weights, const float * factors, float * sums, int64_t stride) {
    floats sum[STREAM_ROWS][V_VECTORS(1)];
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < vectors; i++) {
            sum[r][i] = multiply_floats(load_floats(sums + r * stride + i * FLOATS), broadcast(factors[r]));
        }
    }
    for (int p = 0; p < v->count; p++) {
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
    if (!is_blocked(type) && v->width % CACHE_BLOCK) {
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

#define SCORES_OF(n) scores_of_rows(type, n, k, q + r * k->width, s + r * STEP)
#define VALUES_OF(n) add_values_of_rows(type, n, v, weights + r * STEP, factors + r, sums + r * stride, stride)

TMAC_INLINE void step_scores_of_type(const int type, int64_t rows, const struct step * k, const float * q,
                                     float * s){ IN_GROUPS_OF_ROWS(SCORES_OF) }

TMAC_INLINE
    void step_values_of_type(const int type, int64_t rows, const struct step * v, const float * weights,
                             const float * factors, float * sums, int64_t stride){ IN_GROUPS_OF_ROWS(VALUES_OF) }
#define SCORES_OF_TYPE(type)                                                                                           \
    case type: step_scores_of_type(type, rows, k, q, s); break;
#define VALUES_OF_TYPE(type)                                                                                           \
    case type: step_values_of_type(type, rows, v, weights, factors, sums, stride); break;

static __attribute__((noinline)) void step_scores(int64_t rows, const struct step * k, const float * q, float * s) {
    switch (k->type) { TMAC_CACHE_TYPES(SCORES_OF_TYPE) }
}

static __attribute__((noinline)) void step_values(int64_t rows, const struct step * v, const float * weights,
                                                  const float * factors, float * sums, int64_t stride) {
    switch (v->type) { TMAC_CACHE_TYPES(VALUES_OF_TYPE) }
}
