// Chooses the kernel for a weight, by its type, the number of tokens, the CPU, and the precision that the model or the
// user asks for.
#pragma once

#include "ggml.h"
#include "kernels/interface/tmac.h"

#include <string>

namespace ggml::cpu::tmac {

struct choice {
    const tmac_kernel * kernel = nullptr;
    std::string error;
};

// The choice for products with `tokens` tokens. `reference` asks for the plain-C kernels, as ggml's `use_ref` does.
const choice & choice_for(const ggml_tensor * weight, int64_t tokens, bool reference = false);

// Whether the user says which kernels, or a precision that does not exist: then a weight without a kernel is an error.
// llama.cpp keeps weights whose type lacks a precision that exists.
bool is_choice_forced();

// When a graph contains types for the first time, one log line names their kernels and counts their weights.
// `note_weight` collects weights while a graph is planned; `say_kernels` prints the line when it is computed.
void note_weight(const ggml_tensor * weight);
void say_kernels(bool reference);

} // namespace ggml::cpu::tmac
