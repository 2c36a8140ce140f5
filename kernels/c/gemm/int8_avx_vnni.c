// GEMM for weights of BITS bits and int8 activations with AVX-VNNI.
//
// Needs: BITS and PRECISION, which the generator defines. Gives: gemm (gemm/frame.h).
#include "isa/avx_vnni.h"
#include "gemm/int8_x86.h"
