// Recognizes T-MAC's tensor types. Plain functions on public headers, usable from llama and ggml.
#pragma once

#include "ggml.h"
#include "kernels/interface/tmac_format.h"

#include <stdbool.h>

static inline bool tmac_is_type(int type) {
    return type >= TMAC_FIRST_TYPE_ID && type < TMAC_END_TYPE_ID && ggml_blck_size((enum ggml_type) type) > 0;
}
