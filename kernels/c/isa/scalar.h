// The vocabulary of plain C: a register of floats is one float.
#pragma once

#include "activations/vector.h"

#define FLOATS 1 // in a register

typedef float floats;

TMAC_INLINE floats load_floats(const float * from) { return *from; }
TMAC_INLINE void store_floats(float * to, floats value) { *to = value; }
TMAC_INLINE floats broadcast(float value) { return value; }
TMAC_INLINE floats multiply_add(floats a, floats b, floats c) { return fmaf(a, b, c); }
TMAC_INLINE floats floats_of_scales(const uint16_t * from) { return fp16_to_float(*from); }
TMAC_INLINE floats floats_of_zeros(const uint8_t * from) { return (float) *from; }
