// Many rows: a block of K and V is unpacked to floats once, and all rows are multiplied by it, as two small GEMMs.
//
// Needs interface/attention.h, attention/caches.h, and macros: TILE_ROWS rows by TILE_VECTORS registers are the sums that
// stay in registers.
#pragma once

#if !defined TILE_ROWS || !defined TILE_VECTORS
#error "attention/tile.h: define TILE_ROWS and TILE_VECTORS before"
#endif

// c[r][n] = (adds ? c[r][n] : 0) + sum over d < depth of a[r][d] * b[d][n] for TILE_ROWS rows and `vectors` registers
// of columns.
TMAC_INLINE void multiply_tile(const int vectors, const int adds, const float * a, int64_t a_stride, const float * b,
                               int64_t b_stride, int64_t depth, float * c, int64_t c_stride) {
    floats sums[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int i = 0; i < vectors; i++) {
            sums[r][i] = adds ? load_floats(c + r * c_stride + i * FLOATS) : broadcast(0);
        }
    }
    for (int64_t d = 0; d < depth; d++) {
        floats of_b[TILE_VECTORS];
        for (int i = 0; i < vectors; i++) {
            of_b[i] = load_floats(b + d * b_stride + i * FLOATS);
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            const floats of_a = broadcast(a[r * a_stride + d]);
            for (int i = 0; i < vectors; i++) {
                sums[r][i] = multiply_add(of_a, of_b[i], sums[r][i]);
            }
        }
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int i = 0; i < vectors; i++) {
            store_floats(c + r * c_stride + i * FLOATS, sums[r][i]);
        }
    }
}

// The same for `rows` rows, a multiple of TILE_ROWS, and `columns` columns, a multiple of FLOATS.
TMAC_INLINE void multiply_block(const int adds, const float * a, int64_t a_stride, const float * b, int64_t b_stride,
                                int64_t rows, int64_t columns, int64_t depth, float * c, int64_t c_stride) {
    int64_t column = 0;
    for (; column + TILE_VECTORS * FLOATS <= columns; column += TILE_VECTORS * FLOATS) {
        for (int64_t row = 0; row < rows; row += TILE_ROWS) {
            multiply_tile(TILE_VECTORS, adds, a + row * a_stride, a_stride, b + column, b_stride, depth,
                          c + row * c_stride + column, c_stride);
        }
    }
    for (; column < columns; column += FLOATS) {
        for (int64_t row = 0; row < rows; row += TILE_ROWS) {
            multiply_tile(1, adds, a + row * a_stride, a_stride, b + column, b_stride, depth,
                          c + row * c_stride + column, c_stride);
        }
    }
}

// Asks for a block of values of the position that is BLOCK_POSITIONS further on. The rows of one head lie far apart, and
// no CPU foresees that.
TMAC_INLINE void prefetch_values_of_next(const int type, const uint8_t * row, int64_t position_bytes, int64_t block) {
    const int64_t value_bytes = type == TMAC_CACHE_F32 ? 4 : 2;
    const int64_t block_bytes = is_blocked(type) ? tmac_cache_block_bytes(type) : CACHE_BLOCK * value_bytes;
    const uint8_t * next = row + BLOCK_POSITIONS * position_bytes + block * block_bytes;
    prefetch(next);
    if (block_bytes > 64) {
        prefetch(next + 64);
    }
}

// Of K, one block of values or half of one: to[d * BLOCK_POSITIONS + p] is value d of position p; zeros from `count`
// on.
TMAC_INLINE void transpose_values(const int type, const int vectors, const uint8_t * at, int64_t position_bytes,
                                  int count, int64_t block, float * to) {
    for (int first = 0; first < BLOCK_POSITIONS; first += FLOATS) {
        floats v[FLOATS][BLOCK_VECTORS];
        for (int p = 0; p < FLOATS; p++) {
            if (first + p < count) {
                const uint8_t * row = at + (first + p) * position_bytes;
                prefetch_values_of_next(type, row, position_bytes, block);
                load_values(type, row, block, vectors, v[p]);
                continue;
            }
            for (int i = 0; i < vectors; i++) {
                v[p][i] = broadcast(0);
            }
        }
        for (int i = 0; i < vectors; i++) {
            floats square[FLOATS];
            for (int p = 0; p < FLOATS; p++) {
                square[p] = v[p][i];
            }
            transpose_floats(square);
            for (int d = 0; d < FLOATS; d++) {
                store_floats(to + (block * CACHE_BLOCK + i * FLOATS + d) * BLOCK_POSITIONS + first, square[d]);
            }
        }
    }
}

TMAC_INLINE void unpack_transposed(const int type, const uint8_t * at, int64_t position_bytes, int count, int64_t width,
                                   float * to) {
    for (int64_t block = 0; block < width / CACHE_BLOCK; block++) {
        transpose_values(type, BLOCK_VECTORS, at, position_bytes, count, block, to);
    }
    if (!is_blocked(type) && width % CACHE_BLOCK) {
        transpose_values(type, HALF_VECTORS, at, position_bytes, count, width / CACHE_BLOCK, to);
    }
}

TMAC_INLINE void store_values(const int type, const int vectors, const uint8_t * row, int64_t block, float * to) {
    floats v[BLOCK_VECTORS];
    load_values(type, row, block, vectors, v);
    for (int i = 0; i < vectors; i++) {
        store_floats(to + block * CACHE_BLOCK + i * FLOATS, v[i]);
    }
}

// to[p * width + d] is value d of position p; zeros for the positions from `count` to `padded`.
TMAC_INLINE void unpack(const int type, const uint8_t * at, int64_t position_bytes, int count, int padded,
                        int64_t width, float * to) {
    for (int p = 0; p < count; p++) {
        for (int64_t block = 0; block < width / CACHE_BLOCK; block++) {
            prefetch_values_of_next(type, at + p * position_bytes, position_bytes, block);
            store_values(type, BLOCK_VECTORS, at + p * position_bytes, block, to + p * width);
        }
        if (!is_blocked(type) && width % CACHE_BLOCK) {
            store_values(type, HALF_VECTORS, at + p * position_bytes, width / CACHE_BLOCK, to + p * width);
        }
    }
    memset(to + count * width, 0, (size_t) ((padded - count) * width) * sizeof(float));
}

#define TRANSPOSED_OF_TYPE(type)                                                                                       \
    case type: unpack_transposed(type, at, position_bytes, count, width, to); break;
#define UNPACKED_OF_TYPE(type)                                                                                         \
    case type: unpack(type, at, position_bytes, count, padded, width, to); break;

static __attribute__((noinline)) void unpack_keys(int type, const uint8_t * at, int64_t position_bytes, int count,
                                                  int64_t width, float * to) {
    switch (type) { TMAC_CACHE_TYPES(TRANSPOSED_OF_TYPE) }
}

static __attribute__((noinline)) void unpack_values(int type, const uint8_t * at, int64_t position_bytes, int count,
                                                    int padded, int64_t width, float * to) {
    switch (type) { TMAC_CACHE_TYPES(UNPACKED_OF_TYPE) }
}

// What an item that tiles works with. Of its rows, which are padded to a multiple of PADDED_ROWS, at most CHUNK_ROWS
// are computed at a time.
struct tiles {
    const struct tmac_cache *keys, *values;
    int64_t all_rows, stride;            // stride: of states, in floats
    const float * queries;               // [all_rows, width of K]
    float *states, *scores;              // scores [CHUNK_ROWS, BLOCK_POSITIONS], then weights
    void *block_keys, *block_values;     // of a block of positions, unpacked
    void *split_queries, *split_weights; // of attention/amx_tile.h only
};

TMAC_INLINE void load_block_as_floats(const struct tiles * tiles, const uint8_t * keys, const uint8_t * values,
                                      int count) {
    unpack_keys((int) tiles->keys->type, keys, tiles->keys->position_bytes, count, tiles->keys->width,
                tiles->block_keys);
    unpack_values((int) tiles->values->type, values, tiles->values->position_bytes, count, BLOCK_POSITIONS,
                  tiles->values->width, tiles->block_values);
}

// Scores of rows [first, first + rows) at the block's positions.
TMAC_INLINE void float_scores(const struct tiles * tiles, int64_t first, int64_t rows) {
    const int64_t width = tiles->keys->width;
    multiply_block(0, tiles->queries + first * width, width, tiles->block_keys, BLOCK_POSITIONS, rows, BLOCK_POSITIONS,
                   width, tiles->scores, BLOCK_POSITIONS);
}

// Adds the block's values, times the weights that the scores have become, to the states of these rows.
TMAC_INLINE void float_values(const struct tiles * tiles, int64_t first, int64_t rows) {
    const int64_t width = tiles->values->width;
    multiply_block(1, tiles->scores, BLOCK_POSITIONS, tiles->block_values, width, rows, width, BLOCK_POSITIONS,
                   tiles->states + first * tiles->stride, tiles->stride);
}
