// Sums in the order of rows, as floats, for gemm/frame.h.
//
// Needs: what gemm/frame.h needs. Gives: put_rows, get_rows.
#pragma once

#include "gemm/frame.h"

TMAC_INLINE void put_rows(const int group, const floats rows[UNIT_VECTORS], float * sums) {
    for (int v = 0; v < UNIT_VECTORS; v++) {
        store_floats(sums + v * FLOATS, rows[v]);
    }
    (void) group;
}

TMAC_INLINE void get_rows(const int group, const float * sums, floats rows[UNIT_VECTORS]) {
    for (int v = 0; v < UNIT_VECTORS; v++) {
        rows[v] = load_floats(sums + v * FLOATS);
    }
    (void) group;
}
