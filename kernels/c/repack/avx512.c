// Repacks llama.cpp's own types with AVX-512.
#include <immintrin.h>

#include "repack/line_avx2.h"
#include "repack/tile.h"

TMAC_INLINE void masks_of(const uint8_t * codes, int cols, int bits, uint16_t * masks, int stride) {
    for (int chunk = 0; chunk < cols / TMAC_CHUNK_COLS; chunk += 2) {
        const __m256i here = _mm256_loadu_si256((const __m256i *) (codes + TMAC_CHUNK_COLS * chunk));
        for (int plane = 0; plane < bits; plane++) {
            const uint32_t mask = _mm256_test_epi8_mask(here, _mm256_set1_epi8((char) (1 << plane)));
            uint16_t * const to = masks + (plane * STEP_CHUNKS + chunk) * stride;
            to[0] = (uint16_t) mask;
            to[stride] = (uint16_t) (mask >> 16);
        }
    }
}

#include "repack/walk.h"
