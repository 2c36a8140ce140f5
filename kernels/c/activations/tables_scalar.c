// Builds lookup tables in plain C; every other builder writes the same bytes.
//
// Needs: PREPARE_TABLES and PREPARE_EXACT_TABLES, the names of the functions that it gives (activations/tables.h).
#include "activations/vector.h"

struct values {
    float quad[TMAC_TABLE_GROUP / 4][16];
};
#include "activations/tables.h"

TMAC_INLINE void values_of_group(const float * quad, struct values * values, float * top, float * sum) {
    *top = 0;
    for (int q = 0; q < QUADS; q++, quad += 4) {
        for (int i = 0; i < 16; i++) {
            float value = i & 1 ? quad[0] : -quad[0];
            for (int u = 1; u < 4; u++) {
                value += i >> u & 1 ? quad[u] : -quad[u];
            }
            *top = *top > fabsf(value) ? *top : fabsf(value);
            values->quad[q][i] = value;
        }
        *sum = q ? *sum + values->quad[q][15] : values->quad[q][15];
    }
}

TMAC_INLINE void round_values(const struct values * values, float factor, int usable, uint8_t * entries) {
    for (int q = 0; q < QUADS; q++) {
        for (int i = 0; i < 16; i++) {
            entries[16 * q + i] = (uint8_t) (usable ? lrintf(values->quad[q][i] * factor) : 0);
        }
    }
}
