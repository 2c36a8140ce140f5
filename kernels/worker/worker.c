// Runs kernels for a Python process that cannot load them: kernels for another CPU, or compiled with sanitizers.
// Requests come on stdin and answers go to stdout, as the little-endian structs of protocol.h. A sanitizer's finding ends
// the process. Every array is an allocation of its own, so that a sanitizer sees any access beyond it.
#include "worker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol is little-endian");

// The arrays of each token: its input, those of struct tmac_activations, its output. One more array holds the weights.
enum { X, FIRST_ACTIVATION, Y = FIRST_ACTIVATION + ACTIVATION_ARRAYS, ARRAYS };
_Static_assert(sizeof(struct tmac_activations) == ACTIVATION_ARRAYS * sizeof(void *), "only pointers to arrays");

struct work {
    const struct tmac_kernel * kernel;
    struct tmac_vector x[MOST_TOKENS];
    struct tmac_activations activations[MOST_TOKENS];
    float * y[MOST_TOKENS];
    uint32_t tokens;
    struct tmac_matrix w;
};

struct job {
    const struct work * work;
    struct part part;
};

void receive(void * to, size_t size) {
    if (size && fread(to, size, 1, stdin) != 1) {
        exit(feof(stdin) ? 0 : 1);
    }
}

void answer(const void * from, size_t size) {
    if (size && fwrite(from, size, 1, stdout) != 1) {
        exit(1);
    }
}

struct memory allocate(struct size size) {
    struct memory memory;
    if (posix_memalign(&memory.block, 64, (size_t) (size.offset + size.size))) {
        exit(1);
    }
    memory.at = (char *) memory.block + size.offset;
    return memory;
}

struct memory filled(size_t size) {
    const struct memory memory = allocate((struct size){ (int64_t) size, 0 });
    memset(memory.at, 0xFF, size);
    return memory;
}

struct memory receive_array(struct size size) {
    const struct memory memory = allocate(size);
    receive(memory.at, (size_t) size.size);
    return memory;
}

void receive_name(uint32_t size, char name[MOST_FORCED]) {
    if (size >= MOST_FORCED) {
        exit(1);
    }
    receive(name, size);
    name[size] = 0;
}

void answer_choice(const char * found, const char error[ERROR_BYTES]) {
    char name[NAME_BYTES] = "";
    snprintf(name, sizeof name, "%s", found);
    answer(name, sizeof name);
    answer(error, ERROR_BYTES);
}

void in_parallel(void * (*function)(void *), void * jobs, size_t size, uint32_t count) {
    pthread_t threads[MOST_PARTS];
    for (uint32_t i = 1; i < count; i++) {
        if (pthread_create(&threads[i], NULL, function, (char *) jobs + i * size)) {
            exit(1);
        }
    }
    function(jobs);
    for (uint32_t i = 1; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void list(void) {
    const struct head head = { (uint32_t) tmac_kernel_count, tmac_cpu_features() };
    answer(&head, sizeof head);
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        struct row row = ROW_OF(&tmac_kernels[i]);
        row.gemm = tmac_kernels[i].gemm != NULL;
        snprintf(row.name, sizeof row.name, "%s", tmac_kernels[i].name);
        answer(&row, sizeof row);
    }
}

static void answer_selection(void) {
    struct selection asked;
    char forced[MOST_FORCED], error[ERROR_BYTES] = "";
    receive(&asked, sizeof asked);
    receive_name(asked.forced_size, forced);
    const struct memory least_tokens = receive_array((struct size){ asked.crossings, 0 });
    const struct tmac_crossings crossings = { .least_tokens = (const uint8_t *) least_tokens.at };
    const struct tmac_kernel * found = tmac_select(asked.type_id, (enum tmac_precision) asked.precision, asked.tokens,
                                                   asked.cpu_features, &crossings, forced, error, sizeof error);
    answer_choice(found ? found->name : "", error);
    free(least_tokens.block);
}

static void * prepare(void * argument) {
    const struct job * job = argument;
    const struct work * work = job->work;
    for (uint32_t t = 0; t < work->tokens; t++) {
        work->kernel->prepare(&work->x[t], job->part.first_block, job->part.last_block, &work->activations[t]);
    }
    return NULL;
}

static void * multiply(void * argument) {
    const struct job * job = argument;
    const struct work * work = job->work;
    if (work->kernel->gemm) {
        work->kernel->gemm(&work->w, work->activations, work->y, work->tokens, job->part.first_tile,
                           job->part.last_tile);
    } else {
        work->kernel->gemv(&work->w, work->activations, work->y[0], job->part.first_tile, job->part.last_tile);
    }
    return NULL;
}

static void run(void) {
    struct run asked;
    receive(&asked, sizeof asked);
    if (asked.kernel >= tmac_kernel_count || asked.parts < 1 || asked.parts > MOST_PARTS || asked.tokens < 1 ||
        asked.tokens > MOST_TOKENS) {
        exit(1);
    }
    static struct work work;
    struct job jobs[MOST_PARTS];
    for (uint32_t i = 0; i < asked.parts; i++) {
        receive(&jobs[i].part, sizeof jobs[i].part);
        jobs[i].work = &work;
    }
    struct size weights_size;
    static struct size sizes[MOST_TOKENS][ARRAYS];
    receive(&weights_size, sizeof weights_size);
    receive(sizes, asked.tokens * sizeof sizes[0]);
    const struct memory weights = receive_array(weights_size);
    static struct memory memory[MOST_TOKENS][ARRAYS];
    work.kernel = &tmac_kernels[asked.kernel];
    work.tokens = asked.tokens;
    work.w = tmac_matrix_at(work.kernel->type, weights.at, asked.rows, asked.cols);
    for (uint32_t t = 0; t < asked.tokens; t++) {
        for (int i = 0; i < ARRAYS; i++) {
            memory[t][i] = receive_array(sizes[t][i]);
        }
        const struct memory * of = memory[t];
        work.x[t] = (struct tmac_vector){ of[X].at, (enum tmac_input) asked.input, asked.scale, asked.cols };
        void * arrays[ACTIVATION_ARRAYS];
        for (int i = 0; i < ACTIVATION_ARRAYS; i++) {
            arrays[i] = of[FIRST_ACTIVATION + i].at;
        }
        memcpy(&work.activations[t], arrays, sizeof arrays);
        work.y[t] = (float *) of[Y].at;
    }
    if (sizes[0][X].size) {
        in_parallel(prepare, jobs, sizeof jobs[0], asked.parts);
    }
    if (weights_size.size) {
        in_parallel(multiply, jobs, sizeof jobs[0], asked.parts);
    }
    free(weights.block);
    for (uint32_t t = 0; t < asked.tokens; t++) {
        for (int i = 0; i < ARRAYS; i++) {
            if (i >= FIRST_ACTIVATION) {
                answer(memory[t][i].at, (size_t) sizes[t][i].size);
            }
            free(memory[t][i].block);
        }
    }
}

int main(void) {
    tmac_cpu_features(); // asks Linux for permission to use AMX, without which its kernels fault
    for (;;) {
        uint32_t operation;
        receive(&operation, sizeof operation);
        switch (operation) {
            case LIST: list(); break;
            case SELECT: answer_selection(); break;
            case RUN: run(); break;
            case LIST_ATTENTION: list_attention(); break;
            case SELECT_ATTENTION: answer_attention_selection(); break;
            case PLAN_ATTENTION: plan_attention(); break;
            case ATTEND: attend(); break;
            case LIST_DELTA_NETS: list_delta_nets(); break;
            case SELECT_DELTA_NET: answer_delta_net_selection(); break;
            case UPDATE: update(); break;
            case CONVOLVE: convolve(); break;
            case LIST_ROTATIONS: list_rotations(); break;
            case SELECT_ROTATION: answer_rotation_selection(); break;
            case ROTATE: rotate(); break;
            default: return 1;
        }
        fflush(stdout);
    }
}
