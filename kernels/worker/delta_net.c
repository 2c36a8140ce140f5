// Runs kernels of delta nets, for worker.c: threads take one block after the other. In the convolution before them, each
// has an equal part of the blocks.
#include "worker.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct work {
    const struct tmac_delta_net_kernel * kernel;
    struct tmac_delta_net n;
    atomic_llong next_block;
};

void list_delta_nets(void) {
    const struct head head = { (uint32_t) tmac_delta_net_kernel_count, tmac_cpu_features() };
    answer(&head, sizeof head);
    for (size_t i = 0; i < tmac_delta_net_kernel_count; i++) {
        const struct tmac_delta_net_kernel * kernel = &tmac_delta_net_kernels[i];
        struct delta_net_row row = DELTA_NET_ROW_OF(kernel);
        snprintf(row.name, sizeof row.name, "%s", kernel->name);
        answer(&row, sizeof row);
    }
}

void answer_delta_net_selection(void) {
    struct kernel_choice asked;
    char forced[MOST_FORCED], error[ERROR_BYTES] = "";
    receive(&asked, sizeof asked);
    receive_name(asked.forced_size, forced);
    const struct tmac_delta_net_kernel * found = tmac_select_delta_net(asked.cpu_features, forced, error, sizeof error);
    answer_choice(found ? found->name : "", error);
}

static void * update_in_thread(void * argument) {
    struct work * work = *(struct work **) argument;
    const int64_t blocks = tmac_delta_net_blocks(&work->n);
    for (int64_t block; (block = atomic_fetch_add_explicit(&work->next_block, 1, memory_order_relaxed)) < blocks;) {
        work->kernel->update(&work->n, block, block + 1);
    }
    return NULL;
}

void update(void) {
    struct updating asked;
    struct size sizes[DELTA_NET_ARRAYS];
    struct memory arrays[DELTA_NET_ARRAYS];
    receive(&asked, sizeof asked);
    receive(sizes, sizeof sizes);
    if (asked.kernel >= tmac_delta_net_kernel_count || asked.threads < 1 || asked.threads > MOST_PARTS) {
        exit(1);
    }
    for (int i = 0; i < DELTA_NET_ARRAYS; i++) {
        arrays[i] = receive_array(sizes[i]);
    }
    struct work work = { .kernel = &tmac_delta_net_kernels[asked.kernel], .n = DELTA_NET_OF(&asked) };
    const size_t out_bytes = (size_t) (work.n.sequences * work.n.tokens * work.n.heads * work.n.width) * sizeof(float);
    const size_t kept_bytes = (size_t) (asked.snapshots * asked.state_bytes);
    const struct memory out = filled(out_bytes), kept = filled(kept_bytes);
    const void * states = arrays[DELTA_NET_ARRAYS - 1].at;
    if (asked.is_in_place) {
        memcpy(kept.at, states, (size_t) asked.state_bytes);
        states = kept.at;
    }
    work.n.q = (const float *) arrays[0].at;
    work.n.k = (const float *) arrays[1].at;
    work.n.v = (const float *) arrays[2].at;
    work.n.gates = (const float *) arrays[3].at;
    work.n.betas = (const float *) arrays[4].at;
    work.n.from = (const float *) states;
    work.n.to = (float *) kept.at;
    work.n.out = (float *) out.at;
    atomic_init(&work.next_block, 0);
    struct work * jobs[MOST_PARTS];
    for (int64_t thread = 0; thread < asked.threads; thread++) {
        jobs[thread] = &work;
    }
    in_parallel(update_in_thread, jobs, sizeof jobs[0], (uint32_t) asked.threads);
    answer(out.at, out_bytes);
    answer(kept.at, kept_bytes);
    for (int i = 0; i < DELTA_NET_ARRAYS; i++) {
        free(arrays[i].block);
    }
    free(out.block);
    free(kept.block);
}

struct convolution_part {
    tmac_convolution_fn function;
    const struct tmac_convolution * convolution;
    int64_t first, last;
};

static void * convolve_in_thread(void * argument) {
    const struct convolution_part * part = argument;
    part->function(part->convolution, part->first, part->last);
    return NULL;
}

void convolve(void) {
    struct convolving asked;
    struct size sizes[CONVOLUTION_ARRAYS];
    struct memory arrays[CONVOLUTION_ARRAYS];
    receive(&asked, sizeof asked);
    receive(sizes, sizeof sizes);
    if (asked.kernel < 0 || asked.kernel >= (int64_t) tmac_delta_net_kernel_count || asked.threads < 1 ||
        asked.threads > MOST_PARTS) {
        exit(1);
    }
    for (int i = 0; i < CONVOLUTION_ARRAYS; i++) {
        arrays[i] = receive_array(sizes[i]);
    }
    const struct memory window = filled((size_t) asked.window_bytes), out = filled((size_t) asked.out_bytes);
    struct tmac_convolution convolution = CONVOLUTION_OF(&asked);
    convolution.before = (const float *) arrays[0].at;
    convolution.x = (const float *) arrays[1].at;
    convolution.weights = (const float *) arrays[2].at;
    convolution.window = (float *) window.at;
    convolution.out = (float *) out.at;
    const struct tmac_delta_net_kernel * kernel = &tmac_delta_net_kernels[asked.kernel];
    const tmac_convolution_fn functions[] = { kernel->fill, kernel->convolve };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        struct convolution_part parts[MOST_PARTS];
        for (int64_t thread = 0; thread < asked.threads; thread++) {
            parts[thread] =
                (struct convolution_part){ functions[i], &convolution, asked.blocks * thread / asked.threads,
                                           asked.blocks * (thread + 1) / asked.threads };
        }
        in_parallel(convolve_in_thread, parts, sizeof parts[0], (uint32_t) asked.threads);
    }
    answer(window.at, (size_t) asked.window_bytes);
    answer(out.at, (size_t) asked.out_bytes);
    for (int i = 0; i < CONVOLUTION_ARRAYS; i++) {
        free(arrays[i].block);
    }
    free(window.block);
    free(out.block);
}
