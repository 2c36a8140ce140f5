// Timing loops for `tmac bench kernels`: the product of many matrices, and plain reading of the same bytes.
#include "tmac.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_THREADS = TMAC_BENCH_MAX_THREADS, MAX_STREAMS = 2, PREFETCH = 4096, WORD = 32, WORDS = 4 };

typedef uint64_t word __attribute__((vector_size(WORD), aligned(1), may_alias));

// Reading is compiled for wide loads too, and the CPU's best version runs.
#if defined(__x86_64__) && defined(__ELF__)
#define WIDE_LOADS __attribute__((target_clones("avx2", "default")))
#else
#define WIDE_LOADS
#endif

struct job {
    const struct tmac_kernel * kernel;
    const struct tmac_activations * x;
    const uint8_t * data; // of the first matrix, or of this thread's bytes
    size_t stride, count, bytes;
    int passes;
    int64_t rows, cols, first_tile, last_tile;
    float * y;
    uint64_t checksum;
};

static void * multiply(void * argument) {
    const struct job * job = argument;
    for (int pass = 0; pass < job->passes; pass++) {
        for (size_t i = 0; i < job->count; i++) {
            const struct tmac_matrix w = tmac_matrix_at(job->kernel, job->data + i * job->stride, job->rows, job->cols);
            job->kernel->gemv(&w, job->x, job->y, job->first_tile, job->last_tile);
        }
    }
    return NULL;
}

// Forward streams far apart, as the kernels read, with prefetch or left to the hardware's own.
TMAC_INLINE void * read_streams(struct job * job, const int streams, const int prefetch) {
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

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static double run(void * (*work)(void *), struct job * jobs, int threads) {
    pthread_t started[MAX_THREADS];
    const double begin = seconds();
    for (int i = 1; i < threads; i++) {
        if (pthread_create(&started[i], NULL, work, &jobs[i])) {
            abort();
        }
    }
    work(&jobs[0]);
    for (int i = 1; i < threads; i++) {
        pthread_join(started[i], NULL);
    }
    return seconds() - begin;
}

double tmac_bench_gemv(const struct tmac_kernel * kernel, const void * data, size_t stride, size_t count, int64_t rows,
                       int64_t cols, const struct tmac_activations * x, float * y, int threads, int passes);
double tmac_bench_read(const void * data, size_t bytes, int way, int threads, int passes);
double tmac_bench_tables(const struct tmac_kernel * kernel, const float * x, int64_t cols, const struct tmac_activations * to,
                         int count);

// Seconds for y = W x with each of `count` matrices that lie `stride` bytes apart, `passes` times; threads split the tiles.
double tmac_bench_gemv(const struct tmac_kernel * kernel, const void * data, size_t stride, size_t count, int64_t rows,
                       int64_t cols, const struct tmac_activations * x, float * y, int threads, int passes) {
    struct job jobs[MAX_THREADS];
    const int64_t tiles = rows / TMAC_TILE_ROWS;
    for (int i = 0; i < threads; i++) {
        jobs[i] = (struct job) { .kernel = kernel, .x = x, .data = data, .stride = stride, .count = count, .rows = rows,
                                 .cols = cols, .first_tile = tiles * i / threads, .last_tile = tiles * (i + 1) / threads, .y = y,
                                 .passes = passes };
    }
    return run(multiply, jobs, threads);
}

// Seconds to read `bytes` `passes` times in one of TMAC_BENCH_READ_WAYS ways; threads take equal parts.
double tmac_bench_read(const void * data, size_t bytes, int way, int threads, int passes) {
    void * (*const ways[TMAC_BENCH_READ_WAYS])(void *) = { read_1_plain, read_2_plain, read_2_prefetched };
    struct job jobs[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        const size_t part = bytes / (size_t) threads;
        jobs[i] = (struct job) { .data = (const uint8_t *) data + part * (size_t) i, .bytes = part, .passes = passes };
    }
    const double taken = run(ways[way], jobs, threads);
    uint64_t checksum = 0;
    for (int i = 0; i < threads; i++) {
        checksum ^= jobs[i].checksum;
    }
    return checksum == 1 ? taken * 1.0000001 : taken; // keeps the reads from being optimized away
}

// Seconds to build the tables of x `count` times on one thread.
double tmac_bench_tables(const struct tmac_kernel * kernel, const float * x, int64_t cols, const struct tmac_activations * to,
                         int count) {
    const struct tmac_vector vector = { .data = x, .input = TMAC_F32, .cols = cols };
    const double begin = seconds();
    for (int i = 0; i < count; i++) {
        kernel->prepare(&vector, 0, (cols + TMAC_TABLE_BLOCK - 1) / TMAC_TABLE_BLOCK, to);
    }
    return seconds() - begin;
}
