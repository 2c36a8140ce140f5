// How an attention is cut into items, and how the states of ranges of positions are put together.
#include "attention.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    // So many items keep many threads busy, and one slow thread holds up little.
    WANTED_ITEMS = 32,
    // The KV heads of an item that streams are split into parts as long as there are no more items than this. Not
    // further: the heads of a position lie side by side, and whole rows are read up to 1.5 times as fast as half of each.
    LEAST_ITEMS = 16,
    // A shorter range would cost more to put together than it saves.
    LEAST_RANGE = 64,
    // Rows of an item that tiles: unpacking a block of K and V then takes a small part of the time.
    ITEM_ROWS = 512,
    // Parts of scratch memory that begin at a multiple of 64 bytes, or more.
    ALIGNED_PARTS = 16,
};

static int64_t at_least(int64_t least, int64_t value) { return value > least ? value : least; }
static int64_t parts_of(int64_t total, int64_t part) { return (total + part - 1) / part; }

// As attention/attend.h takes it.
static size_t scratch_bytes(const struct tmac_attention * a, const struct tmac_attention_plan * plan) {
    const int64_t widths = a->keys->width + a->values->width, float_bytes = (int64_t) sizeof(float);
    const int64_t padding = plan->is_tiled ? MOST_PADDING : 0;
    const int64_t rows = plan->item_heads * plan->group * plan->item_queries + padding;
    const int64_t row_floats = 1 + a->keys->width + plan->state_floats + MOST_LANES;
    int64_t bytes = rows * ((int64_t) sizeof(void *) + row_floats * float_bytes);
    if (plan->is_tiled) {
        const int64_t split = MOST_CHUNK_ROWS * BLOCK_POSITIONS + widths * BLOCK_POSITIONS + rows * a->keys->width;
        bytes += (MOST_CHUNK_ROWS * BLOCK_POSITIONS + rows) * float_bytes + split * SPLIT_BYTES;
    } else {
        // Of queries as words and their sums, half of the floats and one of 32 and one more are enough.
        const int64_t of_words = a->keys->width / 2 + a->keys->width / 32 + 1;
        bytes += (rows * (STEP + 1 + of_words) + widths * STEP + plan->item_heads) * float_bytes;
    }
    return (size_t) bytes + ALIGNED_PARTS * 64;
}

struct tmac_attention_plan tmac_plan_attention(const struct tmac_attention * a,
                                               const struct tmac_attention_kernel * kernel) {
    struct tmac_attention_plan plan = { 0 };
    plan.group = a->heads / a->kv_heads;
    plan.is_tiled = plan.group * a->queries >= kernel->tiled_from_rows;
    plan.item_queries = plan.is_tiled ? at_most(a->queries, at_least(1, ITEM_ROWS / plan.group)) : a->queries;
    plan.query_parts = parts_of(a->queries, plan.item_queries);
    plan.item_queries = parts_of(a->queries, plan.query_parts);
    const int64_t others = a->sequences * plan.query_parts * (plan.is_tiled ? a->kv_heads : 1);
    const int64_t ranges = at_most(parts_of(a->positions, LEAST_RANGE), parts_of(WANTED_ITEMS, others));
    plan.range_positions = parts_of(parts_of(a->positions, ranges), BLOCK_POSITIONS) * BLOCK_POSITIONS;
    plan.ranges = parts_of(a->positions, plan.range_positions);
    const int64_t head_parts = at_least(1, LEAST_ITEMS / (others * plan.ranges));
    plan.item_heads = plan.is_tiled ? 1 : parts_of(a->kv_heads, head_parts);
    plan.head_parts = parts_of(a->kv_heads, plan.item_heads);
    plan.items = a->sequences * plan.head_parts * plan.query_parts * plan.ranges;
    plan.rows = a->sequences * a->heads * a->queries;
    plan.state_floats = a->values->width + 16;
    plan.scratch_bytes = scratch_bytes(a, &plan);
    plan.shared_bytes = plan.ranges > 1 ? (size_t) (plan.ranges * plan.rows * plan.state_floats) * sizeof(float) : 0;
    return plan;
}

const struct tmac_attention_kernel * tmac_select_attention(uint32_t cpu_features, const char * forced, char * error,
                                                           size_t error_size) {
    int is_known = 0;
    for (size_t i = 0; i < tmac_attention_kernel_count; i++) {
        const struct tmac_attention_kernel * kernel = &tmac_attention_kernels[i];
        const int is_meant =
            !forced || !forced[0] || strcmp(forced, kernel->isa) == 0 || strcmp(forced, kernel->name) == 0;
        is_known |= is_meant;
        if (is_meant && (kernel->cpu_features & ~cpu_features) == 0) {
            return kernel;
        }
    }
    snprintf(error, error_size, "TMAC_ATTENTION=%s: %s", forced,
             is_known ? "this CPU lacks the instructions" : "no attention kernel or instruction set has this name");
    return NULL;
}

float tmac_attention_slope(const struct tmac_attention * a, int64_t head) {
    if (a->largest_bias <= 0) {
        return 1;
    }
    // Press et al. 2022, "Train Short, Test Long": a geometric sequence over the largest power of two of heads, and for
    // the other heads every second member of the one that is twice as dense.
    int64_t whole = 1;
    while (2 * whole <= a->heads) {
        whole *= 2;
    }
    const int is_within = head < whole;
    const float base = exp2f(-a->largest_bias / (float) (is_within ? whole : 2 * whole));
    return powf(base, (float) (is_within ? head + 1 : 2 * (head - whole) + 1));
}

void tmac_attention_finish(const struct tmac_attention * a, int64_t row, int64_t ranges, const float * states,
                           int64_t stride) {
    const int64_t width = a->values->width, query = row % a->queries, head = row / a->queries % a->heads;
    const int64_t sequence = row / a->queries / a->heads;
    float * out = a->out + ((sequence * a->queries + query) * a->heads + head) * width;
    float largest = a->sinks ? a->sinks[head] : -FLT_MAX, sum = 0;
    for (int64_t range = 0; range < ranges; range++) {
        const float * state = states + range * stride;
        largest = state[width + 1] != 0 && !(state[width] <= largest) ? state[width] : largest;
    }
    memset(out, 0, (size_t) width * sizeof(float));
    for (int64_t range = 0; range < ranges; range++) {
        const float * state = states + range * stride;
        if (state[width + 1] == 0) {
            continue; // blocked everywhere
        }
        const float factor = expf(state[width] - largest);
        sum += factor * state[width + 1];
        for (int64_t d = 0; d < width; d++) {
            out[d] += factor * state[d];
        }
    }
    sum += a->sinks ? expf(a->sinks[head] - largest) : 0;
    const float scale = sum == 0 ? 0 : 1 / sum;
    for (int64_t d = 0; d < width; d++) {
        out[d] *= scale;
    }
}

void tmac_attention_merge(const struct tmac_attention * a, const struct tmac_attention_plan * plan,
                          const float * shared, int64_t first_row, int64_t last_row) {
    for (int64_t row = first_row; row < last_row && plan->ranges > 1; row++) {
        tmac_attention_finish(a, row, plan->ranges, shared + row * plan->state_floats, plan->rows * plan->state_floats);
    }
}
