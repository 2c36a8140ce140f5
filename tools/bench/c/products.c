// Timing loops of the kernels: products with many matrices, one after the other, and preparing their activations.
#include "timing.h"

// Matrices like `first`, each `stride` bytes after the one before.
struct matrices {
    struct tmac_matrix first;
    size_t stride, count;
};

static struct tmac_matrix matrix_of(const struct matrices * matrices, size_t index) {
    const size_t offset = index * matrices->stride;
    struct tmac_matrix w = matrices->first;
    w.planes += offset;
    w.scales = w.scales ? (const uint16_t *) ((const uint8_t *) w.scales + offset) : NULL;
    w.zeros = w.zeros ? w.zeros + offset : NULL;
    w.minima = w.minima ? (const uint16_t *) ((const uint8_t *) w.minima + offset) : NULL;
    w.levels = w.levels ? w.levels + offset : NULL;
    return w;
}

struct product {
    const struct tmac_kernel * kernel;
    const struct matrices * matrices;
    const struct tmac_activations * x;
    float * const * y;
    int64_t tokens, first_tile, last_tile;
    int passes;
};

static void * multiply(void * argument) {
    const struct product * job = argument;
    for (size_t i = 0; i < job->matrices->count * (size_t) job->passes; i++) {
        const struct tmac_matrix w = matrix_of(job->matrices, i % job->matrices->count);
        if (job->kernel->gemm) {
            job->kernel->gemm(&w, job->x, job->y, job->tokens, job->first_tile, job->last_tile);
        } else {
            job->kernel->gemv(&w, job->x, job->y[0], job->first_tile, job->last_tile);
        }
    }
    return NULL;
}

double tmac_bench_products(const struct tmac_kernel * kernel, const struct tmac_matrix * first, size_t stride,
                           size_t count, const struct tmac_activations * x, float * const * y, int64_t tokens,
                           int threads, int passes);
double tmac_bench_prepare(const struct tmac_kernel * kernel, const float * x, int64_t cols,
                          const struct tmac_activations * to, int64_t tokens, int repeats);

// Seconds for y = W x with each of `count` matrices that lie `stride` bytes apart, `passes` times; threads split the tiles.
double tmac_bench_products(const struct tmac_kernel * kernel, const struct tmac_matrix * first, size_t stride,
                           size_t count, const struct tmac_activations * x, float * const * y, int64_t tokens,
                           int threads, int passes) {
    const struct matrices matrices = { *first, stride, count };
    const int64_t tiles = first->rows / TMAC_TILE_ROWS;
    struct product jobs[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        jobs[i] =
            (struct product){ kernel, &matrices, x, y, tokens, tiles * i / threads, tiles * (i + 1) / threads, passes };
    }
    return run(multiply, jobs, sizeof jobs[0], threads);
}

// Seconds to prepare x[tokens][cols] `repeats` times on one thread.
double tmac_bench_prepare(const struct tmac_kernel * kernel, const float * x, int64_t cols,
                          const struct tmac_activations * to, int64_t tokens, int repeats) {
    const double begin = seconds();
    for (int64_t i = 0; i < tokens * repeats; i++) {
        const struct tmac_vector vector = { .data = x + i % tokens * cols, .input = TMAC_F32, .cols = cols };
        kernel->prepare(&vector, 0, (cols + TMAC_TABLE_BLOCK - 1) / TMAC_TABLE_BLOCK, &to[i % tokens]);
    }
    return seconds() - begin;
}
