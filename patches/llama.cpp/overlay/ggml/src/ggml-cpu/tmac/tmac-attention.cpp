#include "tmac-attention.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-served.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace ggml::cpu::tmac {

static constexpr size_t alignment = 64;

static size_t padded(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// The kernel that serves all attentions; NULL if llama.cpp's own do.
static const tmac_attention_kernel * kernel() {
    static const tmac_attention_kernel * const chosen = kernel_or_stock("TMAC_ATTENTION", tmac_select_attention);
    return chosen;
}

// The enum tmac_cache_type of a ggml type; -1 if there is none.
static int cache_type(ggml_type type) {
    for (int i = 0; i < TMAC_CACHE_TYPE_COUNT; i++) {
        if (tmac_cache_ggml_ids[i] == (uint32_t) type) {
            return i;
        }
    }
    return -1;
}

// Why the kernels cannot read K or V; NULL if they can.
static const char * obstacle_of_cache(const ggml_tensor * cache) {
    if (cache_type(cache->type) < 0) {
        return "this type of cache";
    }
    if (cache->nb[0] != ggml_type_size(cache->type)) {
        return "a transposed cache";
    }
    return cache->ne[0] % std::max<int64_t>(16, ggml_blck_size(cache->type)) == 0 ? nullptr : "heads of this width";
}

// What of `op` the kernels lack; NULL if nothing.
static const char * obstacle(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    for (const ggml_tensor * cache : { k, v }) {
        if (const char * found = obstacle_of_cache(cache)) {
            return found;
        }
    }
    if (q->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float) || op->type != GGML_TYPE_F32 || !ggml_is_contiguous(op)) {
        return "queries or a result that are not rows of f32";
    }
    if (k->ne[2] != v->ne[2] || q->ne[2] % k->ne[2] != 0 || k->ne[3] != q->ne[3] || v->ne[3] != q->ne[3]) {
        return "K and V of different heads or sequences";
    }
    return !mask || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t)) ? nullptr
                                                                                     : "a mask that is not f16";
}

static std::string shape_of(const ggml_tensor * op) {
    const ggml_tensor *k = op->src[1], *v = op->src[2];
    return "K " + std::string(ggml_type_name(k->type)) + " x " + std::to_string(k->ne[0]) + ", V " +
           ggml_type_name(v->type) + " x " + std::to_string(v->ne[0]);
}

static void note(const ggml_tensor * op, const char * missing) {
    say_who_serves("attention", shape_of(op), missing, kernel()->name);
}

bool serves_attention(const ggml_tensor * op) {
    if (op->op != GGML_OP_FLASH_ATTN_EXT || !kernel()) {
        return false;
    }
    const char * const missing = obstacle(op);
    thread_local const char * noted = nullptr;
    if (missing && missing != noted) {
        note(op, missing);
        noted = missing;
    }
    return !missing;
}

static tmac_cache cache_of(const ggml_tensor * tensor) {
    tmac_cache cache;
    cache.data = (const uint8_t *) tensor->data;
    cache.type = (tmac_cache_type) cache_type(tensor->type);
    cache.width = tensor->ne[0];
    cache.position_bytes = (int64_t) tensor->nb[1];
    cache.head_bytes = (int64_t) tensor->nb[2];
    cache.sequence_bytes = (int64_t) tensor->nb[3];
    return cache;
}

// The operation as the kernels see it.
struct operands {
    tmac_cache keys, values;
    tmac_attention a = {};

    explicit operands(const ggml_tensor * op) : keys(cache_of(op->src[1])), values(cache_of(op->src[2])) {
        const ggml_tensor *q = op->src[0], *mask = op->src[3], *sinks = op->src[4];
        a.q = (const float *) q->data;
        a.query_bytes = (int64_t) q->nb[1];
        a.query_head_bytes = (int64_t) q->nb[2];
        a.query_sequence_bytes = (int64_t) q->nb[3];
        a.keys = &keys;
        a.values = &values;
        a.mask_heads = a.mask_sequences = 1;
        if (mask) {
            a.mask = (const uint16_t *) mask->data;
            a.mask_query_bytes = (int64_t) mask->nb[1];
            a.mask_head_bytes = (int64_t) mask->nb[2];
            a.mask_heads = mask->ne[2];
            a.mask_sequence_bytes = (int64_t) mask->nb[3];
            a.mask_sequences = mask->ne[3];
        }
        a.sinks = sinks ? (const float *) sinks->data : nullptr;
        a.out = (float *) op->data;
        a.sequences = q->ne[3];
        a.queries = q->ne[1];
        a.heads = q->ne[2];
        a.kv_heads = op->src[1]->ne[2];
        a.positions = op->src[1]->ne[1];
        std::memcpy(&a.scale, op->op_params + 0, sizeof a.scale);
        std::memcpy(&a.largest_bias, op->op_params + 1, sizeof a.largest_bias);
        std::memcpy(&a.soft_cap, op->op_params + 2, sizeof a.soft_cap);
    }

    operands(const operands &) = delete;
};

bool attention::work_size(int n_threads, const ggml_tensor * op, size_t & size) {
    const ggml_tensor *k = op->src[1], *v = op->src[2];
    // Every layer of every graph comes here, and nearly always looks like the one before.
    using shape = std::array<int64_t, 4>;
    const shape here = { k->type, k->ne[0], v->type, v->ne[0] };
    thread_local shape noted = {};
    if (here != noted) {
        note(op, nullptr);
        noted = here;
    }
    const operands of(op);
    const tmac_attention_plan plan = tmac_plan_attention(&of.a, kernel());
    const size_t ours = alignment + padded(plan.shared_bytes) + n_threads * padded(plan.scratch_bytes);
    // What llama.cpp's reference needs, to which compute_forward leaves graphs that ask for it.
    const size_t reference = n_threads * (of.keys.width + 2 * of.values.width + 16) * sizeof(float);
    size = std::max(ours, reference);
    return true;
}

bool attention::compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    if (params->use_ref) {
        return false;
    }
    const operands of(op);
    const tmac_attention_plan plan = tmac_plan_attention(&of.a, kernel());
    char * const begin = (char *) padded((size_t) params->wdata);
    float * const shared = (float *) begin;
    float * const scratch = (float *) (begin + padded(plan.shared_bytes) + params->ith * padded(plan.scratch_bytes));
    GGML_ASSERT((char *) scratch + plan.scratch_bytes <= (char *) params->wdata + params->wsize);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t item = params->ith; item < plan.items; item = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        kernel()->attend(&of.a, &plan, item, shared, scratch);
    }
    if (plan.ranges > 1) {
        ggml_barrier(params->threadpool);
        tmac_attention_merge(&of.a, &plan, shared, plan.rows * params->ith / params->nth,
                             plan.rows * (params->ith + 1) / params->nth);
    }
    return true;
}

} // namespace ggml::cpu::tmac
