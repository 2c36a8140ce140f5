#include "tmac.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-attention.h"
#include "tmac-delta-net.h"
#include "tmac-obstacle.h"
#include "tmac-product.h"
#include "tmac-repacked.h"
#include "traits.h"

#include <algorithm>
#include <iterator>
#include <string>

// The patch repeats a number of the generated header.
static_assert(GGML_TYPE_COUNT == TMAC_END_TYPE_ID, "ggml.h: GGML_TYPE_COUNT is not the end of the T-MAC types");

namespace ggml::cpu::tmac {

class extra_buffer_type : public ggml::cpu::extra_buffer_type {
    // Of an operation with an operand in our buffer. The loader asks so which weights to place there, with a buffer without
    // memory, also when it only adds up how much memory a model needs; not those of T-MAC's types, which stay in the mapped
    // file.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const auto has_no_memory = [](const ggml_tensor * operand) {
            return operand && operand->buffer && operand->buffer->size == 0;
        };
        if (std::any_of(std::begin(op->src), std::end(op->src), has_no_memory)) {
            return is_product(op) && is_repacked(op->src[0]) && is_to_repack(op->src[0]) && can_take(op);
        }
        return ggml_cpu_tmac_supports_op(op);
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static product products;
        static attention attentions;
        static refusal refused;
        if (is_product(op)) {
            return &products;
        }
        if (involves_tmac(op)) {
            return ggml_op_is_empty(op->op) ? nullptr : &refused;
        }
        if (serves_attention(op)) {
            return &attentions;
        }
        ggml::cpu::tensor_traits * const of_delta_net = delta_net_traits(op);
        return of_delta_net ? of_delta_net : convolution_traits(op);
    }
};

} // namespace ggml::cpu::tmac

bool ggml_cpu_tmac_is_involved(const ggml_tensor * op) { return ggml::cpu::tmac::involves_tmac(op); }

bool ggml_cpu_tmac_supports_op(const ggml_tensor * op) {
    const std::string sentence = ggml::cpu::tmac::obstacle(op);
    if (!sentence.empty()) {
        GGML_LOG_ERROR("%s\n", sentence.c_str());
    }
    return sentence.empty();
}

ggml_backend_buffer_type_t ggml_backend_cpu_tmac_buffer_type(void) {
    static ggml_backend_buffer_type buffer_type = {
        /* .iface   = */ ggml_backend_cpu_tmac_buffer_type_interface(),
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new ggml::cpu::tmac::extra_buffer_type(),
    };
    return &buffer_type;
}
