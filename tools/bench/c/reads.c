// Plain reading of memory, for `tmac bench kernels` to compare products with.
#include "timing.h"

enum { MAX_STREAMS = 2, PREFETCH = 4096, WORD = 32, WORDS = 4 };

typedef uint64_t word __attribute__((vector_size(WORD), aligned(1), may_alias));

// Reading is compiled for wide loads too, and the CPU's best version runs.
#if defined(__x86_64__) && defined(__ELF__)
#define WIDE_LOADS __attribute__((target_clones("avx2", "default")))
#else
#define WIDE_LOADS
#endif

struct reading {
    const uint8_t * data;
    size_t bytes;
    int passes;
    uint64_t checksum;
};

// Forward streams far apart, as the kernels read, with prefetch or left to the hardware's own.
TMAC_INLINE void * read_streams(struct reading * job, const int streams, const int prefetch) {
    const size_t step = WORD * WORDS, span = job->bytes / (size_t) streams / step * step;
    if (span == 0) {
        return NULL;
    }
    word sum[MAX_STREAMS][WORDS] = { { { 0 } } };
    for (size_t at = 0, pass = 0; pass < (size_t) job->passes; at + step < span ? (at += step) : (at = 0, pass++)) {
#pragma GCC unroll 2
        for (int s = 0; s < streams; s++) {
            const uint8_t * from = job->data + (size_t) s * span + at;
#pragma GCC unroll 4
            for (int i = 0; i < WORDS; i++) {
                if (prefetch && i % 2 == 0) {
                    __builtin_prefetch(from + i * WORD + PREFETCH);
                }
                sum[s][i] ^= *(const word *) (from + i * WORD);
            }
        }
    }
    for (int s = 0; s < streams; s++) {
        for (int i = 0; i < WORDS; i++) {
            job->checksum ^= sum[s][i][0] ^ sum[s][i][1] ^ sum[s][i][2] ^ sum[s][i][3];
        }
    }
    return NULL;
}

WIDE_LOADS static void * read_1_plain(void * job) { return read_streams(job, 1, 0); }
WIDE_LOADS static void * read_2_plain(void * job) { return read_streams(job, 2, 0); }
WIDE_LOADS static void * read_2_prefetched(void * job) { return read_streams(job, 2, 1); }

double tmac_bench_read(const void * data, size_t bytes, int way, int threads, int passes);

// Seconds to read `bytes` `passes` times in one of READ_WAYS ways; threads take equal parts.
double tmac_bench_read(const void * data, size_t bytes, int way, int threads, int passes) {
    void * (*const ways[READ_WAYS])(void *) = { read_1_plain, read_2_plain, read_2_prefetched };
    struct reading jobs[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        const size_t part = bytes / (size_t) threads;
        jobs[i] =
            (struct reading){ .data = (const uint8_t *) data + part * (size_t) i, .bytes = part, .passes = passes };
    }
    const double taken = run(ways[way], jobs, sizeof jobs[0], threads);
    uint64_t checksum = 0;
    for (int i = 0; i < threads; i++) {
        checksum ^= jobs[i].checksum;
    }
    return checksum == 1 ? taken * 1.0000001 : taken; // keeps the reads from being optimized away
}
