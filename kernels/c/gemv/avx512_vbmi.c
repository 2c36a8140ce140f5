// GEMV for weights of BITS bits with AVX-512 VBMI and VNNI. A dot product with the plane's weight 2^b, times the step
// of the tables, adds four lookups into 32 bits. Needs: BITS, PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which
// the generator defines. Gives: gemv (gemv/walk.h).
#include "isa/avx512_vbmi.h"
#include "gemv/walk.h"
#include "weights/lookup.h"

#ifndef PREFETCH
#error "gemv/avx512_vbmi.c: define PREFETCH, in bytes ahead, before it"
#endif

// Of one piece, rows 16h..16h+15: what the low and (exact) the high bytes of the tables add up to.
struct sums {
    __m512i low[2], high[2];
};

// Adds what the plane line at `line` looks up, each lookup times a byte of `weight`.
TMAC_INLINE void look_up_line(const struct index_constants constants, const uint8_t * line, const uint8_t * entries,
                              __m512i weight, struct sums * sums) {
    __m512i index[2];
    indices_of_line(constants, line, index);
    for (int h = 0; h < 2; h++) {
        const __m512i low = _mm512_permutexvar_epi8(index[h], _mm512_loadu_si512(entries));
        if (IS_EXACT) {
            const __m512i high = _mm512_permutexvar_epi8(index[h], _mm512_loadu_si512(entries + 64));
            sums->low[h] = _mm512_dpbusd_epi32(sums->low[h], low, weight); // unsigned times signed
            sums->high[h] = _mm512_dpbusd_epi32(sums->high[h], weight, high);
        } else {
            sums->low[h] = _mm512_dpbusd_epi32(sums->low[h], weight, low);
        }
    }
}

TMAC_INLINE __m512i weight_of_plane(const struct tmac_activations * x, int64_t table_group, int plane) {
    return IS_EXACT ? _mm512_set1_epi8((char) (1 << plane))
                    : _mm512_set1_epi32((int) x->steps[4 * table_group + plane]);
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const struct index_constants constants = index_constants();
    struct sums sums[STREAMS];
    for (int s = 0; s < streams; s++) {
        sums[s].low[0] = sums[s].low[1] = _mm512_setzero_si512();
        sums[s].high[0] = sums[s].high[1] = _mm512_setzero_si512();
    }
    for (int64_t a = first; a < first + count; a++) {
#pragma GCC unroll 2
        for (int c = 0; c < CHUNKS; c++) {
#pragma GCC unroll 4
            for (int b = 0; b < BITS; b++) {
                const __m512i weight = weight_of_plane(x, a, b);
#pragma GCC unroll 4
                for (int s = 0; s < streams; s++) {
                    prefetch(lines[s] + PREFETCH);
                    look_up_line(constants, lines[s], x->entries + a * GROUP_ENTRIES + c * CHUNK_ENTRIES, weight,
                                 &sums[s]);
                    lines[s] += LINE;
                }
            }
        }
    }
    const __m512 scale = _mm512_set1_ps(x->scale[first / BLOCK_GROUPS]);
    for (int s = 0; s < streams; s++) {
        for (int h = 0; h < 2; h++) {
            const __m512i both = _mm512_add_epi32(sums[s].low[h], _mm512_slli_epi32(sums[s].high[h], 8));
            part[s][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(IS_EXACT ? both : sums[s].low[h]), scale, part[s][h]);
        }
    }
}
