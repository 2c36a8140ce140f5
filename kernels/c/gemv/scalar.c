// GEMV for weights of BITS bits in plain C: the reference that every other kernel equals bit for bit, and the portable
// fallback.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemv (gemv/scalar.h).
#include "gemv/scalar.h"
