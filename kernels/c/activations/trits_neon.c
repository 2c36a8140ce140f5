// Builds the lookup tables of ternary weights with NEON.
//
// Needs: PREPARE_TRITS and PREPARE_EXACT_TRITS, the names of the functions that it gives (activations/trits.h).
#include "isa/neon.h"

#include "activations/trits.h"

TMAC_INLINE void store_entries(uint8_t * to, const floats values[16 / FLOATS]) {
    int16x4_t words[4];
    for (int i = 0; i < 4; i++) {
        words[i] = vmovn_s32(vcvtnq_s32_f32(values[i]));
    }
    vst1_s8((int8_t *) to, vmovn_s16(vcombine_s16(words[0], words[1])));
    vst1_s8((int8_t *) to + 8, vmovn_s16(vcombine_s16(words[2], words[3])));
}
