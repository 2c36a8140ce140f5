// Gated delta nets with AVX-512.
#include "isa/avx512.h"

#include "delta_net/convolution.h"
#include "delta_net/rows.h"
