// GEMM for ternary weights by lookups in plain C: token by token.
//
// Needs: BITS, TRITS and PRECISION, which the generator defines. Gives: gemm.
#include "gemv/trits_scalar.c"

TMAC_INLINE void gemm(const int group, const int grid, const struct tmac_matrix * w, const struct tmac_activations * x,
                      float * const * y, int64_t tokens, int64_t first_tile, int64_t last_tile) {
    for (int64_t t = 0; t < tokens; t++) {
        gemv(group, grid, w, x + t, y[t], first_tile, last_tile);
    }
}
