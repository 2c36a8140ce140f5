// Runs kernels for a Python process that cannot load them: those of another CPU, or compiled with sanitizers. Requests
// come on stdin, answers go to stdout, both in this machine's structs (little-endian); a finding ends the process. Every
// array is an allocation of its own, so that a sanitizer sees an access beyond it.
#include "interface/catalog.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol's byte order");

enum operation { LIST, SELECT, RUN };
// Of each token; one more array holds the weights.
enum array { X, ENTRIES, STEPS, SCALE, SUM, OUTPUT_SCALE, Y, ARRAYS };
enum { MAX_TOKENS = 256, MAX_PARTS = 64 };

struct row {
    char name[64], isa[32], type_name[32];
    uint32_t type_id, cpu_features, usual_features, bits, group, has_zeros, precision, form, is_gemm;
};

struct selection {
    uint32_t type_id, precision, cpu_features, forced_size;
    int64_t tokens;
};

// X empty: the activations are as sent. No weights: nothing is multiplied.
struct run {
    uint32_t kernel, input, parts, tokens;
    float scale;
    uint32_t unused;
    int64_t rows, cols;
};

struct size {
    int64_t size, offset; // where it begins in a 64-byte line
};

// What one thread does.
struct part {
    int64_t first_block, last_block, first_tile, last_tile;
};

struct work {
    const struct tmac_kernel * kernel;
    struct tmac_vector x[MAX_TOKENS];
    struct tmac_activations activations[MAX_TOKENS];
    float * y[MAX_TOKENS];
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
    const uint32_t head[] = { (uint32_t) tmac_kernel_count, tmac_cpu_features() };
    send(head, sizeof head);
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        const struct tmac_kernel * k = &tmac_kernels[i];
        struct row row = { .type_id = k->type_id, .cpu_features = k->cpu_features, .usual_features = k->usual_features,
                           .precision = k->precision, .form = k->form, .is_gemm = k->gemm != NULL };
        row.bits = (uint32_t) k->bits;
        row.group = (uint32_t) k->group;
        row.has_zeros = (uint32_t) k->has_zeros;
        snprintf(row.name, sizeof row.name, "%s", k->name);
        snprintf(row.isa, sizeof row.isa, "%s", k->isa);
        snprintf(row.type_name, sizeof row.type_name, "%s", k->type_name);
        send(&row, sizeof row);
    }
}

static void answer_selection(void) {
    struct selection asked;
    char forced[256] = "", error[200] = "", name[64] = "";
    receive(&asked, sizeof asked);
    if (asked.forced_size >= sizeof forced) {
        exit(1);
    }
    receive(forced, asked.forced_size);
    const struct tmac_kernel * found = tmac_select(asked.type_id, (enum tmac_precision) asked.precision,
                                                   asked.tokens, asked.cpu_features, forced, error, sizeof error);
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
        work->kernel->gemm(&work->w, work->activations, work->y, work->tokens, job->part.first_tile, job->part.last_tile);
    } else {
        work->kernel->gemv(&work->w, work->activations, work->y[0], job->part.first_tile, job->part.last_tile);
    }
    return NULL;
}

// One thread per part; ends when all have ended.
static void in_parallel(void * (*function)(void *), struct job * jobs, uint32_t parts) {
    pthread_t threads[MAX_PARTS];
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
    if (asked.kernel >= tmac_kernel_count || asked.parts < 1 || asked.parts > MAX_PARTS || asked.tokens < 1 ||
        asked.tokens > MAX_TOKENS) {
        exit(1);
    }
    static struct work work;
    struct job jobs[MAX_PARTS];
    for (uint32_t i = 0; i < asked.parts; i++) {
        receive(&jobs[i].part, sizeof jobs[i].part);
        jobs[i].work = &work;
    }
    struct size weights_size;
    static struct size sizes[MAX_TOKENS][ARRAYS];
    receive(&weights_size, sizeof weights_size);
    receive(sizes, asked.tokens * sizeof sizes[0]);
    const struct memory weights = receive_array(weights_size);
    static struct memory memory[MAX_TOKENS][ARRAYS];
    work.kernel = &tmac_kernels[asked.kernel];
    work.tokens = asked.tokens;
    work.w = tmac_matrix_at(work.kernel, weights.at, asked.rows, asked.cols);
    for (uint32_t t = 0; t < asked.tokens; t++) {
        for (int i = 0; i < ARRAYS; i++) {
            memory[t][i] = receive_array(sizes[t][i]);
        }
        const struct memory * of = memory[t];
        work.x[t] = (struct tmac_vector) { of[X].at, (enum tmac_input) asked.input, asked.scale, asked.cols };
        work.activations[t] = (struct tmac_activations) { (uint8_t *) of[ENTRIES].at, (uint32_t *) of[STEPS].at,
                                                          (float *) of[SCALE].at, (float *) of[SUM].at,
                                                          (float *) of[OUTPUT_SCALE].at };
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
            if (i >= ENTRIES) {
                send(memory[t][i].at, (size_t) sizes[t][i].size);
            }
            free(memory[t][i].block);
        }
    }
}

int main(void) {
    tmac_cpu_features(); // kernels of AMX fault before it
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
