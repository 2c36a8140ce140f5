// The Walsh-Hadamard transform of a block, in the vocabulary of an instruction set. Pairs of stride 1, 2, 4, ... are
// replaced by their sum and their difference, in this order for every element and on every instruction set, and the
// scale comes last: so all kernels round alike.
#pragma once

#include "interface/catalog.h"

enum { AT_ONCE = 8 }; // registers that are transformed together

// Strides of 1, 2, 4, ... registers.
TMAC_INLINE void butterflies(floats v[AT_ONCE], int count) {
    for (int stride = 1; stride < count; stride *= 2) {
        for (int i = 0; i < count; i++) {
            if (!(i & stride)) {
                const floats a = v[i], b = v[i + stride];
                v[i] = add_floats(a, b);
                v[i + stride] = subtract_floats(a, b);
            }
        }
    }
}

TMAC_INLINE floats times_signs(floats v, const float * signs, int64_t at) {
    return signs ? multiply_floats(v, load_floats(signs + at)) : v;
}

// Strides of `stride`, 2 * stride, ... count / 2 * stride floats for all of a block; where these are the last ones,
// also what follows them.
TMAC_INLINE void strides(float * y, int64_t size, int64_t stride, int count, float scale, const float * after) {
    const int is_last = stride * count == size;
    for (int64_t base = 0; base < size; base += stride * count) {
        for (int64_t at = base; at < base + stride; at += FLOATS) {
            floats v[AT_ONCE];
            for (int i = 0; i < count; i++) {
                v[i] = load_floats(y + at + i * stride);
            }
            butterflies(v, count);
            for (int i = 0; i < count; i++) {
                if (is_last) {
                    v[i] = times_signs(multiply_floats(v[i], broadcast(scale)), after, at + i * stride);
                }
                store_floats(y + at + i * stride, v[i]);
            }
        }
    }
}

// Blocks that do not fill a register.
TMAC_INLINE void transform_few(const float * x, const float * before, const float * after, float scale, int size,
                               float * y) {
    for (int i = 0; i < size; i++) {
        y[i] = before ? x[i] * before[i] : x[i];
    }
    for (int stride = 1; stride < size; stride *= 2) {
        for (int i = 0; i < size; i++) {
            if (!(i & stride)) {
                const float a = y[i], b = y[i + stride];
                y[i] = a + b;
                y[i + stride] = a - b;
            }
        }
    }
    for (int i = 0; i < size; i++) {
        y[i] *= scale;
        y[i] *= after ? after[i] : 1;
    }
}

// y = after * (H (before * x) * scale) of a block of `size` floats; x may be y.
TMAC_INLINE void transform(const float * x, const float * before, const float * after, float scale, int64_t size,
                           float * y) {
    if (size < FLOATS) {
        transform_few(x, before, after, scale, (int) size, y);
        return;
    }
    for (int64_t i = 0; i < size; i += FLOATS) {
        store_floats(y + i, butterflies_in_register(times_signs(load_floats(x + i), before, i)));
    }
    int64_t stride = FLOATS;
    for (; stride * 8 <= size; stride *= 8) {
        strides(y, size, stride, 8, scale, after);
    }
    switch (size / stride) {
        case 4: strides(y, size, stride, 4, scale, after); break;
        case 2: strides(y, size, stride, 2, scale, after); break;
        default:
            if (size == FLOATS) { // no pass was the last one
                strides(y, size, stride, 1, scale, after);
            }
    }
}
