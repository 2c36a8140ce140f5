#pragma once

#include "traits.h"

namespace ggml::cpu::tmac {

// Whether our kernels compute an operation: FLASH_ATTN_EXT, unless TMAC_ATTENTION=stock or it has a shape that they
// lack. The first operation of each shape is named in the log, with the kernel that serves it.
bool serves_attention(const ggml_tensor * op);

class attention : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override;
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override;
};

} // namespace ggml::cpu::tmac
