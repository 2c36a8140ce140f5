// GEMV for weights of BITS bits with AVX2: half a plane line, two quads for 32 rows, in a register. Needs: BITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "gemv/rows_avx2.h"
#include "gemv/shuffle.h"
#include "gemv/walk.h"

#ifndef PREFETCH
#error "gemv/avx2.c: define PREFETCH, in bytes ahead, before it"
#endif

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    for (int s = 0; s < streams; s++) {
        __m256 total[4] = { _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps() };
        for (int64_t a = first; a < first + count; a++) {
            for (int line = 0; line < CHUNKS * BITS; line++) {
                prefetch(lines[s] + line * LINE + PREFETCH);
            }
            const struct sums sums = sums_of_group(lines[s], x->entries + a * GROUP_ENTRIES);
            const __m256 step = _mm256_set1_ps((float) step_of(x, a));
            for (int i = 0; i < 4; i++) {
                total[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_of_lanes(IS_EXACT, words_of_rows(&sums, i))), step,
                                           total[i]);
            }
            lines[s] += CHUNKS * BITS * LINE;
        }
        for (int i = 0; i < 4; i++) {
            part[s][i] = _mm256_fmadd_ps(total[i], _mm256_set1_ps(x->scale[first / BLOCK_GROUPS]), part[s][i]);
        }
    }
}

TMAC_INLINE void add_chunk(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t chunk,
                           floats part[][REGISTERS]) {
    const __m256 step = _mm256_set1_ps((float) step_of(x, chunk / CHUNKS));
    const __m256 scale = _mm256_set1_ps(x->scale[chunk / CHUNKS / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        for (int line = 0; line < BITS; line++) {
            prefetch(lines[s] + line * LINE + PREFETCH);
        }
        const struct sums sums = sums_of_chunk(lines[s], x->entries + chunk * CHUNK_ENTRIES);
        for (int i = 0; i < 4; i++) {
            const __m256 sum = _mm256_cvtepi32_ps(sum_of_lanes(0, words_of_rows(&sums, i)));
            part[s][i] = _mm256_fmadd_ps(_mm256_mul_ps(sum, step), scale, part[s][i]);
        }
        lines[s] += BITS * LINE;
    }
}
