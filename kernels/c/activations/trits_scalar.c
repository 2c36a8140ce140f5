// Builds the lookup tables of ternary weights in plain C.
//
// Needs: PREPARE_TRITS and PREPARE_EXACT_TRITS, the names of the functions that it gives (activations/trits.h).
#include "isa/scalar.h"

#include "activations/trits.h"

TMAC_INLINE void store_entries(uint8_t * to, const floats values[16 / FLOATS]) {
    for (int i = 0; i < 16; i++) {
        to[i] = (uint8_t) (int32_t) rintf(values[i]);
    }
}
