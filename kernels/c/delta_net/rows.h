// Rows of the state of a gated delta net. Needs the vocabulary of an instruction set.
//
// A row has its own value and its own result, and nothing of the others. So a block of rows goes through all tokens
// while it is in first-level cache, and a state is read from memory once and written once, however many tokens there are.
#pragma once

#if !defined FLOATS
#error "delta_net/rows.h: include a vocabulary (isa/) before"
#endif

#include "interface/catalog.h"

#include <math.h>
#include <string.h>

// Registers that hold the keys and the queries of heads of the usual width: with AVX-512 they fit beside the sums.
enum { USUAL_WIDTH = 128, HELD = FLOATS == 16 ? USUAL_WIDTH / FLOATS : 1 };

// A vector in memory, whose first part may be in registers.
struct operand {
    const float * at;
    floats held[HELD];
};

TMAC_INLINE int is_held(int64_t width) { return HELD > 1 && width == USUAL_WIDTH; }

TMAC_INLINE struct operand operand_at(const char * at, int64_t width) {
    struct operand operand;
    operand.at = (const float *) at;
    for (int i = 0; i < HELD && is_held(width); i++) {
        operand.held[i] = load_floats(operand.at + i * FLOATS);
    }
    return operand;
}

TMAC_INLINE floats floats_at(const struct operand * operand, int64_t d, int64_t width) {
    return is_held(width) ? operand->held[d / FLOATS % HELD] : load_floats(operand->at + d);
}

// What a token does to a head.
struct token {
    struct operand q, k;
    float decay, beta, scale;
};

TMAC_INLINE floats new_floats(const struct token * token, floats change, const float * row, int64_t d, int64_t width) {
    const floats kept = multiply_floats(broadcast(token->decay), load_floats(row + d));
    return multiply_add(change, floats_at(&token->k, d, width), kept);
}

// As many rows as a register has floats: row r becomes decay * row + change[r] * k, where change is
// beta * (v - decay * row k), and its result is scale * (the new row) q. `to` may be `from`. Each sum is in two registers,
// because an addition takes longer than the next one waits.
TMAC_INLINE void update_rows(const struct token * token, int64_t width, const float * v, const float * from, float * to,
                             float * out) {
    float change[FLOATS];
    floats sums[FLOATS];
    const floats decay = broadcast(token->decay);
    for (int r = 0; r < FLOATS; r++) {
        const float * row = from + r * width;
        floats even = broadcast(0), odd = broadcast(0);
        for (int64_t d = 0; d < width; d += 2 * FLOATS) {
            even = multiply_add(load_floats(row + d), floats_at(&token->k, d, width), even);
            odd = multiply_add(load_floats(row + d + FLOATS), floats_at(&token->k, d + FLOATS, width), odd);
        }
        sums[r] = add_floats(even, odd);
    }
    const floats away = subtract_floats(load_floats(v), multiply_floats(decay, sums_of_registers(sums)));
    store_floats(change, multiply_floats(broadcast(token->beta), away));
    for (int r = 0; r < FLOATS; r++) {
        const float * row = from + r * width;
        floats even = broadcast(0), odd = broadcast(0);
        for (int64_t d = 0; d < width; d += 2 * FLOATS) {
            const floats first = new_floats(token, broadcast(change[r]), row, d, width);
            const floats second = new_floats(token, broadcast(change[r]), row, d + FLOATS, width);
            store_floats(to + r * width + d, first);
            store_floats(to + r * width + d + FLOATS, second);
            even = multiply_add(first, floats_at(&token->q, d, width), even);
            odd = multiply_add(second, floats_at(&token->q, d + FLOATS, width), odd);
        }
        sums[r] = add_floats(even, odd);
    }
    store_floats(out, multiply_floats(broadcast(token->scale), sums_of_registers(sums)));
}

// All tokens of block number `index`; `width` is that of the delta net, or a constant that equals it.
TMAC_INLINE void update_block(const struct tmac_delta_net * n, int64_t width, int64_t index) {
    const int64_t blocks = width / TMAC_DELTA_ROWS, row = index % blocks * TMAC_DELTA_ROWS;
    const int64_t head = index / blocks % n->heads, sequence = index / blocks / n->heads, group = head % n->groups;
    const char * q = (const char *) n->q + sequence * n->q_sequence_bytes + group * n->q_head_bytes;
    const char * k = (const char *) n->k + sequence * n->k_sequence_bytes + group * n->k_head_bytes;
    const char * v = (const char *) n->v + sequence * n->v_sequence_bytes + head * n->v_head_bytes;
    const int64_t first = (head * width + row) * width;
    const float * from = (const float *) ((const char *) n->from + sequence * n->from_sequence_bytes) + first;
    float * to = (float *) ((char *) n->to + sequence * n->to_sequence_bytes) + first;
    for (int64_t t = 0; t < n->tokens; t++) {
        const int64_t place = (sequence * n->tokens + t) * n->heads + head, age = n->tokens - 1 - t;
        const struct token token = { operand_at(q + t * n->q_token_bytes, width),
                                     operand_at(k + t * n->k_token_bytes, width), expf(n->gates[place]),
                                     n->betas[place], n->scale };
        for (int r = 0; r < TMAC_DELTA_ROWS; r += FLOATS) {
            update_rows(&token, width, (const float *) (v + t * n->v_token_bytes) + row + r, from + r * width,
                        to + r * width, n->out + place * width + row + r);
        }
        if (age > 0 && age < n->snapshots) {
            memcpy((char *) to + age * n->snapshot_bytes, to, (size_t) (TMAC_DELTA_ROWS * width) * sizeof(float));
        }
        from = to;
    }
}

TMAC_INLINE void update(const struct tmac_delta_net * n, int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; block++) {
        if (n->width == USUAL_WIDTH) {
            update_block(n, USUAL_WIDTH, block);
        } else {
            update_block(n, n->width, block);
        }
    }
}
