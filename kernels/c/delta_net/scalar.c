// Gated delta nets with plain C.
#include "isa/scalar.h"

#include "delta_net/convolution.h"
#include "delta_net/rows.h"
