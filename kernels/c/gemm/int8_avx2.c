// GEMM for weights of BITS bits and int8 activations with AVX2.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx2.h"
#include "gemm/int8_x86.h"
