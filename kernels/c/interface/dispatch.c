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

static int is_gemm(const struct tmac_kernel * kernel) { return kernel->gemm != NULL; }

struct question {
    uint32_t type_id, cpu_features;
    enum tmac_precision precision;
    int64_t tokens;
    const struct tmac_crossings * crossings;
};

// GEMV kernels take any number of tokens, one by one.
static int takes_so_many(const struct tmac_kernel * kernel, const struct question * asked) {
    return !is_gemm(kernel) || asked->tokens > 1;
}

static int is_of_method(const struct tmac_kernel * kernel, const struct question * asked) {
    return is_gemm(kernel) == (asked->tokens > 1);
}

static int64_t least_tokens(const struct tmac_kernel * kernel, const struct question * asked) {
    return is_gemm(kernel) ? asked->crossings->least_tokens[kernel->crossing] : 1;
}

// With one token, or with whatever number of several.
static int may_serve(const struct tmac_kernel * kernel, const struct question * asked) {
    const int takes = is_gemm(kernel) && asked->precision == TMAC_FAST ? TMAC_ROUNDED : (int) asked->precision;
    return kernel->type->id == asked->type_id && (int) kernel->precision == takes && takes_so_many(kernel, asked) &&
           least_tokens(kernel, asked) && runs_on(asked->cpu_features, kernel);
}

static int serves(const struct tmac_kernel * kernel, const struct question * asked) {
    return may_serve(kernel, asked) && least_tokens(kernel, asked) <= asked->tokens;
}

static int is_for(const struct tmac_crossings * table, const char * cpu, uint32_t cpu_features) {
    return !table->cpu || (strcmp(table->cpu, cpu) == 0 && (table->cpu_features & ~cpu_features) == 0);
}

const struct tmac_crossings * tmac_crossings_for(const char * cpu, uint32_t cpu_features) {
    for (size_t i = 0; i < tmac_measured_count; i++) {
        if (is_for(&tmac_measured[i], cpu, cpu_features)) {
            return &tmac_measured[i];
        }
    }
    const struct tmac_crossings * table = tmac_crossings;
    while (!is_for(table, cpu, cpu_features)) {
        table++; // the last one is for every CPU
    }
    return table;
}

// Ternary types have no kernels of the precision `fast`: those of `rounded` serve.
static enum tmac_precision precision_of(uint32_t type_id, enum tmac_precision precision) {
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        if (tmac_kernels[i].type->id == type_id && tmac_kernels[i].precision == precision) {
            return precision;
        }
    }
    return precision == TMAC_FAST ? TMAC_ROUNDED : precision;
}

const struct tmac_kernel * tmac_select(uint32_t type_id, enum tmac_precision precision, int64_t tokens,
                                       uint32_t cpu_features, const struct tmac_crossings * crossings,
                                       const char * forced, char * error, size_t error_size) {
    const struct question asked = { type_id, cpu_features, precision_of(type_id, precision), tokens, crossings };
    const int is_forced = forced && forced[0];
    const struct tmac_kernel * best = NULL;
    const struct tmac_kernel * best_forced = NULL;
    int name_known = 0, name_runs = 0, set_has_method = 0, set_may_serve = 0;
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        const struct tmac_kernel * kernel = &tmac_kernels[i];
        const int fits = serves(kernel, &asked);
        if (fits && !best) {
            best = kernel;
        }
        if (!is_forced || !answers_to(kernel, forced)) {
            continue;
        }
        const int is_named = strcmp(kernel->name, forced) == 0;
        name_known = 1;
        name_runs |= runs_on(cpu_features, kernel);
        set_has_method |= !is_named && takes_so_many(kernel, &asked);
        set_may_serve |= may_serve(kernel, &asked);
        // A named GEMV leaves several tokens to the usual kernels.
        const int named_fits =
            kernel->type->id == type_id && is_of_method(kernel, &asked) && runs_on(cpu_features, kernel);
        if ((is_named ? named_fits : fits) && !best_forced) {
            best_forced = kernel;
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
    if (set_has_method && !set_may_serve && best) {
        snprintf(error, error_size,
                 "TMAC_KERNEL=%s: no kernel of this instruction set serves type 0x%x with %s precision", forced,
                 type_id, tmac_precision_names[precision]);
        return NULL;
    }
    if (!best) {
        snprintf(error, error_size, "no kernel serves type 0x%x with %s precision", type_id,
                 tmac_precision_names[precision]);
    }
    return best;
}

// Bytes of one array in a buffer of activations: each begins at a multiple of 64.
static size_t padded(size_t bytes) { return (bytes + 63) & ~(size_t) 63; }

struct sizes {
    size_t entries, steps, scale, sum, half_sum;
};

static struct sizes sizes_of(enum tmac_form form, int64_t cols) {
    const struct tmac_form_sizes of = tmac_form_sizes[form];
    const size_t columns = (size_t) cols, groups = columns / TMAC_TABLE_GROUP;
    const size_t scales = of.scale_columns ? (columns + of.scale_columns - 1) / of.scale_columns : 0;
    const struct sizes sizes = { padded(columns * of.column_bytes),
                                 of.has_steps ? padded(groups * 4 * sizeof(uint32_t)) : 0,
                                 padded(scales * sizeof(float)), of.has_sums ? padded(groups * sizeof(float)) : 0,
                                 of.has_half_sums ? padded(2 * groups * sizeof(float)) : 0 };
    return sizes;
}

size_t tmac_activations_size(enum tmac_form form, int64_t cols) {
    const struct sizes sizes = sizes_of(form, cols);
    return sizes.entries + sizes.steps + sizes.scale + sizes.sum + sizes.half_sum + 64;
}

struct tmac_activations tmac_activations_at(void * buffer, enum tmac_form form, int64_t cols) {
    const struct sizes sizes = sizes_of(form, cols);
    uint8_t * at = buffer;
    struct tmac_activations activations;
    activations.entries = at;
    activations.steps = (uint32_t *) (at += sizes.entries);
    activations.scale = (float *) (at += sizes.steps);
    activations.sum = (float *) (at += sizes.scale);
    activations.half_sum = (float *) (at += sizes.sum);
    activations.output_scale = (float *) (at + sizes.half_sum);
    return activations;
}

const struct tmac_type * tmac_type_of(uint32_t type_id) {
    for (size_t i = 0; i < tmac_type_count; i++) {
        if (tmac_types[i].id == type_id) {
            return &tmac_types[i];
        }
    }
    return NULL;
}

struct tmac_matrix tmac_matrix_at(const struct tmac_type * type, const void * data, int64_t rows, int64_t cols) {
    const size_t plane_bytes = (size_t) rows * (size_t) (cols / type->block_cols) * (size_t) type->code_bytes;
    const size_t scale_bytes = type->group ? (size_t) rows * (size_t) (cols / type->group) * sizeof(uint16_t) : 0;
    struct tmac_matrix w = { .planes = data, .rows = rows, .cols = cols };
    const uint8_t *after_planes = w.planes + plane_bytes, *after_scales = after_planes + scale_bytes;
    if (type->grid == TMAC_GRID_LEVELS || type->grid == TMAC_GRID_LEVELS_MINIMA) {
        w.levels = after_planes;
        return w;
    }
    w.scales = type->group ? (const uint16_t *) after_planes : NULL;
    w.zeros = type->grid == TMAC_GRID_ZEROS ? after_scales : NULL;
    w.minima = type->grid == TMAC_GRID_MINIMA ? (const uint16_t *) after_scales : NULL;
    return w;
}
