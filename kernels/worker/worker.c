// Runs kernels for a Python process that cannot load them: those of another CPU, or compiled with sanitizers. Requests
// come on stdin, answers go to stdout, both in this machine's structs (little-endian); a finding ends the process. Every
// array is an allocation of its own, so that a sanitizer sees an access beyond it.
#include "catalog.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol's byte order");

enum operation { LIST, SELECT, RUN };
enum array { X, WEIGHTS, ENTRIES, HALF_SCALE, SUM, OUTPUT_SCALE, Y, ARRAYS };

struct row {
    char name[64], isa[32], type_name[32];
    uint32_t type_id, cpu_features, bits, group, has_zeros, precision;
};

struct selection {
    uint32_t type_id, precision, cpu_features, forced_size;
};

// X empty: the tables are as sent. WEIGHTS empty: nothing is multiplied.
struct run {
    uint32_t kernel, input, parts;
    float scale;
    int64_t rows, cols;
    struct {
        int64_t size, offset; // where it begins in a 64-byte line
    } arrays[ARRAYS];
};

// What one thread does.
struct part {
    int64_t first_group, last_group, first_tile, last_tile;
};

struct work {
    const struct tmac_kernel * kernel;
    struct tmac_vector x;
    struct tmac_tables tables;
    struct tmac_matrix w;
    float * y;
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
        struct row row = { .type_id = k->type_id, .cpu_features = k->cpu_features, .precision = k->precision };
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
                                                   asked.cpu_features, forced, error, sizeof error);
    snprintf(name, sizeof name, "%s", found ? found->name : "");
    send(name, sizeof name);
    send(error, sizeof error);
}

static void * build_tables(void * argument) {
    const struct work * work = argument;
    work->kernel->build_tables(&work->x, work->part.first_group, work->part.last_group, &work->tables);
    return NULL;
}

static void * multiply(void * argument) {
    const struct work * work = argument;
    work->kernel->gemv(&work->w, &work->tables, work->y, work->part.first_tile, work->part.last_tile);
    return NULL;
}

// One thread per part; ends when all have ended.
static void in_parallel(void * (*function)(void *), struct work * works, uint32_t parts) {
    pthread_t threads[64];
    for (uint32_t i = 1; i < parts; i++) {
        if (pthread_create(&threads[i], NULL, function, &works[i])) {
            exit(1);
        }
    }
    function(&works[0]);
    for (uint32_t i = 1; i < parts; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void run(void) {
    struct run asked;
    receive(&asked, sizeof asked);
    if (asked.kernel >= tmac_kernel_count || asked.parts < 1 || asked.parts > 64) {
        exit(1);
    }
    struct work works[64];
    for (uint32_t i = 0; i < asked.parts; i++) {
        receive(&works[i].part, sizeof works[i].part);
    }
    void * memory[ARRAYS];
    char * at[ARRAYS];
    for (int i = 0; i < ARRAYS; i++) {
        if (posix_memalign(&memory[i], 64, (size_t) (asked.arrays[i].offset + asked.arrays[i].size))) {
            exit(1);
        }
        at[i] = (char *) memory[i] + asked.arrays[i].offset;
        receive(at[i], (size_t) asked.arrays[i].size);
    }
    const struct tmac_kernel * kernel = &tmac_kernels[asked.kernel];
    for (uint32_t i = 0; i < asked.parts; i++) {
        works[i].kernel = kernel;
        works[i].x = (struct tmac_vector) { at[X], (enum tmac_input) asked.input, asked.scale, asked.cols };
        works[i].tables = (struct tmac_tables) { (uint8_t *) at[ENTRIES], (float *) at[HALF_SCALE], (float *) at[SUM],
                                                 (float *) at[OUTPUT_SCALE] };
        works[i].w = tmac_matrix_at(kernel, at[WEIGHTS], asked.rows, asked.cols);
        works[i].y = (float *) at[Y];
    }
    if (asked.arrays[X].size) {
        in_parallel(build_tables, works, asked.parts);
    }
    if (asked.arrays[WEIGHTS].size) {
        in_parallel(multiply, works, asked.parts);
    }
    for (int i = 0; i < ARRAYS; i++) {
        if (i >= ENTRIES) {
            send(at[i], (size_t) asked.arrays[i].size);
        }
        free(memory[i]);
    }
}

int main(void) {
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
