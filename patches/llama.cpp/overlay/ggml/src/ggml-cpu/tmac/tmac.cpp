#include "tmac.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-attention.h"
#include "tmac-choice.h"
#include "tmac-delta-net.h"
#include "tmac-order.h"
#include "tmac-product.h"
#include "tmac-types.h"
#include "traits.h"

#include <algorithm>
#include <string>

// The patch repeats a number of the generated header.
static_assert(GGML_TYPE_COUNT == TMAC_END_TYPE_ID, "ggml.h: GGML_TYPE_COUNT is not the end of the T-MAC types");

namespace ggml::cpu::tmac {

static bool is_product(const ggml_tensor * op) {
    return (op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID) && tmac_is_type(op->src[0]->type);
}

class extra_buffer_type : public ggml::cpu::extra_buffer_type {
    // Refuses every tensor, so that none is placed in our buffer type and weights stay in the mapped file.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override { return false; }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static product products;
        static attention attentions;
        if (is_product(op)) {
            return &products;
        }
        if (serves_attention(op)) {
            return &attentions;
        }
        ggml::cpu::tensor_traits * const of_delta_net = delta_net_traits(op);
        return of_delta_net ? of_delta_net : convolution_traits(op);
    }
};

// Why `op` cannot be computed; empty if it can.
static std::string obstacle(const ggml_tensor * op) {
    if (!is_product(op)) {
        return std::string("the lookup kernels cannot serve ") + ggml_op_desc(op) +
               ", only a matrix product that has such weights as its first operand";
    }
    const ggml_tensor * weight = op->src[0];
    const ggml_tensor * x = op->src[1];
    const ggml_tensor * ids = op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr;
    if ((x->type != GGML_TYPE_F32 && x->type != GGML_TYPE_F16) || x->nb[0] != ggml_type_size(x->type) ||
        op->type != GGML_TYPE_F32 || op->nb[0] != sizeof(float)) {
        return "activations must be contiguous rows of f32 or f16, and the result f32";
    }
    if (weight->op != GGML_OP_NONE) {
        return "its rows are interleaved, so a view or a reshape of it cannot be multiplied";
    }
    const bool has_matrices = (ids || weight->ne[2] == 1) && weight->ne[3] == 1 && ggml_is_contiguous(weight);
    if (!has_matrices || weight->ne[1] % TMAC_TILE_ROWS != 0) {
        return std::string("the layout holds one matrix") + (ids ? " for each expert," : "") +
               " whose rows are a multiple of " + std::to_string(TMAC_TILE_ROWS);
    }
    if (ids && ids->type != GGML_TYPE_I32) {
        return "experts must be chosen by i32 numbers";
    }
    if (const ggml_tensor * order = tmac_order_of(weight)) {
        const std::string obstacle = tmac_order_obstacle(weight, order);
        if (!obstacle.empty()) {
            return std::string("its order '") + order->name + "' " + obstacle;
        }
    }
    const std::string & error = choice_for(weight, 1).error;
    return error.empty() ? choice_for(weight, 2).error : error;
}

} // namespace ggml::cpu::tmac

bool ggml_cpu_tmac_is_involved(const ggml_tensor * op) {
    const auto has_type = [](const ggml_tensor * t) { return t && tmac_is_type(t->type); };
    return has_type(op) || std::any_of(std::begin(op->src), std::end(op->src), has_type);
}

bool ggml_cpu_tmac_supports_op(const ggml_tensor * op) {
    const std::string obstacle = ggml::cpu::tmac::obstacle(op);
    if (obstacle.empty()) {
        return true;
    }
    const ggml_tensor * named = op->src[0] && tmac_is_type(op->src[0]->type) ? op->src[0] : op;
    GGML_LOG_ERROR("tmac: tensor '%s' of type %s: %s\n", named->name, ggml_type_name(named->type), obstacle.c_str());
    return false;
}

static const char * ggml_backend_cpu_tmac_buffer_type_get_name(ggml_backend_buffer_type_t) { return "CPU_TMAC"; }

static ggml_backend_buffer_t ggml_backend_cpu_tmac_buffer_type_alloc_buffer(ggml_backend_buffer_type_t, size_t) {
    return nullptr;
}

static size_t ggml_backend_cpu_tmac_buffer_type_get_alignment(ggml_backend_buffer_type_t) { return TMAC_ALIGNMENT; }

ggml_backend_buffer_type_t ggml_backend_cpu_tmac_buffer_type(void) {
    static ggml_backend_buffer_type buffer_type = {
        /* .iface   = */ {
            /* .get_name       = */ ggml_backend_cpu_tmac_buffer_type_get_name,
            /* .alloc_buffer   = */ ggml_backend_cpu_tmac_buffer_type_alloc_buffer,
            /* .get_alignment  = */ ggml_backend_cpu_tmac_buffer_type_get_alignment,
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ nullptr,
            /* .is_host        = */ nullptr,
        },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new ggml::cpu::tmac::extra_buffer_type(),
    };
    return &buffer_type;
}
