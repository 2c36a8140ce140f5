// Which kernel computes gated delta nets on this CPU.
#include "tmac.h"

#include <stdio.h>
#include <string.h>

int64_t tmac_delta_net_blocks(const struct tmac_delta_net * n) {
    return n->sequences * n->heads * (n->width / TMAC_DELTA_ROWS);
}

const struct tmac_delta_net_kernel * tmac_select_delta_net(uint32_t cpu_features, const char * forced, char * error,
                                                           size_t error_size) {
    int is_known = 0;
    for (size_t i = 0; i < tmac_delta_net_kernel_count; i++) {
        const struct tmac_delta_net_kernel * kernel = &tmac_delta_net_kernels[i];
        const int is_meant =
            !forced || !forced[0] || strcmp(forced, kernel->isa) == 0 || strcmp(forced, kernel->name) == 0;
        is_known |= is_meant;
        if (is_meant && (kernel->cpu_features & ~cpu_features) == 0) {
            return kernel;
        }
    }
    snprintf(error, error_size, "TMAC_DELTA_NET=%s: %s", forced,
             is_known ? "this CPU lacks the instructions" : "no delta net kernel or instruction set has this name");
    return NULL;
}
