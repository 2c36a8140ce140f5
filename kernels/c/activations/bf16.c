// Rounds activations to bfloat16.
//
// Needs: PREPARE_BF16, the name of the function that it gives.
#include "activations/bf16_rows.h"
#include "interface/catalog.h"

#ifndef PREPARE_BF16
#error "activations/bf16.c: define PREPARE_BF16 before it"
#endif

void PREPARE_BF16(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                  const struct tmac_activations * to) {
    round_to_bf16(x, first_block, last_block, to);
}
