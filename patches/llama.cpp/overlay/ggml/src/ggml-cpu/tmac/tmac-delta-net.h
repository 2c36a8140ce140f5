#pragma once

#include "kernels/interface/tmac.h"
#include "traits.h"

namespace ggml::cpu::tmac {

// The kernel that serves all delta nets; NULL if llama.cpp's own code does, by TMAC_DELTA_NET=stock.
const tmac_delta_net_kernel * delta_net_kernel();

// Who computes an operation of a gated delta net; NULL: llama.cpp. Ours are GATED_DELTA_NET, unless it has a shape that
// the kernels lack, and the two that surround it in llama.cpp's graphs: GET_ROWS, which copies the states out of the
// cache, and CPY, which copies them back. Where each state stays in its place, neither is needed: the kernel updates the
// cache itself.
ggml::cpu::tensor_traits * delta_net_traits(const ggml_tensor * op);

// The same for the convolution before it; also of other recurrent layers, whose operations look alike (Mamba, LFM2).
ggml::cpu::tensor_traits * convolution_traits(const ggml_tensor * op);

} // namespace ggml::cpu::tmac
