// The convolution before a gated delta net: each channel by itself, over the last few tokens. Needs the vocabulary of an
// instruction set.
//
// llama.cpp's graphs keep a window of each channel: the inputs of the tokens before, then those of the new tokens. So
// both functions turn squares of channels and tokens, in registers.
#pragma once

#if !defined FLOATS
#error "delta_net/convolution.h: include a vocabulary (isa/) before"
#endif

#include <math.h>
#include <string.h>

// The taps of all models so far: a constant unrolls the loops.
enum { USUAL_TAPS = 4 };

struct channels {
    int64_t sequence, first;
};

TMAC_INLINE struct channels channels_of(const struct tmac_convolution * c, int64_t block) {
    const int64_t blocks = c->channels / TMAC_CHANNEL_BLOCK;
    return (struct channels) { block / blocks, block % blocks * TMAC_CHANNEL_BLOCK };
}

TMAC_INLINE float * window_of(const struct tmac_convolution * c, const struct channels * at, int64_t r) {
    return c->window + (at->sequence * c->channels + at->first + r) * (c->taps - 1 + c->tokens);
}

// Fills the windows of a block of channels.
TMAC_INLINE void fill_block(const struct tmac_convolution * c, int64_t taps, int64_t block) {
    const struct channels at = channels_of(c, block);
    const float * before = (const float *) ((const char *) c->before + at.sequence * c->before_sequence_bytes);
    const char * x = (const char *) c->x + at.sequence * c->x_sequence_bytes + at.first * (int64_t) sizeof(float);
    const int64_t whole = c->tokens / FLOATS * FLOATS;
    for (int64_t r = 0; r < TMAC_CHANNEL_BLOCK; r++) {
        for (int64_t j = 0; j < taps - 1; j++) {
            window_of(c, &at, r)[j] = before[(at.first + r) * (taps - 1) + j];
        }
    }
    for (int64_t t = 0; t < whole; t += FLOATS) {
        for (int r = 0; r < TMAC_CHANNEL_BLOCK; r += FLOATS) {
            floats square[FLOATS];
            for (int i = 0; i < FLOATS; i++) {
                square[i] = load_floats((const float *) (x + (t + i) * c->x_token_bytes) + r);
            }
            transpose_floats(square);
            for (int i = 0; i < FLOATS; i++) {
                store_floats(window_of(c, &at, r + i) + taps - 1 + t, square[i]);
            }
        }
    }
    for (int64_t t = whole; t < c->tokens; t++) {
        for (int r = 0; r < TMAC_CHANNEL_BLOCK; r++) {
            window_of(c, &at, r)[taps - 1 + t] = ((const float *) (x + t * c->x_token_bytes))[r];
        }
    }
}

TMAC_INLINE void fill(const struct tmac_convolution * c, int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; block++) {
        if (c->taps == USUAL_TAPS) {
            fill_block(c, USUAL_TAPS, block);
        } else {
            fill_block(c, c->taps, block);
        }
    }
}

// out[t] = sum over j of weights[j] * window[t + j], in this order of j, for a block of channels.
TMAC_INLINE void convolve_block(const struct tmac_convolution * c, int64_t taps, int64_t block) {
    const struct channels at = channels_of(c, block);
    const float * weights = c->weights + at.first * taps;
    float * out = c->out + at.sequence * c->tokens * c->channels + at.first;
    const int64_t whole = c->tokens / FLOATS * FLOATS;
    for (int64_t t = 0; t < whole; t += FLOATS) {
        for (int r = 0; r < TMAC_CHANNEL_BLOCK; r += FLOATS) {
            floats square[FLOATS];
            for (int i = 0; i < FLOATS; i++) {
                const float * window = window_of(c, &at, r + i) + t;
                square[i] = broadcast(0);
                for (int64_t j = 0; j < taps; j++) {
                    square[i] =
                        multiply_add(broadcast(weights[(r + i) * taps + j]), load_floats(window + j), square[i]);
                }
            }
            transpose_floats(square);
            for (int i = 0; i < FLOATS; i++) {
                store_floats(out + (t + i) * c->channels + r, square[i]);
            }
        }
    }
    for (int64_t t = whole; t < c->tokens; t++) {
        for (int r = 0; r < TMAC_CHANNEL_BLOCK; r++) {
            float sum = 0;
            for (int64_t j = 0; j < taps; j++) {
                sum = fmaf(weights[r * taps + j], window_of(c, &at, r)[t + j], sum);
            }
            out[t * c->channels + r] = sum;
        }
    }
}

TMAC_INLINE void convolve(const struct tmac_convolution * c, int64_t first_block, int64_t last_block) {
    for (int64_t block = first_block; block < last_block; block++) {
        if (c->taps == USUAL_TAPS) {
            convolve_block(c, USUAL_TAPS, block);
        } else {
            convolve_block(c, c->taps, block);
        }
    }
}
