// Gated delta nets with NEON.
#include "isa/neon.h"

#include "delta_net/convolution.h"
#include "delta_net/rows.h"
