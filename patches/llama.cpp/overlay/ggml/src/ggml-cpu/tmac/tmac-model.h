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

// Checks a tensor of a model, whose first file has the keys `gguf`.
static inline void tmac_check_tensor(const ggml_tensor * tensor, const gguf_context * gguf) {
    if (!tmac_is_type(tensor->type)) {
        return;
    }
    if (gguf_find_key(gguf, TMAC_LAYOUT_VERSION_KEY) < 0) {
        throw std::runtime_error(std::string("tmac: tensor '") + tensor->name + "' has type " +
                                 ggml_type_name(tensor->type) +
                                 ", but the file has no key " TMAC_LAYOUT_VERSION_KEY "; convert the model again");
    }
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

// Checks a file that is loaded beside a model: an adapter, or an encoder of images. `meta` has the file's tensors. Their
// loaders do not read column orders.
static inline void tmac_check_companion(const gguf_context * gguf, ggml_context * meta, const char * file) {
    tmac_check_file(gguf, file, 0);
    for (ggml_tensor * tensor = ggml_get_first_tensor(meta); tensor; tensor = ggml_get_next_tensor(meta, tensor)) {
        tmac_check_tensor(tensor, gguf);
        const std::string order = tmac_is_type(tensor->type) ? tmac_order_name(tensor->name) : "";
        if (!order.empty() && gguf_find_tensor(gguf, order.c_str()) >= 0) {
            throw std::runtime_error(
                tmac_sentence(tensor, "its order '" + order + "' is only read for language models"));
        }
    }
}

// Refuses an encoder of images whose weights are rotated: its graphs are its own, and do not rotate.
static inline void tmac_check_encoder(const gguf_context * gguf, ggml_context * meta, const char * file) {
    tmac_check_companion(gguf, meta, file);
    for (int64_t i = 0; i < gguf_get_n_kv(gguf); i++) {
        if (strncmp(gguf_get_key(gguf, i), TMAC_ROTATION_MAKER, strlen(TMAC_ROTATION_MAKER)) == 0) {
            throw std::runtime_error(std::string("tmac: rotated weights: key '") + gguf_get_key(gguf, i) +
                                     "' in an encoder, whose graph does not rotate");
        }
    }
}
