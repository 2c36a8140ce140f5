// The convolution before a delta net: two operations of llama.cpp's graphs, CONCAT, which puts the inputs of a few
// tokens before the new ones, and SSM_CONV. Both are computed by the kernel of delta nets.
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-delta-net.h"

namespace ggml::cpu::tmac {

static bool is_contiguous_floats(const ggml_tensor * tensor) {
    return tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) && tensor->ne[3] == 1;
}

// Whether an operation puts rows of inputs before vectors of all channels, one vector for each token.
static bool is_window(const ggml_tensor * op) {
    if (op->op != GGML_OP_CONCAT || ggml_get_op_params_i32(op, 0) != 0) {
        return false;
    }
    const ggml_tensor *before = op->src[0], *x = op->src[1];
    const bool are_vectors = x->type == GGML_TYPE_F32 && x->nb[1] == sizeof(float) && x->ne[3] == 1;
    return are_vectors && is_contiguous_floats(before) && is_contiguous_floats(op) &&
           op->ne[1] % TMAC_CHANNEL_BLOCK == 0;
}

static bool is_convolution(const ggml_tensor * op) {
    return op->op == GGML_OP_SSM_CONV && is_contiguous_floats(op->src[0]) && is_contiguous_floats(op->src[1]) &&
           is_contiguous_floats(op) && op->ne[0] % TMAC_CHANNEL_BLOCK == 0;
}

// Threads take equal parts of the blocks.
static void run(tmac_convolution_fn function, const ggml_compute_params * params,
                const tmac_convolution & convolution) {
    const int64_t blocks = convolution.sequences * (convolution.channels / TMAC_CHANNEL_BLOCK);
    function(&convolution, blocks * params->ith / params->nth, blocks * (params->ith + 1) / params->nth);
}

// Both leave the work memory as llama.cpp's own code wants it, which computes graphs that ask for the reference.
class window : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        const ggml_tensor *before = op->src[0], *x = op->src[1];
        tmac_convolution convolution = {};
        convolution.before = (const float *) before->data;
        convolution.before_sequence_bytes = (int64_t) before->nb[2];
        convolution.x = (const float *) x->data;
        convolution.x_token_bytes = (int64_t) x->nb[0];
        convolution.x_sequence_bytes = (int64_t) x->nb[2];
        convolution.window = (float *) op->data;
        convolution.channels = op->ne[1];
        convolution.taps = before->ne[0] + 1;
        convolution.tokens = x->ne[0];
        convolution.sequences = op->ne[2];
        run(delta_net_kernel()->fill, params, convolution);
        return true;
    }
};

class convolution : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        tmac_convolution convolution = {};
        convolution.window = (float *) op->src[0]->data;
        convolution.weights = (const float *) op->src[1]->data;
        convolution.out = (float *) op->data;
        convolution.channels = op->ne[0];
        convolution.taps = op->src[1]->ne[0];
        convolution.tokens = op->ne[1];
        convolution.sequences = op->ne[2];
        run(delta_net_kernel()->convolve, params, convolution);
        return true;
    }
};

ggml::cpu::tensor_traits * convolution_traits(const ggml_tensor * op) {
    static window windows;
    static convolution convolutions;
    if (!delta_net_kernel()) {
        return nullptr;
    }
    if (is_window(op)) {
        return &windows;
    }
    return is_convolution(op) ? &convolutions : nullptr;
}

} // namespace ggml::cpu::tmac
