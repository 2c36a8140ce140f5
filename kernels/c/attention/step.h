// Few rows: a step of positions, and how it is asked for before it is needed. Part of attention/stream.h.
#pragma once

#include "attention/caches.h"

// K or V of one head at the STEP positions of a step.
struct step {
    const uint8_t * at;
    int type;
    int64_t width, position_bytes;
    int64_t ahead_bytes; // of a position that are asked for before they are needed
};

// Prefetchers lose the thread where a step ends with K or V and the other one begins, so rows are asked for so many
// positions ahead. Measured on an Intel Xeon (Granite Rapids): 11.2 GB/s without, 12.4 with 4, 12.8 with 8, 12.2 with
// 16 and with 32.
enum { POSITIONS_AHEAD = 8 };

TMAC_INLINE void prefetch_row_ahead(const struct step * step, const uint8_t * row) {
    for (int64_t line = 0; line < step->ahead_bytes; line += 64) {
        prefetch(row + POSITIONS_AHEAD * step->position_bytes + line);
    }
}

// Positions whose products with a register of Q are computed together.
enum { TOGETHER = FLOATS < 4 ? FLOATS : 4 };
