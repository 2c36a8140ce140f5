// Checks that ggml's GGUF reader makes on T-MAC files and tensors. Plain functions, usable from C and C++.
#pragma once

#include "ggml-impl.h"
#include "gguf.h"
#include "kernels/interface/tmac_format.h"
#include "tmac-precision.h"
#include "tmac-types.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// Returns false, with a message, for a type number that is not defined (the table of types is sparse), and for a T-MAC
// type in a file without a layout version.
static inline bool tmac_can_read_type(const struct gguf_context * gguf, int type, const char * tensor) {
    if (ggml_type_name((enum ggml_type) type) == NULL) {
        GGML_LOG_ERROR("tmac: tensor '%s' has type %d, which this build does not know\n", tensor, type);
        return false;
    }
    if (tmac_is_type(type) && gguf_find_key(gguf, TMAC_LAYOUT_VERSION_KEY) < 0) {
        GGML_LOG_ERROR("tmac: tensor '%s' has type %s, but the file has no key " TMAC_LAYOUT_VERSION_KEY "; "
                       "convert the model again\n",
                       tensor, ggml_type_name((enum ggml_type) type));
        return false;
    }
    return true;
}

// Returns false, with a message, for rotated weights in a file that is no language model: src/tmac-rotations.h serves
// those only. An encoder of images has graphs of its own.
static inline bool tmac_can_read_rotation(const struct gguf_context * gguf) {
    const int64_t architecture = gguf_find_key(gguf, "general.architecture");
    const bool is_encoder = architecture >= 0 && gguf_get_kv_type(gguf, architecture) == GGUF_TYPE_STRING &&
                            strcmp(gguf_get_val_str(gguf, architecture), "clip") == 0;
    for (int64_t i = 0; is_encoder && i < gguf_get_n_kv(gguf); i++) {
        if (strncmp(gguf_get_key(gguf, i), TMAC_ROTATION_MAKER, strlen(TMAC_ROTATION_MAKER)) == 0) {
            GGML_LOG_ERROR("tmac: rotated weights: key '%s' in an encoder, whose graph does not rotate\n",
                           gguf_get_key(gguf, i));
            return false;
        }
    }
    return true;
}

// Returns false, with a message, for a layout version or a kind of activations that this build does not know.
static inline bool tmac_can_read_layout(const struct gguf_context * gguf) {
    if (!tmac_can_read_rotation(gguf)) {
        return false;
    }
    const int64_t key = gguf_find_key(gguf, TMAC_LAYOUT_VERSION_KEY);
    if (key < 0) {
        return true;
    }
    if (gguf_get_kv_type(gguf, key) != GGUF_TYPE_UINT32) {
        GGML_LOG_ERROR("tmac: key '" TMAC_LAYOUT_VERSION_KEY "' is of type %s, expected u32\n",
                       gguf_type_name(gguf_get_kv_type(gguf, key)));
        return false;
    }
    const uint32_t version = gguf_get_val_u32(gguf, key);
    if (version != TMAC_LAYOUT_VERSION) {
        GGML_LOG_ERROR("tmac: the file has T-MAC layout version %u; this build reads version %d. "
                       "Convert the model again, or build with a T-MAC that knows version %u.\n",
                       version, TMAC_LAYOUT_VERSION, version);
        return false;
    }
    const int64_t activations = gguf_find_key(gguf, TMAC_ACTIVATIONS_KEY);
    if (activations >= 0 && !tmac_activations_are_int8(gguf)) {
        const bool is_text = gguf_get_kv_type(gguf, activations) == GGUF_TYPE_STRING;
        GGML_LOG_ERROR("tmac: key '" TMAC_ACTIVATIONS_KEY "' is '%s'; this build knows '" TMAC_ACTIVATIONS_INT8 "'\n",
                       is_text ? gguf_get_val_str(gguf, activations) : "no string");
        return false;
    }
    return true;
}
