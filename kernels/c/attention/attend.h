// Computes an item of an attention (struct tmac_attention_plan). Needs the vocabulary of an instruction set, and the
// macros of attention/stream.h and attention/tile.h; TILES_OF_AMX chooses attention/amx_tile.h. Gives `attend`.
#pragma once

#include "interface/attention.h"
#include "interface/catalog.h"

#include "attention/caches.h"
#include "attention/softmax.h"
#include "attention/stream.h"
#if defined(TILES_OF_AMX)
#include "attention/amx_tile.h"
#else
#include "attention/float_tile.h"
#endif

// The plan reserves scratch memory for these.
_Static_assert((int) CHUNK_ROWS <= (int) MOST_CHUNK_ROWS && PADDED_ROWS - 1 <= (int) MOST_PADDING &&
                   FLOATS <= MOST_LANES,
               "interface/attention.h has less");

// An item has rows for each of its KV heads: its queries, for each query head of the group. Rows of all heads are
// numbered in this order, so row = (head * group + query head of the group) * queries + query, all from the item's
// first on.
struct item {
    const struct tmac_attention * a;
    const struct tmac_attention_plan * plan;
    int64_t sequence, first_head, heads; // KV heads
    int64_t first_query, queries;
    int64_t first, last; // positions
    int64_t head_rows;   // of a KV head
    // Of each row:
    const uint16_t ** masks; // from position 0 on; NULL: none
    float * slopes;
    float * queries_scaled; // [rows, width of K]
    float * states;         // [rows, plan->state_floats]: sum of V, then struct running
    float * lanes;          // [rows, FLOATS]: sums of weights, until the item ends
};

TMAC_INLINE struct item item_of(const struct tmac_attention * a, const struct tmac_attention_plan * plan, int64_t n) {
    struct item item = { .a = a, .plan = plan };
    const int64_t range = n % plan->ranges, query_part = n / plan->ranges % plan->query_parts;
    const int64_t head_part = n / plan->ranges / plan->query_parts % plan->head_parts;
    item.sequence = n / plan->ranges / plan->query_parts / plan->head_parts;
    item.first_head = head_part * plan->item_heads;
    item.heads = at_most(plan->item_heads, a->kv_heads - item.first_head);
    item.first_query = query_part * plan->item_queries;
    item.queries = at_most(plan->item_queries, a->queries - item.first_query);
    item.first = range * plan->range_positions;
    item.last = at_most(a->positions, item.first + plan->range_positions);
    item.head_rows = plan->group * item.queries;
    return item;
}

TMAC_INLINE const uint8_t * cache_at(const struct tmac_cache * cache, const struct item * item, int64_t head,
                                     int64_t position) {
    return cache->data + item->sequence * cache->sequence_bytes + (item->first_head + head) * cache->head_bytes +
           position * cache->position_bytes;
}

TMAC_INLINE struct running * running_of(const struct item * item, int64_t row) {
    return (struct running *) (item->states + row * item->plan->state_floats + item->a->values->width);
}

// Fills what there is for each row. Rows from `rows` to `padded` have queries of zeros.
static void begin_rows(const struct item * item, int64_t rows, int64_t padded) {
    const struct tmac_attention * a = item->a;
    const int64_t width = a->keys->width;
    const floats scale = broadcast(a->soft_cap != 0 ? a->scale / a->soft_cap : a->scale);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t query = item->first_query + row % item->queries;
        const int64_t head = item->first_head * item->plan->group + row / item->queries;
        const uint8_t * mask = (const uint8_t *) a->mask + query * a->mask_query_bytes +
                               head % a->mask_heads * a->mask_head_bytes +
                               item->sequence % a->mask_sequences * a->mask_sequence_bytes;
        const float * q = (const float *) ((const uint8_t *) a->q + query * a->query_bytes +
                                           head * a->query_head_bytes + item->sequence * a->query_sequence_bytes);
        item->masks[row] = a->mask ? (const uint16_t *) mask : NULL;
        item->slopes[row] = tmac_attention_slope(a, head);
        for (int64_t d = 0; d < width; d += FLOATS) {
            store_floats(item->queries_scaled + row * width + d, multiply_floats(load_floats(q + d), scale));
        }
    }
    memset(item->queries_scaled + rows * width, 0, (size_t) ((padded - rows) * width) * sizeof(float));
    memset(item->states, 0, (size_t) (padded * item->plan->state_floats) * sizeof(float));
    memset(item->lanes, 0, (size_t) (rows * FLOATS) * sizeof(float));
    for (int64_t row = 0; row < padded; row++) {
        running_of(item, row)->origin = -FLT_MAX;
    }
}

// Positions whose scores are computed together, for rows of one KV head.
struct span {
    int64_t position;
    int count, padded; // scores of a row begin `padded` floats behind those of the row before
    enum mask_kind kind;
};

// Turns the scores of rows [first, last) into weights. factors[i] is what the sums of V of row first + i must be
// multiplied by.
TMAC_INLINE void weights_of_rows(const struct item * item, const struct span * span, int64_t first, int64_t last,
                                 float * scores, float * factors) {
    for (int64_t row = first; row < last; row++) {
        const uint16_t * mask = span->kind == OPEN ? NULL : item->masks[row] + span->position;
        const struct row_rules rules = { mask, item->slopes[row], item->a->soft_cap };
        factors[row - first] = weights_of_scores(scores + (row - first) * span->padded, span->count, span->padded,
                                                 &rules, &running_of(item, row)->origin, item->lanes + row * FLOATS);
    }
}

// What rows [first, last) see of some positions.
static enum mask_kind kind_for_rows(const struct item * item, int64_t first, int64_t last, int64_t position,
                                    int64_t count) {
    if (!item->a->mask) {
        return OPEN;
    }
    struct mask_bits bits = { 0, 0 };
    for (int64_t row = first; row < last; row++) {
        look_at_mask(&bits, item->masks[row] + position, count);
    }
    return kind_of_mask(&bits);
}

// A head's part of a step. Blocked types of more rows than are multiplied at once are unpacked first, and once. Where
// fewer positions are left, the rest of the step is zeros.
TMAC_INLINE struct step step_of(const struct item * item, const struct tmac_cache * cache, int64_t head,
                                const struct span * span, float * scratch) {
    const int type = (int) cache->type;
    const uint8_t * at = cache_at(cache, item, head, span->position);
    if (item->head_rows > STREAM_ROWS && is_blocked(type)) {
        unpack_values(type, at, cache->position_bytes, span->count, STEP, cache->width, scratch);
        return (struct step) { (const uint8_t *) scratch, TMAC_CACHE_F32, cache->width,
                               cache->width * (int64_t) sizeof(float), 0 };
    }
    const int64_t blocks = is_blocked(type) ? cache->width / CACHE_BLOCK : cache->width;
    const int64_t row_bytes = blocks * tmac_cache_block_bytes(type);
    if (span->count < STEP) {
        uint8_t * to = (uint8_t *) scratch;
        for (int p = 0; p < span->count; p++, to += row_bytes, at += cache->position_bytes) {
            memcpy(to, at, (size_t) row_bytes);
        }
        memset(to, 0, (size_t) ((STEP - span->count) * row_bytes));
        return (struct step) { (const uint8_t *) scratch, type, cache->width, row_bytes, 0 };
    }
    return (struct step) { at, type, cache->width, cache->position_bytes, row_bytes };
}

// The next part of scratch memory, which begins at a multiple of 64 bytes.
TMAC_INLINE void * take(char ** scratch, int64_t bytes) {
    void * here = *scratch;
    *scratch += (bytes + 63) / 64 * 64;
    return here;
}

TMAC_INLINE float * take_floats(char ** scratch, int64_t count) {
    return take(scratch, count * (int64_t) sizeof(float));
}

// All rows of the item's queries, as scores are computed of.
static struct queries queries_of(const struct item * item, char ** scratch) {
    const int64_t rows = item->heads * item->head_rows, width = item->a->keys->width, blocks = width / CACHE_BLOCK;
    int16_t * const words = take(scratch, rows * width * (int64_t) sizeof(int16_t));
    float * const steps = take_floats(scratch, rows);
    float * const block_sums = take_floats(scratch, rows * blocks);
    const int type = (int) item->a->keys->type;
    // Of more rows, K is unpacked to floats.
    const int are_used = item->head_rows <= STREAM_ROWS && (is_of_words(type) || has_minimum(type));
    for (int64_t row = 0; row < rows && are_used; row++) {
        steps[row] =
            query_words(item->queries_scaled + row * width, width, words + row * width, block_sums + row * blocks);
    }
    return (struct queries) { item->queries_scaled, words, steps, block_sums };
}

TMAC_INLINE struct queries queries_from(const struct queries * all, int64_t row, int64_t width) {
    return (struct queries) { all->floats + row * width, all->words + row * width, all->steps + row,
                              all->block_sums + row * (width / CACHE_BLOCK) };
}

// Few rows: steps of positions. In each step K of all heads, then the weights of all, then V of all. So memory is read
// in its order, and the chain of operations that leads to a row's weights runs beside those of others.
static void stream_item(const struct item * item, char * scratch) {
    const struct tmac_attention * a = item->a;
    const int64_t stride = item->plan->state_floats, rows = item->head_rows, all_rows = item->heads * rows;
    float * const scores = take_floats(&scratch, all_rows * STEP);
    float * const factors = take_floats(&scratch, all_rows);
    float * const rows_of_step = take_floats(&scratch, (a->keys->width + a->values->width) * STEP);
    enum mask_kind * const kinds = take(&scratch, item->heads * (int64_t) sizeof(enum mask_kind));
    const struct queries queries = queries_of(item, &scratch);
    const int has_own_masks = a->mask && a->mask_heads > 1;
    for (int64_t position = item->first; position < item->last; position += STEP) {
        const int count = (int) at_most(STEP, item->last - position);
        struct span span = { position, count, STEP, OPEN };
        for (int64_t head = 0; head < item->heads; head++) {
            // All heads see what the queries of the first one see, unless heads have masks of their own.
            kinds[head] = has_own_masks ? kind_for_rows(item, head * rows, (head + 1) * rows, position, count)
                          : head == 0   ? kind_for_rows(item, 0, item->queries, position, count)
                                        : kinds[0];
            if (kinds[head] != BLOCKED) {
                const struct step k = step_of(item, a->keys, head, &span, rows_of_step);
                const struct queries q = queries_from(&queries, head * rows, a->keys->width);
                step_scores(rows, &k, &q, scores + head * rows * STEP);
            }
        }
        for (int64_t head = 0; head < item->heads; head++) {
            if (kinds[head] != BLOCKED) {
                span.kind = kinds[head];
                weights_of_rows(item, &span, head * rows, (head + 1) * rows, scores + head * rows * STEP,
                                factors + head * rows);
            }
        }
        for (int64_t head = 0; head < item->heads; head++) {
            if (kinds[head] != BLOCKED) {
                const struct step v = step_of(item, a->values, head, &span, rows_of_step);
                step_values(rows, &v, scores + head * rows * STEP, factors + head * rows,
                            item->states + head * rows * stride, stride);
            }
        }
    }
}

// Multiplies the sums of V of rows [first, last).
static void scale_sums(const struct item * item, int64_t first, int64_t last, const float * factors) {
    for (int64_t row = first; row < last; row++) {
        float * sums = item->states + row * item->plan->state_floats;
        const float factor = factors[row - first];
        for (int64_t d = 0; factor != 1 && d < item->a->values->width; d += FLOATS) {
            store_floats(sums + d, multiply_floats(load_floats(sums + d), broadcast(factor)));
        }
    }
}

// Many rows of one KV head: blocks of positions, and for each some of the rows at a time, whose scores and weights then
// stay in first-level cache.
static void tile_item(const struct item * item, int64_t padded, char * scratch) {
    const struct tmac_attention * a = item->a;
    const int64_t chunks = (padded + CHUNK_ROWS - 1) / CHUNK_ROWS;
    struct tiles tiles = { .keys = a->keys, .values = a->values, .all_rows = padded };
    tiles.queries = item->queries_scaled;
    tiles.states = item->states;
    tiles.stride = item->plan->state_floats;
    tiles.scores = take_floats(&scratch, CHUNK_ROWS * BLOCK_POSITIONS);
    tiles.block_keys = take(&scratch, a->keys->width * BLOCK_POSITIONS * SPLIT_BYTES);
    tiles.block_values = take(&scratch, a->values->width * BLOCK_POSITIONS * SPLIT_BYTES);
    tiles.split_weights = take(&scratch, CHUNK_ROWS * BLOCK_POSITIONS * SPLIT_BYTES);
    tiles.split_queries = take(&scratch, padded * a->keys->width * SPLIT_BYTES);
    enum mask_kind * const kinds = take(&scratch, chunks * (int64_t) sizeof(enum mask_kind));
    struct tile_config before;
    begin_tiles(&tiles, &before);
    for (int64_t position = item->first; position < item->last; position += BLOCK_POSITIONS) {
        struct span span = { position, (int) at_most(BLOCK_POSITIONS, item->last - position), BLOCK_POSITIONS, OPEN };
        int is_seen = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const int64_t last = at_most(item->head_rows, (chunk + 1) * CHUNK_ROWS);
            kinds[chunk] = kind_for_rows(item, chunk * CHUNK_ROWS, last, position, span.count);
            is_seen |= kinds[chunk] != BLOCKED;
        }
        if (is_seen) {
            load_block(&tiles, cache_at(a->keys, item, 0, position), cache_at(a->values, item, 0, position),
                       span.count);
        }
        for (int64_t first = 0; first < padded; first += CHUNK_ROWS) {
            const int64_t last = at_most(item->head_rows, first + CHUNK_ROWS);
            const int64_t rows = at_most(CHUNK_ROWS, padded - first);
            float factors[CHUNK_ROWS];
            span.kind = kinds[first / CHUNK_ROWS];
            if (span.kind != BLOCKED) {
                tile_scores(&tiles, first, rows);
                weights_of_rows(item, &span, first, last, tiles.scores, factors);
                scale_sums(item, first, last, factors);
                tile_values(&tiles, first, rows);
            }
        }
    }
    end_tiles(&tiles, &before);
}

TMAC_INLINE void attend(const struct tmac_attention * a, const struct tmac_attention_plan * plan, int64_t n,
                        float * shared, void * memory) {
    struct item item = item_of(a, plan, n);
    const int64_t rows = item.heads * item.head_rows, stride = plan->state_floats;
    const int64_t padded = plan->is_tiled ? (rows + PADDED_ROWS - 1) / PADDED_ROWS * PADDED_ROWS : rows;
    char * scratch = memory;
    item.masks = take(&scratch, rows * (int64_t) sizeof *item.masks);
    item.slopes = take_floats(&scratch, rows);
    item.queries_scaled = take_floats(&scratch, padded * a->keys->width);
    item.states = take_floats(&scratch, padded * stride);
    item.lanes = take_floats(&scratch, rows * FLOATS);
    begin_rows(&item, rows, padded);
    if (plan->is_tiled) {
        tile_item(&item, padded, scratch);
    } else {
        stream_item(&item, scratch);
    }
    for (int64_t row = 0; row < rows; row++) {
        running_of(&item, row)->sum = sum_of_floats(load_floats(item.lanes + row * FLOATS));
        const int64_t head = item.first_head * plan->group + row / item.queries;
        const int64_t query = item.first_query + row % item.queries;
        const int64_t place = (item.sequence * a->heads + head) * a->queries + query;
        if (plan->ranges == 1) {
            tmac_attention_finish(a, place, 1, item.states + row * stride, 0);
        } else {
            memcpy(shared + (n % plan->ranges * plan->rows + place) * stride, item.states + row * stride,
                   (size_t) stride * sizeof(float));
        }
    }
}
