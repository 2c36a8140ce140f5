// Computes products with T-MAC weights: GGML_OP_MUL_MAT and, for experts, GGML_OP_MUL_MAT_ID.
#pragma once

#include "traits.h"

namespace ggml::cpu::tmac {

class product : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override;
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override;
};

} // namespace ggml::cpu::tmac
