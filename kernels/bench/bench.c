// Timing loops for `tmac bench kernels`: the product of many matrices, and plain reading of the same bytes.
#include "tmac.h"

#include <pthread.h>
#include <time.h>

enum { MAX_THREADS = 256, LINE = 64, READ_STREAMS = 4, PREFETCH = 4096 };

typedef uint64_t line_words __attribute__((vector_size(LINE), aligned(1), may_alias));

struct job {
    const struct tmac_kernel * kernel;
    const struct tmac_tables * tables;
    const uint8_t * data; // of the first matrix, or of this thread's bytes
    size_t stride, count, bytes;
    int64_t rows, cols, first_tile, last_tile;
    float * y;
    uint64_t checksum;
};

static void * multiply(void * argument) {
    const struct job * job = argument;
    for (size_t i = 0; i < job->count; i++) {
        const struct tmac_matrix w = tmac_matrix_at(job->kernel, job->data + i * job->stride, job->rows, job->cols);
        job->kernel->gemv(&w, job->tables, job->y, job->first_tile, job->last_tile);
    }
    return NULL;
}

// Several forward streams with prefetch, as the kernels read: the most that a thread gets from memory.
static void * read_bytes(void * argument) {
    struct job * job = argument;
    const size_t span = job->bytes / READ_STREAMS / LINE * LINE;
    line_words sum[READ_STREAMS] = { { 0 } };
    for (size_t at = 0; at < span; at += LINE) {
        for (int s = 0; s < READ_STREAMS; s++) {
            const uint8_t * line = job->data + s * span + at;
            __builtin_prefetch(line + PREFETCH);
            sum[s] ^= *(const line_words *) line;
        }
    }
    for (int s = 0; s < READ_STREAMS; s++) {
        job->checksum ^= sum[s][0] ^ sum[s][7];
    }
    return NULL;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static double run(void * (*work)(void *), struct job * jobs, int threads) {
    pthread_t started[MAX_THREADS];
    const double begin = seconds();
    for (int i = 1; i < threads; i++) {
        pthread_create(&started[i], NULL, work, &jobs[i]);
    }
    work(&jobs[0]);
    for (int i = 1; i < threads; i++) {
        pthread_join(started[i], NULL);
    }
    return seconds() - begin;
}

double tmac_bench_gemv(const struct tmac_kernel * kernel, const void * data, size_t stride, size_t count, int64_t rows,
                       int64_t cols, const struct tmac_tables * tables, float * y, int threads);
double tmac_bench_read(const void * data, size_t bytes, int threads);
double tmac_bench_tables(const struct tmac_kernel * kernel, const float * x, int64_t cols, const struct tmac_tables * tables, int count);

// Seconds for y = W x with each of `count` matrices that lie `stride` bytes apart; threads split the tiles.
double tmac_bench_gemv(const struct tmac_kernel * kernel, const void * data, size_t stride, size_t count, int64_t rows,
                       int64_t cols, const struct tmac_tables * tables, float * y, int threads) {
    struct job jobs[MAX_THREADS];
    const int64_t tiles = rows / TMAC_TILE_ROWS;
    for (int i = 0; i < threads; i++) {
        jobs[i] = (struct job) { .kernel = kernel, .tables = tables, .data = data, .stride = stride, .count = count, .rows = rows,
                                 .cols = cols, .first_tile = tiles * i / threads, .last_tile = tiles * (i + 1) / threads, .y = y };
    }
    return run(multiply, jobs, threads);
}

// Seconds to read `bytes`; threads take equal parts.
double tmac_bench_read(const void * data, size_t bytes, int threads) {
    struct job jobs[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        jobs[i] = (struct job) { .data = (const uint8_t *) data + bytes / threads * i, .bytes = bytes / threads };
    }
    const double taken = run(read_bytes, jobs, threads);
    uint64_t checksum = 0;
    for (int i = 0; i < threads; i++) {
        checksum ^= jobs[i].checksum;
    }
    return checksum == 1 ? taken * 1.0000001 : taken; // keeps the reads from being optimized away
}

// Seconds to build the tables of x `count` times on one thread.
double tmac_bench_tables(const struct tmac_kernel * kernel, const float * x, int64_t cols, const struct tmac_tables * tables, int count) {
    const double begin = seconds();
    for (int i = 0; i < count; i++) {
        kernel->build_tables(x, 0, cols / TMAC_TABLE_GROUP, tables);
    }
    return seconds() - begin;
}
