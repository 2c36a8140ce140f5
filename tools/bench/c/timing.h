// What the timing loops share: a clock, and threads that each do a part.
#pragma once

#include "interface/tmac.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "limits.inc"

TMAC_INLINE double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

// Seconds until as many threads have done the jobs, which are `job_bytes` apart.
TMAC_INLINE double run(void * (*work)(void *), void * jobs, size_t job_bytes, int threads) {
    pthread_t started[MAX_THREADS];
    const double begin = seconds();
    for (int i = 1; i < threads; i++) {
        if (pthread_create(&started[i], NULL, work, (char *) jobs + (size_t) i * job_bytes)) {
            abort();
        }
    }
    work(jobs);
    for (int i = 1; i < threads; i++) {
        pthread_join(started[i], NULL);
    }
    return seconds() - begin;
}
