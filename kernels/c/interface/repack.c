// Which stock types are repacked, and by what.
#include "tmac.h"

#include <stdio.h>
#include <string.h>

const struct tmac_stock_type * tmac_stock_type_of(uint32_t ggml_id) {
    for (size_t i = 0; i < tmac_stock_type_count; i++) {
        if (tmac_stock_types[i].id == ggml_id) {
            return &tmac_stock_types[i];
        }
    }
    return NULL;
}

const struct tmac_repacker * tmac_select_repacker(const struct tmac_stock_type * stock, uint32_t cpu_features) {
    for (size_t i = 0; i < tmac_repacker_count; i++) {
        const struct tmac_repacker * const repacker = &tmac_repackers[i];
        if (repacker->stock == stock && (repacker->cpu_features & ~cpu_features) == 0) {
            return repacker;
        }
    }
    return NULL;
}

// The first instruction set that the CPU has: every one has a GEMM kernel.
static const char * instruction_set(uint32_t cpu_features) {
    for (size_t i = 0; i < tmac_kernel_count; i++) {
        if (tmac_kernels[i].gemm && (tmac_kernels[i].cpu_features & ~cpu_features) == 0) {
            return tmac_kernels[i].isa;
        }
    }
    return "";
}

int tmac_is_left_to_stock(const struct tmac_stock_type * stock, uint32_t cpu_features) {
    char word[40];
    snprintf(word, sizeof word, " %s ", instruction_set(cpu_features));
    return strstr(stock->left_on, word) != NULL;
}
