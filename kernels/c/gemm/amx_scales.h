// Scales and zero-points of a weight group for the kernels whose weights are bfloat16: a weight is meaning * scale +
// offset, where a code's meaning is the code, or less half of the codes' range if there is no zero-point.
//
// Needs: BITS and PRECISION (weights/planes.h). Gives: load_scales, weigh and what they use.
#pragma once

#include "gemm/amx_codes.h"
#include "weights/groups.h"

// Of rows 0..15 and 16..31.
struct scales {
    floats scale[2], offset[2];
};

TMAC_INLINE struct scales load_scales(const int group, const int grid, const struct tmac_matrix * w, int64_t at) {
    struct scales scales = { .offset = { _mm512_setzero_ps() } };
    for (int i = 0; group && i < 2; i++) {
        const struct factors factors = factors_at(group, grid, w, at + i * FLOATS);
        scales.scale[i] = factors.scale;
        if (grid == TMAC_GRID_ZEROS) {
            scales.offset[i] = factors.offset * broadcast(per_offset(TMAC_GRID_ZEROS, 1)) * factors.scale;
        } else if (has_offsets(grid)) {
            scales.offset[i] = factors.offset;
        }
    }
    return scales;
}

// Lane i: that of row `first` + i / times, of 16.
TMAC_INLINE __m512 spread_rows(const int times, int first, __m512 rows) {
    int32_t lane[FLOATS];
    for (int i = 0; i < FLOATS; i++) {
        lane[i] = first + i / times;
    }
    return _mm512_permutexvar_ps(_mm512_loadu_si512(lane), rows);
}

// The meanings, repeated until they fill a register.
TMAC_INLINE __m512 code_meanings(int grid) {
    float meanings[FLOATS];
    for (int i = 0; i < FLOATS; i++) {
        meanings[i] = (float) (i & TOP_CODE) - (has_offsets(grid) ? 0 : BITS == 1 ? 0.5f : 1 << (BITS - 1));
    }
    return _mm512_loadu_ps(meanings);
}

TMAC_INLINE __m512 weigh(const int has_scales, const int grid, __m512 meaning, __m512 scale, __m512 offset) {
    return has_offsets(grid) ? multiply_add(meaning, scale, offset)
           : has_scales      ? _mm512_mul_ps(meaning, scale)
                             : meaning;
}
