// Weights in llama.cpp's own types that are brought into the T-MAC layout while a model is loaded: the buffer type that takes
// them, and what a tensor in it is to the rest of the plugin.
#pragma once

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "kernels/interface/tmac.h"

namespace ggml::cpu::tmac {

// The type of the layout that a tensor has: its own, or what it was repacked into, also of a view; GGML_TYPE_COUNT if it has
// none.
ggml_type layout_type(const ggml_tensor * tensor);
// Whether the tensor, or what it is a view of, was or will be repacked.
bool is_repacked(const ggml_tensor * tensor);
// Whether weights of this shape and type are repacked on this CPU. Throws for a value of TMAC_REPACK that has no meaning.
bool is_to_repack(const ggml_tensor * weight);
// Bytes from one matrix of a weight to the next.
size_t matrix_bytes(const ggml_tensor * weight);

} // namespace ggml::cpu::tmac

// What a buffer type's interface calls, but for its `supports_op`, which tmac.cpp has.
ggml_backend_buffer_type_i ggml_backend_cpu_tmac_buffer_type_interface(void);
