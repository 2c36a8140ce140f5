// Which kernel serves a weight: by its type, the number of tokens, the precision that its model or the user asks for, and
// the CPU.
#pragma once

#include "ggml.h"
#include "kernels/interface/tmac.h"

#include <string>

namespace ggml::cpu::tmac {

struct choice {
    const tmac_kernel * kernel = nullptr;
    std::string         error;
};

// For products with so many tokens. `reference` asks for the plain-C kernels, as ggml's own switch of that name does.
const choice & choice_for(const ggml_tensor * weight, int64_t tokens, bool reference = false);

// Says, when a graph with types not met before is computed, which kernels serve them and how many of its weights:
// `note_weight` while it is planned, `say_kernels` when it is computed.
void note_weight(const ggml_tensor * weight);
void say_kernels(bool reference);

}  // namespace ggml::cpu::tmac
