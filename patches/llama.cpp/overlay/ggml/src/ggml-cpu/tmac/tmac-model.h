// What is checked when a model's files are opened and when its tensors are created. Everything throws. C++ on public
// headers, for llama's loader.
#pragma once

#include "ggml.h"
#include "gguf.h"
#include "tmac-precision.h"
#include "tmac-types.h"
#include "tmac-weight.h"

#include <algorithm>
#include <cstring>
#include <istream>
#include <stdexcept>
#include <string>

[[noreturn]] static inline void tmac_refuse_file(const std::string & file, const std::string & what) {
    throw std::runtime_error("tmac: " + file + ": " + what);
}

// Refuses a layout version or a kind of activations that this build does not know.
static inline void tmac_check_keys(const gguf_context * gguf, const std::string & file) {
    const int64_t key = gguf_find_key(gguf, TMAC_LAYOUT_VERSION_KEY);
    if (key < 0) {
        return;
    }
    if (gguf_get_kv_type(gguf, key) != GGUF_TYPE_UINT32) {
        tmac_refuse_file(file, std::string("key '" TMAC_LAYOUT_VERSION_KEY "' is of type ") +
                                   gguf_type_name(gguf_get_kv_type(gguf, key)) + ", expected u32");
    }
    const uint32_t version = gguf_get_val_u32(gguf, key);
    if (version != TMAC_LAYOUT_VERSION) {
        tmac_refuse_file(file, "the file has T-MAC layout version " + std::to_string(version) +
                                   "; this build reads version " + std::to_string(TMAC_LAYOUT_VERSION) +
                                   ". Convert the model again, or build with a T-MAC that knows version " +
                                   std::to_string(version));
    }
    const int64_t activations = gguf_find_key(gguf, TMAC_ACTIVATIONS_KEY);
    if (activations >= 0 && !tmac_activations_are_int8(gguf)) {
        const bool is_text = gguf_get_kv_type(gguf, activations) == GGUF_TYPE_STRING;
        tmac_refuse_file(file, std::string("key '" TMAC_ACTIVATIONS_KEY "' is '") +
                                   (is_text ? gguf_get_val_str(gguf, activations) : "no string") +
                                   "'; this build knows '" TMAC_ACTIVATIONS_INT8 "'");
    }
}

// Refuses tensors that cannot lie where the header says. The reader takes the beginning of the data from
// general.alignment, so a forged value moves all tensors; only the bytes behind the last one tell.
static inline void tmac_check_data(const gguf_context * gguf, const std::string & file, size_t file_bytes) {
    size_t end = 0;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        end =
            std::max(end, gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i) + gguf_get_tensor_size(gguf, i));
    }
    const size_t alignment = gguf_get_alignment(gguf);
    if (alignment < GGUF_DEFAULT_ALIGNMENT) {
        tmac_refuse_file(file, "general.alignment is " + std::to_string(alignment) + ", expected " +
                                   std::to_string(TMAC_ALIGNMENT) + ", or at least " +
                                   std::to_string(GGUF_DEFAULT_ALIGNMENT) + " of files that other tools have written");
    }
    if (file_bytes > end && file_bytes - end >= alignment) {
        tmac_refuse_file(file, std::to_string(file_bytes - end) +
                                   " bytes follow the last tensor, expected fewer than general.alignment, " +
                                   std::to_string(alignment) + "; was the header changed? Convert the model again");
    }
}

// Checks one file of a model. `file_bytes` is 0 for a file that is a part of another one.
static inline void tmac_check_file(const gguf_context * gguf, const char * name, size_t file_bytes) {
    const std::string file = name && name[0] ? name : "the file";
    tmac_check_keys(gguf, file);
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        if (tmac_is_type(gguf_get_tensor_type(gguf, i))) {
            tmac_check_data(gguf, file, file_bytes);
            return;
        }
    }
}

// Refuses a tensor of a T-MAC type without the key that says how it is laid out.
static inline void tmac_check_layout(const char * tensor, ggml_type type, const gguf_context * gguf) {
    if (gguf_find_key(gguf, TMAC_LAYOUT_VERSION_KEY) < 0) {
        throw std::runtime_error(std::string("tmac: tensor '") + tensor + "' has type " + ggml_type_name(type) +
                                 ", but the file has no key " TMAC_LAYOUT_VERSION_KEY "; convert the model again");
    }
}

// Checks a tensor of a model, whose first file has the keys `gguf`.
static inline void tmac_check_tensor(const ggml_tensor * tensor, const gguf_context * gguf) {
    if (!tmac_is_type(tensor->type)) {
        return;
    }
    tmac_check_layout(tensor->name, tensor->type, gguf);
    const std::string obstacle = tmac_weight_obstacle(tensor, true);
    if (!obstacle.empty()) {
        throw std::runtime_error(tmac_sentence(tensor, obstacle));
    }
}

// Refuses a tensor that the model's graphs use for another operation than a product.
static inline void tmac_check_use(const ggml_tensor * tensor, ggml_op op) {
    const std::string obstacle = tmac_is_type(tensor->type) ? tmac_use_obstacle(op) : "";
    if (!obstacle.empty()) {
        throw std::runtime_error(tmac_sentence(tensor, obstacle));
    }
}

// Checks what another loader reads than that of models' files: an adapter, an encoder of images, or a model whose data a
// program sets. None of them reads column orders or marks weights. `meta` has the tensors; NULL if they have no shape yet.
// `file_bytes` is 0 if there is no file.
static inline void tmac_check_companion(const gguf_context * gguf, ggml_context * meta, const char * file,
                                        size_t file_bytes) {
    static const char * const is_not_read = "' is only read from the file of a language model";
    tmac_check_file(gguf, file, file_bytes);
    if (gguf_find_key(gguf, TMAC_ACTIVATIONS_KEY) >= 0) {
        tmac_refuse_file(file, std::string("key '" TMAC_ACTIVATIONS_KEY) + is_not_read);
    }
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); i++) {
        const char * name = gguf_get_tensor_name(gguf, i);
        if (!tmac_is_type(gguf_get_tensor_type(gguf, i))) {
            continue;
        }
        tmac_check_layout(name, gguf_get_tensor_type(gguf, i), gguf);
        if (meta) {
            tmac_check_tensor(ggml_get_tensor(meta, name), gguf);
        }
        const std::string order = tmac_order_name(name);
        if (!order.empty() && gguf_find_tensor(gguf, order.c_str()) >= 0) {
            tmac_refuse_file(file, "tensor '" + order + is_not_read);
        }
    }
}

// Checks an encoder of images, whose bytes are `data`. Refuses one whose weights are rotated: its graphs are its own, and
// do not rotate.
static inline void tmac_check_encoder(const gguf_context * gguf, ggml_context * meta, const char * file,
                                      std::istream && data) {
    data.seekg(0, std::ios::end);
    tmac_check_companion(gguf, meta, file, data ? (size_t) data.tellg() : 0);
    for (int64_t i = 0; i < gguf_get_n_kv(gguf); i++) {
        if (strncmp(gguf_get_key(gguf, i), TMAC_ROTATION_MAKER, strlen(TMAC_ROTATION_MAKER)) == 0) {
            throw std::runtime_error(std::string("tmac: rotated weights: key '") + gguf_get_key(gguf, i) +
                                     "' in an encoder, whose graph does not rotate");
        }
    }
}
