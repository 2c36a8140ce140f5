// Scores to weights: mask, cap, running maximum, exponentials. Needs the vocabulary of an instruction set.
#pragma once

#include "attention/exponential.h"

enum { MINUS_INFINITY = 0xFC00 }; // as fp16: blocked

enum mask_kind { OPEN, MIXED, BLOCKED }; // all zero; neither; all -infinity

// What was seen of a mask: the bits that are set anywhere, and those in which anything differs from -infinity.
struct mask_bits {
    uint16_t set, differing;
};

TMAC_INLINE void look_at_mask(struct mask_bits * bits, const uint16_t * mask, int64_t count) {
    uint16_t set = bits->set, differing = bits->differing;
    for (int64_t i = 0; i < count; i++) {
        set |= mask[i];
        differing |= mask[i] ^ MINUS_INFINITY;
    }
    *bits = (struct mask_bits) { set, differing };
}

TMAC_INLINE enum mask_kind kind_of_mask(const struct mask_bits * bits) {
    return !bits->differing ? BLOCKED : bits->set ? MIXED : OPEN;
}

// What the scores of a row go through.
struct row_rules {
    const uint16_t * mask; // at its first position; NULL: open everywhere
    float slope;           // of the mask
    float soft_cap;        // 0: none; then scores are in units of it
};

// Of a row: the `sum` of the weights e^(score - origin) so far. The origin is the largest score, or up to MOST_ABOVE
// less: sums of V are scaled only when it moves. At the beginning -FLT_MAX and 0: a finite number, because rows may be
// blocked everywhere.
struct running {
    float origin, sum;
};

// Weights are at most e^8 then, which leaves sums of floats as precise as they are.
#define MOST_ABOVE 8.0f

// Turns the first `count` of s[0 .. padded) into weights, the rest into 0; `padded` is a multiple of FLOATS. Adds them
// to the FLOATS sums `lanes`. Returns the factor for all weights before, which `lanes` are multiplied by.
TMAC_INLINE float weights_of_scores(float * s, int count, int padded, const struct row_rules * rules, float * origin_at,
                                    float * lanes) {
    if (rules->soft_cap != 0) {
        for (int i = 0; i < padded; i += FLOATS) {
            const floats capped = hyperbolic_tangent(load_floats(s + i));
            store_floats(s + i, multiply_floats(capped, broadcast(rules->soft_cap)));
        }
    }
    if (rules->mask) {
        const floats slope = broadcast(rules->slope);
        for (int i = 0; i < count; i += FLOATS) {
            uint16_t some[FLOATS];
            const uint16_t * mask = rules->mask + i;
            if (count - i < FLOATS) {
                memset(some, 0, sizeof some);
                memcpy(some, mask, (size_t) (count - i) * sizeof some[0]);
                mask = some;
            }
            store_floats(s + i, multiply_add(slope, floats_of_scales(mask), load_floats(s + i)));
        }
    }
    for (int i = count; i < padded; i++) {
        s[i] = -INFINITY;
    }
    const float before = *origin_at;
    floats largest = load_floats(s);
    for (int i = FLOATS; i < padded; i += FLOATS) {
        largest = larger_floats(largest, load_floats(s + i));
    }
    // Most steps end here: a comparison is done sooner than the largest of a register's lanes is known.
    float factor = 1;
    if (any_above(largest, before + MOST_ABOVE)) {
        float factors[FLOATS];
        *origin_at = largest_of_floats(largest);
        store_floats(factors, exponential(broadcast(before - *origin_at)));
        factor = factors[0];
    }
    const floats origin = broadcast(*origin_at);
    floats sum = multiply_floats(load_floats(lanes), broadcast(factor));
    for (int i = 0; i < padded; i += FLOATS) {
        const floats weights = exponential(subtract_floats(load_floats(s + i), origin));
        store_floats(s + i, weights);
        sum = add_floats(sum, weights);
    }
    store_floats(lanes, sum);
    return factor;
}
