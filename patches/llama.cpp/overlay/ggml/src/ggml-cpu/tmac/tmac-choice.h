// Which kernel serves a weight: by its type, the precision that its model or the user asks for, and the CPU.
#pragma once

#include "ggml.h"
#include "kernels/tmac.h"

#include <string>

namespace ggml::cpu::tmac {

struct choice {
    const tmac_kernel * kernel = nullptr;
    std::string         error;
};

// `reference` asks for the plain-C kernels, as ggml's own switch of that name does.
const choice & choice_for(const ggml_tensor * weight, bool reference = false);

// Whether the tables of a weight's activations may have to be the large, exact ones.
bool may_be_exact(const ggml_tensor * weight);

// Says, when a graph with types not met before is computed, which kernels serve them and how many of its weights:
// `note_weight` while it is planned, `say_kernels` when it is computed.
void note_weight(const ggml_tensor * weight);
void say_kernels(bool reference);

}  // namespace ggml::cpu::tmac
