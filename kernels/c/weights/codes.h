// Weights as integers, the codes: what the kernels of int8 activations share.
//
// Needs: BITS and PRECISION (weights/planes.h). Gives: start_factor, for weights/groups.h.
#pragma once

#include "weights/planes.h"

// The symmetric zero-point (0.5 for 1 bit, else 2^(BITS-1)) is taken off at the start; stored ones are taken off later.
TMAC_INLINE float start_factor(int grid) {
    return has_offsets(grid) ? 0 : BITS == 1 ? -0.5f : -(float) (1 << (BITS - 1));
}
