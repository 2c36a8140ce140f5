// The order of a weight's columns, if it differs from that of the activations (GPTQ's desc_act). The file stores it
// beside `<name>.weight` as `<name>.order`, i32 [K], or [K, experts] for a tensor of experts. Column i of a matrix
// multiplies activation order[i]; each row of the order is a permutation. C++ on public headers, for llama and ggml.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"
#include "tmac-types.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// The name of the order tensor of the weight with this name; empty if the name is not a weight's.
static inline std::string tmac_order_name(const std::string & weight) {
    static const std::string suffix = TMAC_WEIGHT_SUFFIX;
    const size_t stem = weight.size() < suffix.size() ? 0 : weight.size() - suffix.size();
    return weight.compare(stem, std::string::npos, suffix) == 0 ? weight.substr(0, stem) + TMAC_ORDER_SUFFIX : "";
}

// The names of tensors that the loader reads with the weight, if the file has them, and that a model which leaves out the
// weight leaves out too: its order, and the `scale` of that name. None for a weight of another type than ours.
static inline std::vector<std::string> tmac_names_beside(const ggml_tensor * weight, const std::string & scale) {
    const std::string order = tmac_is_type(weight->type) ? tmac_order_name(weight->name) : "";
    return order.empty() ? std::vector<std::string>() : std::vector<std::string>{ order, scale };
}

// The order of a weight; NULL if its columns are in the order of the activations. The loader attaches it as the
// weight's source, so that it is in every graph that the weight is in, and is copied and sent with the weight.
static inline const ggml_tensor * tmac_order_of(const ggml_tensor * weight) {
    return weight->op == GGML_OP_NONE ? weight->src[0] : nullptr;
}

// What is wrong with the type or shape of an order, or with its weight's type; empty if nothing is.
static inline std::string tmac_order_obstacle(const ggml_tensor * weight, const ggml_tensor * order) {
    if (!tmac_is_type(weight->type)) {
        return std::string("orders '") + weight->name + "' of type " + ggml_type_name(weight->type) +
               ", expected a T-MAC type";
    }
    const bool has_shape = order->ne[0] == weight->ne[0] && order->ne[1] == weight->ne[2] && order->ne[2] == 1 &&
                           order->ne[3] == 1 && ggml_is_contiguous(order);
    if (order->type != GGML_TYPE_I32 || !has_shape) {
        const auto shape = [](int64_t cols, int64_t experts, int64_t more) {
            return " [" + std::to_string(cols) + ", " + std::to_string(experts) + ", " + std::to_string(more) + "]";
        };
        return std::string("is ") + ggml_type_name(order->type) + shape(order->ne[0], order->ne[1], order->ne[2]) +
               ", expected i32" + shape(weight->ne[0], weight->ne[2], 1);
    }
    return "";
}

// Creates a tensor for the `stored` order, in context `ctx`, and attaches it to the weight. Throws if they do not fit.
static inline ggml_tensor * tmac_add_order(ggml_context * ctx, ggml_tensor * weight, const ggml_tensor * stored) {
    const std::string obstacle = tmac_order_obstacle(weight, stored);
    if (!obstacle.empty()) {
        throw std::runtime_error(std::string("tmac: tensor '") + stored->name + "' " + obstacle);
    }
    ggml_tensor * order = ggml_dup_tensor(ctx, stored);
    ggml_set_name(order, stored->name);
    weight->src[0] = order;
    return order;
}

// Throws if a loaded weight has an order that is not a permutation.
static inline void tmac_check_order(const ggml_tensor * weight) {
    const ggml_tensor * order = tmac_is_type(weight->type) ? tmac_order_of(weight) : nullptr;
    if (!order) {
        return;
    }
    const int64_t cols = order->ne[0];
    std::vector<int32_t> columns(cols);
    for (int64_t expert = 0; expert < order->ne[1]; expert++) {
        std::vector<bool> is_named(cols);
        ggml_backend_tensor_get(order, columns.data(), expert * cols * sizeof(int32_t), cols * sizeof(int32_t));
        for (int64_t i = 0; i < cols; i++) {
            if (columns[i] < 0 || columns[i] >= cols || is_named[columns[i]]) {
                throw std::runtime_error(std::string("tmac: tensor '") + order->name + "' has entry " +
                                         std::to_string(expert * cols + i) + " = " + std::to_string(columns[i]) +
                                         ", expected each of 0.." + std::to_string(cols - 1) + " once");
            }
            is_named[columns[i]] = true;
        }
    }
}
