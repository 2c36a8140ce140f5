// Rounds activations to int8, with a scale per 32 columns or (exact) one per vector.
//
// Needs: PREPARE_INT8 and PREPARE_EXACT_INT8, the names of the functions that it gives.
#include "activations/int8_rows.h"
#include "interface/catalog.h"

#if !defined(PREPARE_INT8) || !defined(PREPARE_EXACT_INT8)
#error "activations/int8.c: define PREPARE_INT8 and PREPARE_EXACT_INT8 before it"
#endif

void PREPARE_INT8(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                  const struct tmac_activations * to) {
    round_to_int8(x, first_block, last_block, to);
}

void PREPARE_EXACT_INT8(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                        const struct tmac_activations * to) {
    round_to_exact_int8(x, first_block, last_block, to);
}
