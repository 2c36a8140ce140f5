// GEMV for weights of BITS bits with AVX-512 BW: a plane line, four quads for 32 rows, in a register. Needs: BITS,
// PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which the generator defines. Gives: gemv (gemv/walk.h).
#include "gemv/rows_avx512.h"
#include "gemv/shuffle.h"
#include "gemv/walk.h"

#ifndef PREFETCH
#error "gemv/avx512.c: define PREFETCH, in bytes ahead, before it"
#endif

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    __m512 total[STREAMS][2];
    for (int s = 0; s < streams; s++) {
        total[s][0] = total[s][1] = _mm512_setzero_ps();
    }
    for (int64_t a = first; a < first + count; a++) {
        const __m512 step = _mm512_set1_ps((float) step_of(x, a));
        for (int s = 0; s < streams; s++) {
            for (int line = 0; line < CHUNKS * BITS; line++) {
                prefetch(lines[s] + line * LINE + PREFETCH);
            }
            const struct sums sums = sums_of_group(lines[s], x->entries + a * GROUP_ENTRIES);
            const __m512i words[4] = { words_of_rows(&sums, 0), words_of_rows(&sums, 1), words_of_rows(&sums, 2),
                                       words_of_rows(&sums, 3) };
            const struct rows rows = sum_of_lanes(IS_EXACT, words);
            for (int h = 0; h < 2; h++) {
                total[s][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rows.half[h]), step, total[s][h]);
            }
            lines[s] += CHUNKS * BITS * LINE;
        }
    }
    const __m512 scale = _mm512_set1_ps(x->scale[first / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        for (int h = 0; h < 2; h++) {
            part[s][h] = _mm512_fmadd_ps(total[s][h], scale, part[s][h]);
        }
    }
}

TMAC_INLINE void add_chunk(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t chunk,
                           floats part[][REGISTERS]) {
    const __m512 step = _mm512_set1_ps((float) step_of(x, chunk / CHUNKS));
    const __m512 scale = _mm512_set1_ps(x->scale[chunk / CHUNKS / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        for (int line = 0; line < BITS; line++) {
            prefetch(lines[s] + line * LINE + PREFETCH);
        }
        const struct sums sums = sums_of_chunk(lines[s], x->entries + chunk * CHUNK_ENTRIES);
        const __m512i words[4] = { words_of_rows(&sums, 0), words_of_rows(&sums, 1), words_of_rows(&sums, 2),
                                   words_of_rows(&sums, 3) };
        const struct rows rows = sum_of_lanes(0, words);
        for (int h = 0; h < 2; h++) {
            const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(rows.half[h]), step);
            part[s][h] = _mm512_fmadd_ps(sum, scale, part[s][h]);
        }
        lines[s] += BITS * LINE;
    }
}
