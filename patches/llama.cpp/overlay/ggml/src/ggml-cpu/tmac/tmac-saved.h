// What llama_model_save_to_file must write beside the weights, so that the file means the same: our keys, those of rotated
// weights, and column orders. C++ on public headers, for llama.
#pragma once

#include "ggml-backend.h"
#include "gguf.h"
#include "tmac-order.h"
#include "tmac-types.h"
#include "tmac-weight.h"

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// The keys of a file that say what tensors mean. NULL if there are none.
static inline std::shared_ptr<const gguf_context> tmac_keys_of(const gguf_context * file) {
    std::shared_ptr<gguf_context> kept;
    for (int64_t i = 0; file && i < gguf_get_n_kv(file); i++) {
        const char * key = gguf_get_key(file, i);
        if (strncmp(key, TMAC_KEY_PREFIX, strlen(TMAC_KEY_PREFIX)) != 0 &&
            strncmp(key, TMAC_ROTATION_MAKER, strlen(TMAC_ROTATION_MAKER)) != 0) {
            continue;
        }
        if (!kept) {
            kept.reset(gguf_init_empty(), gguf_free);
        }
        const gguf_type type = gguf_get_kv_type(file, i);
        const gguf_type element = type == GGUF_TYPE_ARRAY ? gguf_get_arr_type(file, i) : type;
        if (type == GGUF_TYPE_ARRAY && element == GGUF_TYPE_STRING) {
            std::vector<const char *> texts(gguf_get_arr_n(file, i));
            for (size_t n = 0; n < texts.size(); n++) {
                texts[n] = gguf_get_arr_str(file, i, n);
            }
            gguf_set_arr_str(kept.get(), key, texts.data(), texts.size());
        } else if (type == GGUF_TYPE_ARRAY) {
            gguf_set_arr_data(kept.get(), key, element, gguf_get_arr_data(file, i), gguf_get_arr_n(file, i));
        } else if (type == GGUF_TYPE_STRING) {
            gguf_set_val_str(kept.get(), key, gguf_get_val_str(file, i));
        } else if (type == GGUF_TYPE_BOOL) {
            gguf_set_val_bool(kept.get(), key, gguf_get_val_bool(file, i));
        } else if (type == GGUF_TYPE_UINT32) {
            gguf_set_val_u32(kept.get(), key, gguf_get_val_u32(file, i));
        }
        // docs/format.md has no key of another type.
    }
    return kept;
}

static inline void tmac_add_keys(gguf_context * to, const std::shared_ptr<const gguf_context> & kept) {
    if (kept) {
        gguf_set_kv(to, kept.get());
    }
}

// The tensor that is stored beside a weight; NULL if there is none. Throws for a weight whose bytes are gone: the file that
// is written is not open yet.
static inline const ggml_tensor * tmac_saved_beside(const ggml_tensor * weight) {
    const ggml_backend_buffer_t buffer = weight->view_src ? weight->view_src->buffer : weight->buffer;
    if (buffer && strcmp(ggml_backend_buffer_name(buffer), TMAC_REPACKED_BUFFER) == 0) {
        throw std::runtime_error(tmac_sentence(weight, TMAC_REPACKED_UNREADABLE));
    }
    return tmac_is_type(weight->type) ? tmac_order_of(weight) : nullptr;
}
