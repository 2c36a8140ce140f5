// Runs attention kernels, for worker.c: as llama.cpp's plugin does, with one pool of threads for all items of a plan.
#include "worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct work {
    const struct tmac_attention_kernel * kernel;
    struct tmac_cache keys, values;
    struct tmac_attention a;
    struct tmac_attention_plan plan;
    float * shared;
    int64_t threads;
    atomic_llong next_item;
    pthread_barrier_t items_are_done;
};

struct job {
    struct work * work;
    int64_t thread;
    struct memory scratch;
};

void list_attention(void) {
    const struct head head = { (uint32_t) tmac_attention_kernel_count, tmac_cpu_features() };
    answer(&head, sizeof head);
    for (size_t i = 0; i < tmac_attention_kernel_count; i++) {
        const struct tmac_attention_kernel * kernel = &tmac_attention_kernels[i];
        struct attention_row row = ATTENTION_ROW_OF(kernel);
        snprintf(row.name, sizeof row.name, "%s", kernel->name);
        answer(&row, sizeof row);
    }
}

void answer_attention_selection(void) {
    struct kernel_choice asked;
    char forced[MOST_FORCED], error[ERROR_BYTES] = "";
    receive(&asked, sizeof asked);
    receive_name(asked.forced_size, forced);
    const struct tmac_attention_kernel * found = tmac_select_attention(asked.cpu_features, forced, error, sizeof error);
    answer_choice(found ? found->name : "", error);
}

// All but the arrays.
static void receive_shape(struct work * work) {
    struct attending asked;
    struct cached keys, values;
    receive(&asked, sizeof asked);
    receive(&keys, sizeof keys);
    receive(&values, sizeof values);
    if (asked.kernel >= tmac_attention_kernel_count || asked.threads < 1 || asked.threads > MOST_PARTS) {
        exit(1);
    }
    work->kernel = &tmac_attention_kernels[asked.kernel];
    work->threads = asked.threads;
    work->keys = (struct tmac_cache) CACHE_OF(&keys);
    work->values = (struct tmac_cache) CACHE_OF(&values);
    work->a = (struct tmac_attention) ATTENTION_OF(&asked);
    work->a.keys = &work->keys;
    work->a.values = &work->values;
    work->plan = tmac_plan_attention(&work->a, work->kernel);
}

void plan_attention(void) {
    struct work work;
    receive_shape(&work);
    const struct planned planned = PLANNED_OF(&work.plan);
    answer(&planned, sizeof planned);
}

static void * attend_in_thread(void * argument) {
    const struct job * job = argument;
    struct work * work = job->work;
    const struct tmac_attention_plan * plan = &work->plan;
    // The counter orders no other accesses: what two items share without need is a race that a sanitizer must see.
    for (int64_t item = job->thread; item < plan->items;
         item = atomic_fetch_add_explicit(&work->next_item, 1, memory_order_relaxed)) {
        work->kernel->attend(&work->a, plan, item, work->shared, job->scratch.at);
    }
    pthread_barrier_wait(&work->items_are_done);
    tmac_attention_merge(&work->a, plan, work->shared, plan->rows * job->thread / work->threads,
                         plan->rows * (job->thread + 1) / work->threads);
    return NULL;
}

void attend(void) {
    struct work work;
    receive_shape(&work);
    struct size sizes[ATTENTION_ARRAYS];
    struct memory arrays[ATTENTION_ARRAYS];
    receive(sizes, sizeof sizes);
    for (int i = 0; i < ATTENTION_ARRAYS; i++) {
        arrays[i] = receive_array(sizes[i]);
    }
    work.a.q = (const float *) arrays[0].at;
    work.keys.data = (const uint8_t *) arrays[1].at;
    work.values.data = (const uint8_t *) arrays[2].at;
    work.a.mask = sizes[3].size ? (const uint16_t *) arrays[3].at : NULL;
    work.a.sinks = sizes[4].size ? (const float *) arrays[4].at : NULL;
    const size_t out_bytes = (size_t) (work.plan.rows * work.values.width) * sizeof(float);
    const struct memory out = filled(out_bytes), shared = filled(work.plan.shared_bytes);
    work.a.out = (float *) out.at;
    work.shared = (float *) shared.at;
    struct job jobs[MOST_PARTS];
    for (int64_t thread = 0; thread < work.threads; thread++) {
        jobs[thread] = (struct job){ &work, thread, filled(work.plan.scratch_bytes) };
    }
    atomic_init(&work.next_item, work.threads);
    pthread_barrier_init(&work.items_are_done, NULL, (unsigned) work.threads);
    in_parallel(attend_in_thread, jobs, sizeof jobs[0], (uint32_t) work.threads);
    pthread_barrier_destroy(&work.items_are_done);
    answer(out.at, out_bytes);
    for (int64_t thread = 0; thread < work.threads; thread++) {
        free(jobs[thread].scratch.block);
    }
    for (int i = 0; i < ATTENTION_ARRAYS; i++) {
        free(arrays[i].block);
    }
    free(out.block);
    free(shared.block);
}
