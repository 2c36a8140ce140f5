// Gated delta nets with AVX2.
#include "isa/avx2.h"

#include "delta_net/convolution.h"
#include "delta_net/rows.h"
