// The peak rate of lookups, with which `tmac bench gemm` compares kernels.
#include "timing.h"

double tmac_bench_look_up_peak(int repeats);

#if defined(__x86_64__)
#include <immintrin.h>

enum { LINE = 64, TOKENS = 12, CHUNKS = 16, PLANES = 2 };

// One-bit multiply-adds a second of one thread, operands in first-level cache: the lookups of 32 rows and 12 tokens over 16
// chunks and two planes, indices made anew for each line, sums in registers. 0 where the CPU has no AVX-512 VBMI and VNNI.
__attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vnni"), noinline)) static double look_up_peak(int repeats) {
    static uint8_t tables[CHUNKS][TOKENS][LINE], lines[CHUNKS][PLANES][LINE];
    const __m512i transpose = _mm512_loadu_si512(lines[0][0]), quad_table = _mm512_set1_epi32(0x30201000);
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i sums[TOKENS][2];
    for (int t = 0; t < TOKENS; t++) {
        sums[t][0] = sums[t][1] = _mm512_setzero_si512();
    }
    const double begin = seconds();
    for (int r = 0; r < repeats; r++) {
        for (int c = 0; c < CHUNKS; c++) {
#pragma GCC unroll 2
            for (int b = 0; b < PLANES; b++) {
                const __m512i q = _mm512_permutexvar_epi8(transpose, _mm512_loadu_si512(lines[c][b]));
                const __m512i low = _mm512_ternarylogic_epi32(q, nibble, quad_table, 0xEA);
                const __m512i high = _mm512_ternarylogic_epi32(_mm512_srli_epi16(q, 4), nibble, quad_table, 0xEA);
                const __m512i weight = _mm512_set1_epi8((char) (1 << b));
#pragma GCC unroll 12
                for (int t = 0; t < TOKENS; t++) {
                    const __m512i table = _mm512_loadu_si512(tables[c][t]);
                    sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], weight, _mm512_permutexvar_epi8(low, table));
                    sums[t][1] = _mm512_dpbusd_epi32(sums[t][1], weight, _mm512_permutexvar_epi8(high, table));
                }
            }
        }
    }
    const double taken = seconds() - begin;
    __m512i all = _mm512_setzero_si512();
    for (int t = 0; t < TOKENS; t++) {
        all = _mm512_add_epi32(all, _mm512_add_epi32(sums[t][0], sums[t][1]));
    }
    __asm__ volatile("" ::"v"(all)); // keeps the sums from being optimized away
    return 4.0 * LINE * 2 * TOKENS * PLANES * CHUNKS * repeats / taken;
}

double tmac_bench_look_up_peak(int repeats) {
    const int runs = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
    return runs ? look_up_peak(repeats) : 0;
}
#else
double tmac_bench_look_up_peak(int repeats) {
    (void) repeats;
    return 0;
}
#endif
