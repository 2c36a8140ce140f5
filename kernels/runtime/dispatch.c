// Which kernel serves a type on this CPU, and where things lie in memory.
#include "tmac.h"

#include <stdio.h>
#include <string.h>

static int runs_on(uint32_t cpu_features, const struct tmac_kernel * kernel) {
    return (kernel->cpu_features & ~cpu_features) == 0;
}

static int answers_to(const struct tmac_kernel * kernel, const char * name) {
    return strcmp(kernel->name, name) == 0 || strcmp(kernel->isa, name) == 0;
}

const struct tmac_kernel * tmac_select(uint32_t type_id, uint32_t cpu_features, const char * forced, char * error,
                                       size_t error_size) {
    const int is_forced = forced && forced[0];
    const struct tmac_kernel * best = NULL;
    const struct tmac_kernel * best_forced = NULL;
    int name_known = 0, name_is_kernel = 0, name_runs = 0;
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        const struct tmac_kernel * kernel = &tmac_kernels[i];
        const int serves = kernel->type_id == type_id;
        if (serves && !best && runs_on(cpu_features, kernel)) {
            best = kernel;
        }
        if (is_forced && answers_to(kernel, forced)) {
            name_known = 1;
            name_is_kernel |= strcmp(kernel->name, forced) == 0;
            name_runs |= runs_on(cpu_features, kernel);
            if (serves && !best_forced && runs_on(cpu_features, kernel)) {
                best_forced = kernel;
            }
        }
    }
    if (is_forced && !name_known) {
        snprintf(error, error_size, "TMAC_KERNEL=%s: no kernel or instruction set has this name", forced);
        return NULL;
    }
    if (is_forced && !name_runs) {
        snprintf(error, error_size, "TMAC_KERNEL=%s: this CPU lacks the instructions", forced);
        return NULL;
    }
    if (best_forced) {
        return best_forced;
    }
    if (is_forced && !name_is_kernel && best) {
        snprintf(error, error_size, "TMAC_KERNEL=%s: no kernel of this instruction set serves type 0x%x", forced, type_id);
        return NULL;
    }
    if (!best) {
        snprintf(error, error_size, "no kernel serves type 0x%x", type_id);
    }
    return best;
}

static size_t entries_size(int64_t cols) { return (size_t) cols * 4; }

static size_t floats_size(int64_t cols) {
    return ((size_t) (cols / TMAC_TABLE_GROUP) * sizeof(float) + 63) & ~(size_t) 63;
}

size_t tmac_tables_size(int64_t cols) { return entries_size(cols) + 2 * floats_size(cols); }

struct tmac_tables tmac_tables_at(void * buffer, int64_t cols) {
    uint8_t * at = buffer;
    struct tmac_tables tables;
    tables.entries = at;
    tables.half_scale = (float *) (at + entries_size(cols));
    tables.sum = (float *) (at + entries_size(cols) + floats_size(cols));
    return tables;
}

struct tmac_matrix tmac_matrix_at(const struct tmac_kernel * kernel, const void * data, int64_t rows, int64_t cols) {
    const size_t plane_bytes = (size_t) rows * (size_t) cols / 8 * (size_t) kernel->bits;
    const size_t scale_bytes = (size_t) rows * (size_t) (cols / kernel->group) * sizeof(uint16_t);
    struct tmac_matrix w;
    w.planes = data;
    w.scales = (const uint16_t *) (w.planes + plane_bytes);
    w.zeros = kernel->has_zeros ? w.planes + plane_bytes + scale_bytes : NULL;
    w.rows = rows;
    w.cols = cols;
    return w;
}
