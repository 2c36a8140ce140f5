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

static const char * name_of(enum tmac_precision precision) {
    static const char * const names[] = { "rounded", "exact", "fast" };
    return names[precision];
}

const struct tmac_kernel * tmac_select(uint32_t type_id, enum tmac_precision precision, uint32_t cpu_features,
                                       const char * forced, char * error, size_t error_size) {
    const int is_forced = forced && forced[0];
    const struct tmac_kernel * best = NULL;
    const struct tmac_kernel * best_forced = NULL;
    int name_known = 0, name_is_kernel = 0, name_runs = 0;
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        const struct tmac_kernel * kernel = &tmac_kernels[i];
        const int is_named = is_forced && strcmp(kernel->name, forced) == 0;
        const int serves = kernel->type_id == type_id && (is_named || kernel->precision == precision);
        if (serves && !is_named && !best && runs_on(cpu_features, kernel)) {
            best = kernel;
        }
        if (is_forced && answers_to(kernel, forced)) {
            name_known = 1;
            name_is_kernel |= is_named;
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
        snprintf(error, error_size, "TMAC_KERNEL=%s: no kernel of this instruction set serves type 0x%x with %s precision",
                 forced, type_id, name_of(precision));
        return NULL;
    }
    if (!best) {
        snprintf(error, error_size, "no kernel serves type 0x%x with %s precision", type_id, name_of(precision));
    }
    return best;
}

static size_t entries_size(enum tmac_precision precision, int64_t cols) {
    return (size_t) cols * (precision == TMAC_EXACT ? 8 : 4);
}

static size_t floats_size(int64_t cols) {
    return ((size_t) (cols / TMAC_TABLE_GROUP) * sizeof(float) + 63) & ~(size_t) 63;
}

size_t tmac_tables_size(enum tmac_precision precision, int64_t cols) {
    return entries_size(precision, cols) + 2 * floats_size(cols) + 64;
}

struct tmac_tables tmac_tables_at(void * buffer, enum tmac_precision precision, int64_t cols) {
    uint8_t * at = buffer;
    struct tmac_tables tables;
    tables.entries = at;
    tables.half_scale = (float *) (at += entries_size(precision, cols));
    tables.sum = (float *) (at += floats_size(cols));
    tables.output_scale = (float *) (at + floats_size(cols));
    return tables;
}

struct tmac_matrix tmac_matrix_at(const struct tmac_kernel * kernel, const void * data, int64_t rows, int64_t cols) {
    const size_t plane_bytes = (size_t) rows * (size_t) cols / 8 * (size_t) kernel->bits;
    const size_t scale_bytes = kernel->group ? (size_t) rows * (size_t) (cols / kernel->group) * sizeof(uint16_t) : 0;
    struct tmac_matrix w;
    w.planes = data;
    w.scales = kernel->group ? (const uint16_t *) (w.planes + plane_bytes) : NULL;
    w.zeros = kernel->has_zeros ? w.planes + plane_bytes + scale_bytes : NULL;
    w.rows = rows;
    w.cols = cols;
    return w;
}
