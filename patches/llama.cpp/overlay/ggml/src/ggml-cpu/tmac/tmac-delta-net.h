#pragma once

#include "traits.h"

namespace ggml::cpu::tmac {

// Who computes an operation of a gated delta net; NULL: llama.cpp. Ours are GATED_DELTA_NET, unless
// TMAC_DELTA_NET=stock or it has a shape that the kernels lack, and the two that surround it in llama.cpp's graphs:
// GET_ROWS, which copies the states out of the cache, and CPY, which copies them back. Where each state stays in its
// place, neither is needed: the kernel updates the cache itself.
ggml::cpu::tensor_traits * delta_net_traits(const ggml_tensor * op);

} // namespace ggml::cpu::tmac
