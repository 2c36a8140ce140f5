#pragma once

#include "ggml-backend.h"
#include "ggml.h"

// The plugin that computes on T-MAC weights. Tensors of T-MAC's types stay where llama.cpp put them, in the mapped file: they
// are not copied. Weights of llama.cpp's own types that are in buffers of this type were repacked when they were loaded.
ggml_backend_buffer_type_t ggml_backend_cpu_tmac_buffer_type(void);

// Whether an operation reads or writes a tensor in the T-MAC layout.
bool ggml_cpu_tmac_is_involved(const struct ggml_tensor * op);
// Whether the plugin can compute such an operation. If not, the log names the tensor, its type and the reason.
bool ggml_cpu_tmac_supports_op(const struct ggml_tensor * op);
