// Many rows with AMX: floats are sums of bfloat16 numbers, and tiles multiply these.
//
// A bfloat16 number has 8 bits of a float's 24, so a float is the sum of three, its planes: the nearest one, the
// nearest one to what is left, and again. An fp16 value is the sum of two, a bfloat16 value is one. A product of floats
// is the sum of the products of planes i and j with i + j <= 2; those left out are below 2^-24 of it. Tiles add up in
// float32.
//
// Needs: isa/amx.h with -mavx512bf16, attention/caches.h. Gives what attention/tile.h gives for floats, for widths that
// are multiples of 32.
#pragma once

#include "attention/tile.h"
#include "isa/amx.h"

enum {
    PLANES = 3,
    TILE_SIDE = 16,   // rows of a tile, and its columns of 4 bytes
    STEP_VALUES = 32, // pairs of values that a tile's row multiplies, times two
};

TMAC_INLINE int planes_of(int type) { return type == TMAC_CACHE_BF16 ? 1 : type == TMAC_CACHE_F16 ? 2 : 3; }

// Splits 32 floats: plane i as 32 bfloat16 numbers.
TMAC_INLINE void split_values(const int planes, floats first, floats second, bytes of_plane[PLANES]) {
    for (int plane = 0; plane < planes; plane++) {
        const __m512bh both = _mm512_cvtne2ps_pbh(second, first);
        const bytes bits = (bytes) both;
        of_plane[plane] = bits;
        if (plane + 1 < planes) {
            first = subtract_floats(
                first, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits)), 16)));
            second = subtract_floats(second, _mm512_castsi512_ps(_mm512_slli_epi32(
                                                 _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1)), 16)));
        }
    }
}

// Rows of floats as rows of planes: plane i begins at to + i * plane_bytes. `columns` is a multiple of 32.
TMAC_INLINE void split_rows(const float * from, int64_t stride, int64_t rows, int64_t columns, uint8_t * to,
                            int64_t plane_bytes) {
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = 0; column < columns; column += STEP_VALUES) {
            const float * at = from + row * stride + column;
            bytes of_plane[PLANES];
            split_values(PLANES, load_floats(at), load_floats(at + FLOATS), of_plane);
            for (int plane = 0; plane < PLANES; plane++) {
                store_bytes(to + plane * plane_bytes + (row * columns + column) * 2, of_plane[plane]);
            }
        }
    }
}

// One operand of tile products. Left: rows of values, `step` bytes to the next 32 values, `side` bytes to the next 16
// rows. Right: tiles of pairs of values, row k of a tile holds values 2k and 2k + 1 of 16 columns; `step` to the next
// 32 values, `side` to the next 16 columns.
struct planes {
    const uint8_t * at;
    int64_t plane, step, side, row; // bytes
};

struct pair {
    int left, right; // planes
};

// Pairs of planes, ordered so that neighbours share one.
static const struct pair pairs_of_planes[PLANES + 1][6] = {
    [1] = { { 0, 0 }, { 1, 0 }, { 2, 0 } },
    [2] = { { 2, 0 }, { 1, 0 }, { 1, 1 }, { 0, 1 }, { 0, 0 } },
    [3] = { { 2, 0 }, { 1, 0 }, { 1, 1 }, { 0, 1 }, { 0, 2 }, { 0, 0 } },
};
static const int pair_count[PLANES + 1] = { 0, 3, 5, 6 };

// sums[16 * rows][16 * columns] = (adds ? sums : 0) + left * right, over `steps` steps of 32 values; rows and columns
// are 1 or 2.
TMAC_INLINE void multiply_planes(const int rows, const int columns, const int adds, const struct planes * left,
                                 const struct planes * right, int right_planes, int64_t steps, float * sums,
                                 int64_t stride) {
    const int64_t bytes_of_row = stride * (int64_t) sizeof(float);
    float *below = sums + TILE_SIDE * stride, *beside = sums + TILE_SIDE, *beyond = below + TILE_SIDE;
    if (adds) {
        _tile_loadd(0, sums, bytes_of_row);
        if (columns == 2) {
            _tile_loadd(1, beside, bytes_of_row);
        }
        if (rows == 2) {
            _tile_loadd(2, below, bytes_of_row);
        }
        if (rows == 2 && columns == 2) {
            _tile_loadd(3, beyond, bytes_of_row);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; step++) {
        struct pair last = { -1, -1 };
        for (int n = 0; n < pair_count[right_planes]; n++) {
            const struct pair pair = pairs_of_planes[right_planes][n];
            const uint8_t * a = left->at + pair.left * left->plane + step * left->step;
            const uint8_t * b = right->at + pair.right * right->plane + step * right->step;
            if (pair.left != last.left) {
                _tile_loadd(4, a, left->row);
                if (rows == 2) {
                    _tile_loadd(5, a + left->side, left->row);
                }
            }
            if (pair.right != last.right) {
                _tile_loadd(6, b, right->row);
                if (columns == 2) {
                    _tile_loadd(7, b + right->side, right->row);
                }
            }
            _tile_dpbf16ps(0, 4, 6);
            if (columns == 2) {
                _tile_dpbf16ps(1, 4, 7);
            }
            if (rows == 2) {
                _tile_dpbf16ps(2, 5, 6);
            }
            if (rows == 2 && columns == 2) {
                _tile_dpbf16ps(3, 5, 7);
            }
            last = pair;
        }
    }
    _tile_stored(0, sums, bytes_of_row);
    if (columns == 2) {
        _tile_stored(1, beside, bytes_of_row);
    }
    if (rows == 2) {
        _tile_stored(2, below, bytes_of_row);
    }
    if (rows == 2 && columns == 2) {
        _tile_stored(3, beyond, bytes_of_row);
    }
    finish_stores();
}

// The same for all `rows` and `columns`, multiples of 16.
TMAC_INLINE void multiply_all_planes(const int adds, struct planes left, const struct planes right, int right_planes,
                                     int64_t rows, int64_t columns, int64_t steps, float * sums, int64_t stride) {
    finish_stores();
    for (int64_t row = 0; row < rows; row += 2 * TILE_SIDE, left.at += 2 * left.side, sums += 2 * TILE_SIDE * stride) {
        struct planes there = right;
        for (int64_t column = 0; column < columns; column += 2 * TILE_SIDE, there.at += 2 * right.side) {
            float * here = sums + column;
            const int is_wide = columns - column > TILE_SIDE;
            if (rows - row > TILE_SIDE && is_wide) {
                multiply_planes(2, 2, adds, &left, &there, right_planes, steps, here, stride);
            } else if (is_wide) {
                multiply_planes(1, 2, adds, &left, &there, right_planes, steps, here, stride);
            } else if (rows - row > TILE_SIDE) {
                multiply_planes(2, 1, adds, &left, &there, right_planes, steps, here, stride);
            } else {
                multiply_planes(1, 1, adds, &left, &there, right_planes, steps, here, stride);
            }
        }
    }
}

// K as the right operand: for each plane and step of 32 values four tiles of 16 positions. Zeros from `count` on.
TMAC_INLINE void split_keys_of_type(const int type, const uint8_t * at, int64_t position_bytes, int count,
                                    int64_t width, uint8_t * to) {
    const int planes = planes_of(type);
    for (int64_t block = 0; block < width / CACHE_BLOCK; block++) {
        for (int first = 0; first < BLOCK_POSITIONS; first += TILE_SIDE) {
            floats squares[PLANES][TILE_SIDE];
            for (int p = 0; p < TILE_SIDE; p++) {
                floats v[BLOCK_VECTORS] = { broadcast(0), broadcast(0) };
                if (first + p < count) {
                    const uint8_t * row = at + (first + p) * position_bytes;
                    prefetch_values_of_next(type, row, position_bytes, block);
                    load_values(type, row, block, BLOCK_VECTORS, v);
                }
                bytes of_plane[PLANES];
                split_values(planes, v[0], v[1], of_plane);
                for (int plane = 0; plane < planes; plane++) {
                    squares[plane][p] = _mm512_castsi512_ps(of_plane[plane]);
                }
            }
            for (int plane = 0; plane < planes; plane++) {
                uint8_t * tile = to + plane * width * BLOCK_POSITIONS * 2 +
                                 (block * (BLOCK_POSITIONS / TILE_SIDE) + first / TILE_SIDE) * TILE_BYTES;
                transpose_floats(squares[plane]);
                for (int k = 0; k < TILE_SIDE; k++) {
                    store_floats((float *) (tile + k * TILE_ROW_BYTES), squares[plane][k]);
                }
            }
        }
    }
}

// V as the right operand: for each plane and step of 32 positions width / 16 tiles. Zeros from `count` on.
TMAC_INLINE void split_values_of_type(const int type, const uint8_t * at, int64_t position_bytes, int count,
                                      int64_t width, uint8_t * to) {
    const int planes = planes_of(type);
    // Words of two registers in turn.
    uint16_t order[32];
    for (int i = 0; i < 16; i++) {
        order[2 * i] = (uint16_t) i;
        order[2 * i + 1] = (uint16_t) (16 + i);
    }
    const bytes in_turn = load_bytes((const uint8_t *) order);
    for (int p = 0; p < BLOCK_POSITIONS; p += 2) {
        const uint8_t * row = at + p * position_bytes;
        for (int64_t block = 0; block < width / CACHE_BLOCK; block++) {
            floats v[2][BLOCK_VECTORS] = { { broadcast(0), broadcast(0) }, { broadcast(0), broadcast(0) } };
            for (int i = 0; i < 2 && p + i < count; i++) {
                prefetch_values_of_next(type, row + i * position_bytes, position_bytes, block);
                load_values(type, row + i * position_bytes, block, BLOCK_VECTORS, v[i]);
            }
            for (int i = 0; i < BLOCK_VECTORS; i++) {
                bytes of_plane[PLANES];
                split_values(planes, v[0][i], v[1][i], of_plane);
                for (int plane = 0; plane < planes; plane++) {
                    const int64_t tile = p / STEP_VALUES * (width / TILE_SIDE) + block * BLOCK_VECTORS + i;
                    store_bytes(to + plane * width * BLOCK_POSITIONS * 2 + tile * TILE_BYTES +
                                    p % STEP_VALUES / 2 * TILE_ROW_BYTES,
                                _mm512_permutexvar_epi16(in_turn, of_plane[plane]));
                }
            }
        }
    }
}

#define SPLIT_KEYS_OF_TYPE(type)                                                                                       \
    case type: split_keys_of_type(type, at, position_bytes, count, width, to); break;
#define SPLIT_VALUES_OF_TYPE(type)                                                                                     \
    case type: split_values_of_type(type, at, position_bytes, count, width, to); break;

static __attribute__((noinline)) void split_keys(int type, const uint8_t * at, int64_t position_bytes, int count,
                                                 int64_t width, uint8_t * to) {
    switch (type) { TMAC_CACHE_TYPES(SPLIT_KEYS_OF_TYPE) }
}

static __attribute__((noinline)) void split_cache_values(int type, const uint8_t * at, int64_t position_bytes,
                                                         int count, int64_t width, uint8_t * to) {
    switch (type) { TMAC_CACHE_TYPES(SPLIT_VALUES_OF_TYPE) }
}

enum { PADDED_ROWS = TILE_SIDE, CHUNK_ROWS = 2 * TILE_SIDE };

// Widths that are no multiples of 32 are multiplied as floats.
TMAC_INLINE int can_split(const struct tiles * tiles) {
    return tiles->keys->width % STEP_VALUES == 0 && tiles->values->width % STEP_VALUES == 0;
}

static void begin_tiles(const struct tiles * tiles, struct tile_config * before) {
    if (can_split(tiles)) {
        const int64_t width = tiles->keys->width;
        *before = tile_config_now();
        configure_tiles(TILE_SIDE, TILE_ROW_BYTES);
        split_rows(tiles->queries, width, tiles->all_rows, width, tiles->split_queries, tiles->all_rows * width * 2);
    }
}

static void end_tiles(const struct tiles * tiles, const struct tile_config * before) {
    if (can_split(tiles)) {
        load_tile_config(before);
    }
}

static void load_block(const struct tiles * tiles, const uint8_t * keys, const uint8_t * values, int count) {
    if (!can_split(tiles)) {
        load_block_as_floats(tiles, keys, values, count);
        return;
    }
    split_keys((int) tiles->keys->type, keys, tiles->keys->position_bytes, count, tiles->keys->width,
               tiles->block_keys);
    split_cache_values((int) tiles->values->type, values, tiles->values->position_bytes, count, tiles->values->width,
                       tiles->block_values);
}

static void tile_scores(const struct tiles * tiles, int64_t first, int64_t rows) {
    const int64_t width = tiles->keys->width;
    if (!can_split(tiles)) {
        float_scores(tiles, first, rows);
        return;
    }
    const struct planes left = { (const uint8_t *) tiles->split_queries + first * width * 2,
                                 tiles->all_rows * width * 2, STEP_VALUES * 2, TILE_SIDE * width * 2, width * 2 };
    const struct planes right = { tiles->block_keys, width * BLOCK_POSITIONS * 2,
                                  BLOCK_POSITIONS / TILE_SIDE * TILE_BYTES, TILE_BYTES, TILE_ROW_BYTES };
    multiply_all_planes(0, left, right, planes_of((int) tiles->keys->type), rows, BLOCK_POSITIONS, width / STEP_VALUES,
                        tiles->scores, BLOCK_POSITIONS);
}

static void tile_values(const struct tiles * tiles, int64_t first, int64_t rows) {
    const int64_t width = tiles->values->width;
    if (!can_split(tiles)) {
        float_values(tiles, first, rows);
        return;
    }
    split_rows(tiles->scores, BLOCK_POSITIONS, rows, BLOCK_POSITIONS, tiles->split_weights, rows * BLOCK_POSITIONS * 2);
    const struct planes left = { tiles->split_weights, rows * BLOCK_POSITIONS * 2, STEP_VALUES * 2,
                                 TILE_SIDE * BLOCK_POSITIONS * 2, BLOCK_POSITIONS * 2 };
    const struct planes right = { tiles->block_values, width * BLOCK_POSITIONS * 2, width / TILE_SIDE * TILE_BYTES,
                                  TILE_BYTES, TILE_ROW_BYTES };
    multiply_all_planes(1, left, right, planes_of((int) tiles->values->type), rows, width,
                        BLOCK_POSITIONS / STEP_VALUES, tiles->states + first * tiles->stride, tiles->stride);
}
