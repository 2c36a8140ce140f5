// The functions that rotate activations, for custom nodes of a graph (ggml_custom_op_t). The userdata of a node is a
// pointer to its struct tmac_rotation; its first source has rows of f32.
#pragma once

// By these names ggml_backend_reg_get_proc_address of the CPU backend gives them: y = H(signs * P x), and the inverse.
#define TMAC_ROTATE_PROC "ggml_cpu_tmac_rotate"
#define TMAC_ROTATE_BACK_PROC "ggml_cpu_tmac_rotate_back"

// The function with this name; NULL for any other name.
void * ggml_cpu_tmac_get_proc_address(const char * name);
