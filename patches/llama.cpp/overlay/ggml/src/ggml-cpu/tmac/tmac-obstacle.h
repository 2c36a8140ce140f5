// Which operations on T-MAC tensors the plugin computes: one list, asked when a graph is split among backends, when it is
// planned, and when it is computed, because a caller need not ask before it computes.
#pragma once

#include "ggml.h"
#include "traits.h"

#include <string>

namespace ggml::cpu::tmac {

// Whether an operation is a product with a weight in the T-MAC layout: of a T-MAC type, or repacked.
bool is_product(const ggml_tensor * op);
// Whether an operation reads or writes a tensor in the layout.
bool involves_tmac(const ggml_tensor * op);
// Why `op`, which involves a T-MAC tensor, cannot be computed, in a sentence that names the tensor; empty if it can.
std::string obstacle(const ggml_tensor * op);
// Whether a product that the loader asks about can be computed if its weight is repacked. Throws if the choice is forced
// (tmac-choice.h) and does not serve it.
bool can_take(const ggml_tensor * op);
// Ends the process with that sentence if a product has operands that it cannot have. Whether there is a kernel is seen when
// it is chosen.
void require_operands(const ggml_tensor * op);

// Serves operations that involve a T-MAC tensor and are no products, by ending the process with the sentence: llama.cpp's
// own code would read tiles as rows, or call functions that such types lack.
class refusal : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override;
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override;
};

} // namespace ggml::cpu::tmac
