// GEMV for weights of BITS bits with AVX-512 VBMI and VNNI. A dot product with the plane's weight 2^b, times the step
// of the tables, adds four lookups into 32 bits. Needs: BITS, PRECISION, STREAMS, PREFETCH and SCALES_PREFETCH, which
// the generator defines. Gives: gemv (gemv/walk.h).
#include "isa/avx512_vbmi.h"
#include "gemv/walk.h"
#include "weights/lookup.h"

#ifndef PREFETCH
#error "gemv/avx512_vbmi.c: define PREFETCH, in bytes ahead, before it"
#endif

// Planes from UPPER on are added up for themselves, because their steps would not fit a byte.
enum { UPPER = BITS > 4 ? 3 : BITS };

// Of one piece, rows 16h..16h+15: what the low and (exact) the high bytes of the tables add up to, or the lower planes and
// those from UPPER on.
struct sums {
    __m512i low[2], high[2];
};
_Static_assert(BITS <= 4 || !IS_EXACT, "exact sums of upper planes have no place");

// Adds what the plane line at `line` looks up, each lookup times a byte of `weight`.
TMAC_INLINE void look_up_line(const struct index_constants constants, const int is_upper, const uint8_t * line,
                              const uint8_t * entries, __m512i weight, struct sums * sums) {
    __m512i index[2];
    indices_of_line(constants, line, index);
    for (int h = 0; h < 2; h++) {
        const __m512i low = _mm512_permutexvar_epi8(index[h], _mm512_loadu_si512(entries));
        if (IS_EXACT) {
            const __m512i high = _mm512_permutexvar_epi8(index[h], _mm512_loadu_si512(entries + 64));
            sums->low[h] = _mm512_dpbusd_epi32(sums->low[h], low, weight); // unsigned times signed
            sums->high[h] = _mm512_dpbusd_epi32(sums->high[h], weight, high);
        } else {
            __m512i * sum = is_upper ? &sums->high[h] : &sums->low[h];
            *sum = _mm512_dpbusd_epi32(*sum, weight, low);
        }
    }
}

TMAC_INLINE __m512i weight_of_plane(const struct tmac_activations * x, int64_t table_group, int plane) {
    return IS_EXACT ? _mm512_set1_epi8((char) (1 << plane))
                    : _mm512_set1_epi32((int) x->steps[4 * table_group + plane % UPPER]);
}

// Adds what the lines of a chunk look up, and moves them behind it.
TMAC_INLINE void look_up_chunk(const struct index_constants constants, const int streams, const uint8_t ** lines,
                               const struct tmac_activations * x, int64_t table_group, const uint8_t * entries,
                               struct sums * sums) {
#pragma GCC unroll 6
    for (int b = 0; b < BITS; b++) {
        const __m512i weight = weight_of_plane(x, table_group, b);
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++) {
            prefetch(lines[s] + PREFETCH);
            look_up_line(constants, b >= UPPER, lines[s], entries, weight, &sums[s]);
            lines[s] += LINE;
        }
    }
}

TMAC_INLINE void start_sums(const int streams, struct sums * sums) {
    for (int s = 0; s < streams; s++) {
        sums[s].low[0] = sums[s].low[1] = _mm512_setzero_si512();
        sums[s].high[0] = sums[s].high[1] = _mm512_setzero_si512();
    }
}

TMAC_INLINE void add_sums(const int streams, const struct sums * sums, float scale, floats part[][REGISTERS]) {
    for (int s = 0; s < streams; s++) {
        for (int h = 0; h < 2; h++) {
            const __m512i both =
                _mm512_add_epi32(sums[s].low[h], _mm512_slli_epi32(sums[s].high[h], IS_EXACT ? 8 : UPPER));
            const __m512i sum = IS_EXACT || BITS > UPPER ? both : sums[s].low[h];
            part[s][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), broadcast(scale), part[s][h]);
        }
    }
}

TMAC_INLINE void add_piece(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t first,
                           int count, floats part[][REGISTERS]) {
    const struct index_constants constants = index_constants();
    struct sums sums[STREAMS];
    start_sums(streams, sums);
    for (int64_t a = first; a < first + count; a++) {
#pragma GCC unroll 2
        for (int c = 0; c < CHUNKS; c++) {
            look_up_chunk(constants, streams, lines, x, a, x->entries + a * GROUP_ENTRIES + c * CHUNK_ENTRIES, sums);
        }
    }
    add_sums(streams, sums, x->scale[first / BLOCK_GROUPS], part);
}

TMAC_INLINE void add_chunk(const int streams, const uint8_t ** lines, const struct tmac_activations * x, int64_t chunk,
                           floats part[][REGISTERS]) {
    struct sums sums[STREAMS];
    start_sums(streams, sums);
    look_up_chunk(index_constants(), streams, lines, x, chunk / CHUNKS, x->entries + chunk * CHUNK_ENTRIES, sums);
    add_sums(streams, sums, x->scale[chunk / CHUNKS / BLOCK_GROUPS], part);
}
