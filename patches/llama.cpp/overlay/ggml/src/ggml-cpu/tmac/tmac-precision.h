// The precision that a model was trained for: read from a key of the file, and stored by the loader in each weight
// tensor, where the kernels' side finds it. Plain functions on public headers, usable from llama and ggml.
#pragma once

#include "ggml.h"
#include "gguf.h"
#include "kernels/interface/tmac.h"
#include "tmac-types.h"

#include <stdbool.h>
#include <string.h>

static inline bool tmac_activations_are_int8(const struct gguf_context * gguf) {
    const int64_t key = gguf_find_key(gguf, TMAC_ACTIVATIONS_KEY);
    return key >= 0 && gguf_get_kv_type(gguf, key) == GGUF_TYPE_STRING &&
           strcmp(gguf_get_val_str(gguf, key), TMAC_ACTIVATIONS_INT8) == 0;
}

// The op_params of a weight are unused, because it is no operation. All zero means rounded.
static inline void tmac_mark_weight(struct ggml_tensor * weight, const struct gguf_context * gguf) {
    if (tmac_is_type(weight->type)) {
        weight->op_params[0] = tmac_activations_are_int8(gguf) ? TMAC_EXACT : TMAC_ROUNDED;
    }
}

static inline int tmac_precision_of_weight(const struct ggml_tensor * weight) {
    return weight->op == GGML_OP_NONE && weight->op_params[0] == TMAC_EXACT ? TMAC_EXACT : TMAC_ROUNDED;
}
