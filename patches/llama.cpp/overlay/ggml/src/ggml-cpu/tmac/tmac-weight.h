// What a tensor of a T-MAC type must be, so that products with it can be computed. Checked when a model is loaded, and by
// the plugin whenever it is asked for a product. C++ on public headers, for llama and ggml.
#pragma once

#include "ggml.h"
#include "tmac-order.h"
#include "tmac-types.h"

#include <string>

// The name of the buffer type whose weights are repacked when they are set, and what is said of them.
#define TMAC_REPACKED_BUFFER "CPU_TMAC"
#define TMAC_REPACKED_HINT "load the model with --no-repack, or with " TMAC_REPACK_VARIABLE "=" TMAC_REPACK_STOCK
#define TMAC_REPACKED_UNREADABLE "it was repacked when it was loaded, so its bytes cannot be read; " TMAC_REPACKED_HINT

// Why no product can have this weight; empty if one can. `is_experts`: the product chooses among several matrices.
static inline std::string tmac_weight_obstacle(const ggml_tensor * weight, bool is_experts) {
    // A view of a whole tensor is no operation, and has neither the order nor the marks of the tensor.
    if (weight->op != GGML_OP_NONE || weight->view_src) {
        return "its rows are interleaved, so a view or a reshape of it cannot be multiplied";
    }
    const bool has_matrices = (is_experts || weight->ne[2] == 1) && weight->ne[3] == 1 && ggml_is_contiguous(weight);
    if (!has_matrices || weight->ne[1] % TMAC_TILE_ROWS != 0) {
        std::string shape;
        for (const int64_t size : weight->ne) {
            shape += (shape.empty() ? "" : ", ") + std::to_string(size);
        }
        return std::string("the layout holds one matrix") + (is_experts ? " for each expert," : "") +
               " whose rows are a multiple of " + std::to_string(TMAC_TILE_ROWS) + ", found the shape [" + shape + "]";
    }
    const ggml_tensor * order = tmac_order_of(weight);
    const std::string obstacle = order ? tmac_order_obstacle(weight, order) : "";
    return obstacle.empty() ? "" : std::string("its order '") + order->name + "' " + obstacle;
}

// Why an operation of this kind cannot have such a weight; empty if it can.
static inline std::string tmac_use_obstacle(ggml_op op) {
    if (op == GGML_OP_MUL_MAT || op == GGML_OP_MUL_MAT_ID) {
        return "";
    }
    return std::string("the lookup kernels cannot serve ") + ggml_op_name(op) +
           ", only a matrix product that has such weights as its first operand";
}

// "tensor 'NAME' of type TYPE: WHY"
static inline std::string tmac_sentence(const ggml_tensor * tensor, const std::string & why) {
    return std::string("tmac: tensor '") + tensor->name + "' of type " + ggml_type_name(tensor->type) + ": " + why;
}
