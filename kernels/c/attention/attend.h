// Computes an item of an attention (struct tmac_attention_plan). Needs the vocabulary of an instruction set, and the macros of
// attention/stream.h and attention/tile.h. Gives `attend`.
//
// For each of its KV heads an item has rows: its queries for each query head of the group, row = head * item_queries + query.
// Scratch memory: scaled queries, then the states of the rows, then what each way of computing needs.
#pragma once

#include "interface/catalog.h"

#include "attention/caches.h"
#include "attention/softmax.h"
#include "attention/stream.h"
#include "attention/tile.h"

struct item {
    const struct tmac_attention * a;
    const struct tmac_attention_plan * plan;
    int64_t sequence, first_head, heads; // KV heads
    int64_t first_query, queries;
    int64_t first, last; // positions
    int64_t rows;        // of a KV head
};

TMAC_INLINE struct item item_of(const struct tmac_attention * a, const struct tmac_attention_plan * plan, int64_t n) {
    struct item item = { .a = a, .plan = plan };
    const int64_t range = n % plan->ranges, query_part = n / plan->ranges % plan->query_parts;
    const int64_t head_part = n / plan->ranges / plan->query_parts % plan->head_parts;
    item.sequence = n / plan->ranges / plan->query_parts / plan->head_parts;
    item.first_head = head_part * plan->item_heads;
    item.heads = a->kv_heads - item.first_head < plan->item_heads ? a->kv_heads - item.first_head : plan->item_heads;
    item.first_query = query_part * plan->item_queries;
    item.queries =
        a->queries - item.first_query < plan->item_queries ? a->queries - item.first_query : plan->item_queries;
    item.first = range * plan->range_positions;
    item.last = a->positions < item.first + plan->range_positions ? a->positions : item.first + plan->range_positions;
    item.rows = plan->group * item.queries;
    return item;
}

TMAC_INLINE const uint8_t * cache_at(const struct tmac_cache * cache, int64_t sequence, int64_t head,
                                     int64_t position) {
    return cache->data + sequence * cache->sequence_bytes + head * cache->head_bytes + position * cache->position_bytes;
}

// The mask of a row of KV head `head`, at a position; NULL: none.
TMAC_INLINE const uint16_t * mask_at(const struct item * item, int64_t head, int64_t row, int64_t position) {
    const struct tmac_attention * a = item->a;
    if (!a->mask) {
        return NULL;
    }
    const int64_t query = item->first_query + row % item->queries, of = head * item->plan->group + row / item->queries;
    return (const uint16_t *) ((const uint8_t *) a->mask + query * a->mask_query_bytes +
                               of % a->mask_heads * a->mask_head_bytes +
                               item->sequence % a->mask_sequences * a->mask_sequence_bytes) +
           position;
}

// Stores the scaled query vectors of a KV head's rows.
static void scale_queries(const struct item * item, int64_t head, float * to) {
    const struct tmac_attention * a = item->a;
    const int64_t width = a->keys->width;
    const floats scale = broadcast(a->soft_cap != 0 ? a->scale / a->soft_cap : a->scale);
    for (int64_t row = 0; row < item->rows; row++) {
        const int64_t query = item->first_query + row % item->queries;
        const int64_t of = head * item->plan->group + row / item->queries;
        const float * from = (const float *) ((const uint8_t *) a->q + query * a->query_bytes +
                                              of * a->query_head_bytes + item->sequence * a->query_sequence_bytes);
        for (int64_t d = 0; d < width; d += FLOATS) {
            store_floats(to + row * width + d, multiply_floats(load_floats(from + d), scale));
        }
    }
}

TMAC_INLINE struct running * running_of(float * state, int64_t width) { return (struct running *) (state + width); }

static void clear_states(float * states, int64_t rows, int64_t stride, int64_t width) {
    memset(states, 0, (size_t) (rows * stride) * sizeof(float));
    for (int64_t row = 0; row < rows; row++) {
        running_of(states + row * stride, width)->largest = -FLT_MAX;
    }
}

// Weights of all rows of a KV head at the positions [position, position + count), from their scores s[row * padded].
TMAC_INLINE void weights_of_rows(const struct item * item, int64_t head, int64_t position, int count, int padded,
                                 int is_open, const float * slopes, float * s, float * states, float * factors) {
    const int64_t stride = item->plan->state_floats, width = item->a->values->width;
    for (int64_t row = 0; row < item->rows; row++) {
        const float slope = slopes[head * item->plan->group + row / item->queries];
        const struct row_rules rules = { is_open ? NULL : mask_at(item, head, row, position), slope,
                                         item->a->soft_cap };
        factors[row] =
            weights_of_scores(s + row * padded, count, padded, &rules, running_of(states + row * stride, width));
    }
}

// What all rows of KV head `head` see of some positions; rows of one query have the same mask unless heads have their own.
static enum mask_kind kind_for_rows(const struct item * item, int64_t head, int64_t position, int64_t count) {
    if (!item->a->mask) {
        return OPEN;
    }
    const int64_t rows = item->a->mask_heads == 1 ? item->queries : item->rows;
    const enum mask_kind kind = kind_of_mask(mask_at(item, head, 0, position), count);
    for (int64_t row = 1; row < rows; row++) {
        if (kind == MIXED || kind_of_mask(mask_at(item, head, row, position), count) != kind) {
            return MIXED;
        }
    }
    return kind;
}

// Where a head's part of a step lies. More rows than are multiplied at once would unpack again and again, so then it is unpacked here.
TMAC_INLINE struct step step_of(const struct item * item, const struct tmac_cache * cache, int64_t head,
                                int64_t position, int count, float * unpacked) {
    const int type = (int) cache->type;
    const uint8_t * at = cache_at(cache, item->sequence, head, position);
    if (item->rows > STREAM_ROWS && is_blocked(type)) {
        unpack_values(type, at, cache->position_bytes, count, count, cache->width, unpacked);
        return (struct step) {
            (const uint8_t *) unpacked, TMAC_CACHE_F32, count, cache->width, cache->width * (int64_t) sizeof(float), 0
        };
    }
    const int64_t blocks = is_blocked(type) ? cache->width / CACHE_BLOCK : cache->width;
    return (
        struct step) { at, type, count, cache->width, cache->position_bytes, blocks * tmac_cache_block_bytes(type) };
}

// Few rows: steps of positions. In each step K of all heads, then the weights of all, then V of all: so memory is read in its
// order, and the chain of operations that leads to a row's weights runs beside those of the others.
static void stream_item(const struct item * item, const float * slopes, const float * queries, float * states,
                        float * scratch) {
    const struct tmac_attention * a = item->a;
    const int64_t stride = item->plan->state_floats, rows = item->rows;
    float *scores = scratch, *factors = scores + item->heads * rows * STEP, *kinds = factors + item->heads * rows;
    float * unpacked = kinds + item->heads;
    for (int64_t position = item->first; position < item->last; position += STEP) {
        const int count = item->last - position < STEP ? (int) (item->last - position) : STEP;
        const int is_shared = !a->mask || a->mask_heads == 1;
        const enum mask_kind shared = is_shared ? kind_for_rows(item, item->first_head, position, count) : MIXED;
        if (shared == BLOCKED) {
            continue;
        }
        for (int64_t i = 0; i < item->heads; i++) {
            const int64_t head = item->first_head + i;
            kinds[i] = (float) (is_shared ? shared : kind_for_rows(item, head, position, count));
            if (kinds[i] != BLOCKED) {
                const struct step k = step_of(item, a->keys, head, position, count, unpacked);
                step_scores(rows, &k, queries + i * rows * a->keys->width, scores + i * rows * STEP);
            }
        }
        for (int64_t i = 0; i < item->heads; i++) {
            if (kinds[i] != BLOCKED) {
                weights_of_rows(item, item->first_head + i, position, count, STEP, kinds[i] == OPEN, slopes,
                                scores + i * rows * STEP, states + i * rows * stride, factors + i * rows);
            }
        }
        for (int64_t i = 0; i < item->heads; i++) {
            if (kinds[i] != BLOCKED) {
                const struct step v = step_of(item, a->values, item->first_head + i, position, count, unpacked);
                step_values(rows, &v, scores + i * rows * STEP, factors + i * rows, states + i * rows * stride, stride);
            }
        }
    }
}

// Many rows of one KV head.
static void tile_item(const struct item * item, int64_t padded_rows, const float * slopes, const float * queries,
                      float * states, float * scratch) {
    const struct tmac_attention * a = item->a;
    const int64_t stride = item->plan->state_floats, head = item->first_head;
    const int64_t key_width = a->keys->width, value_width = a->values->width;
    float *scores = scratch, *keys = scores + padded_rows * BLOCK_POSITIONS;
    float *values = keys + key_width * BLOCK_POSITIONS, *factors = values + value_width * BLOCK_POSITIONS;
    for (int64_t position = item->first; position < item->last; position += BLOCK_POSITIONS) {
        const int64_t left = item->last - position;
        const int count = left < BLOCK_POSITIONS ? (int) left : BLOCK_POSITIONS;
        const enum mask_kind kind = kind_for_rows(item, head, position, count);
        if (kind == BLOCKED) {
            continue;
        }
        unpack_keys((int) a->keys->type, cache_at(a->keys, item->sequence, head, position), a->keys->position_bytes,
                    count, key_width, keys);
        multiply_block(0, queries, key_width, keys, BLOCK_POSITIONS, padded_rows, BLOCK_POSITIONS, key_width, scores,
                       BLOCK_POSITIONS);
        weights_of_rows(item, head, position, count, BLOCK_POSITIONS, kind == OPEN, slopes, scores, states, factors);
        for (int64_t row = 0; row < item->rows; row++) {
            float * sums = states + row * stride;
            for (int64_t d = 0; factors[row] != 1 && d < value_width; d += FLOATS) {
                store_floats(sums + d, multiply_floats(load_floats(sums + d), broadcast(factors[row])));
            }
        }
        unpack_values((int) a->values->type, cache_at(a->values, item->sequence, head, position),
                      a->values->position_bytes, count, BLOCK_POSITIONS, value_width, values);
        multiply_block(1, scores, BLOCK_POSITIONS, values, value_width, padded_rows, value_width, BLOCK_POSITIONS,
                       states, stride);
    }
}

// Where the state or the result of a row belongs.
TMAC_INLINE int64_t place_of_row(const struct item * item, int64_t head, int64_t row) {
    const int64_t of = head * item->plan->group + row / item->queries;
    return (item->sequence * item->a->heads + of) * item->a->queries + item->first_query + row % item->queries;
}

TMAC_INLINE void attend(const struct tmac_attention * a, const struct tmac_attention_plan * plan, int64_t n,
                        float * shared, float * scratch) {
    const struct item item = item_of(a, plan, n);
    const int64_t rows = item.heads * item.rows, stride = plan->state_floats, width = a->values->width;
    const int64_t padded = plan->is_tiled ? (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS : rows;
    float *queries = scratch, *states = queries + padded * a->keys->width, *slopes = states + padded * stride;
    float * rest = slopes + a->heads;
    for (int64_t head = 0; head < a->heads; head++) {
        slopes[head] = tmac_attention_slope(a, head);
    }
    for (int64_t i = 0; i < item.heads; i++) {
        scale_queries(&item, item.first_head + i, queries + i * item.rows * a->keys->width);
    }
    memset(queries + rows * a->keys->width, 0, (size_t) ((padded - rows) * a->keys->width) * sizeof(float));
    clear_states(states, padded, stride, width);
    if (plan->is_tiled) {
        tile_item(&item, padded, slopes, queries, states, rest);
    } else {
        stream_item(&item, slopes, queries, states, rest);
    }
    for (int64_t row = 0; row < rows; row++) {
        const int64_t place = place_of_row(&item, item.first_head + row / item.rows, row % item.rows);
        if (plan->ranges == 1) {
            tmac_attention_finish(a, place, 1, states + row * stride, 0);
        } else {
            memcpy(shared + (n % plan->ranges * plan->rows + place) * stride, states + row * stride,
                   (size_t) stride * sizeof(float));
        }
    }
}
