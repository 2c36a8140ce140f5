// Runs kernels for a Python process that cannot load them: kernels for another CPU, or compiled with sanitizers.
// Requests come on stdin and answers go to stdout, as the little-endian structs of protocol.h. A sanitizer's finding ends
// the process. Every array is an allocation of its own, so that a sanitizer sees any access beyond it.
#include "interface/catalog.h"
#include "protocol.h"

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

static void receive(void * to, size_t size) {
    if (size && fread(to, size, 1, stdin) != 1) {
        exit(feof(stdin) ? 0 : 1);
    }
}

static void send(const void * from, size_t size) {
    if (size && fwrite(from, size, 1, stdout) != 1) {
        exit(1);
    }
}

static void list(void) {
    const struct head head = { (uint32_t) tmac_kernel_count, tmac_cpu_features() };
    send(&head, sizeof head);
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        struct row row = ROW_OF(&tmac_kernels[i]);
        snprintf(row.name, sizeof row.name, "%s", tmac_kernels[i].name);
        send(&row, sizeof row);
    }
}

static void answer_selection(void) {
    struct selection asked;
    char forced[256] = "", error[ERROR_BYTES] = "", name[NAME_BYTES] = "";
    receive(&asked, sizeof asked);
    if (asked.forced_size >= sizeof forced) {
        exit(1);
    }
    receive(forced, asked.forced_size);
    const struct tmac_kernel * found = tmac_select(asked.type_id, (enum tmac_precision) asked.precision, asked.tokens,
                                                   asked.cpu_features, forced, error, sizeof error);
    snprintf(name, sizeof name, "%s", found ? found->name : "");
    send(name, sizeof name);
    send(error, sizeof error);
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

// Runs one thread per part and waits for all of them.
static void in_parallel(void * (*function)(void *), struct job * jobs, uint32_t parts) {
    pthread_t threads[MOST_PARTS];
    for (uint32_t i = 1; i < parts; i++) {
        if (pthread_create(&threads[i], NULL, function, &jobs[i])) {
            exit(1);
        }
    }
    function(&jobs[0]);
    for (uint32_t i = 1; i < parts; i++) {
        pthread_join(threads[i], NULL);
    }
}

struct memory {
    void * block;
    char * at;
};

static struct memory receive_array(struct size size) {
    struct memory memory;
    if (posix_memalign(&memory.block, 64, (size_t) (size.offset + size.size))) {
        exit(1);
    }
    memory.at = (char *) memory.block + size.offset;
    receive(memory.at, (size_t) size.size);
    return memory;
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
        in_parallel(prepare, jobs, asked.parts);
    }
    if (weights_size.size) {
        in_parallel(multiply, jobs, asked.parts);
    }
    free(weights.block);
    for (uint32_t t = 0; t < asked.tokens; t++) {
        for (int i = 0; i < ARRAYS; i++) {
            if (i >= FIRST_ACTIVATION) {
                send(memory[t][i].at, (size_t) sizes[t][i].size);
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
            default: return 1;
        }
        fflush(stdout);
    }
}
