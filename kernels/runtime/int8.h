// What the kernels of int8 activations share.
#pragma once

#include "planes.h"

// What the symmetric zero-point (0.5 for 1 bit, else 2^(BITS-1)) takes off for each unit of the sum of x; stored ones are
// taken off later.
TMAC_INLINE float zero_factor(int has_zeros) { return has_zeros ? 0 : BITS == 1 ? -0.5f : -(float) (1 << (BITS - 1)); }
