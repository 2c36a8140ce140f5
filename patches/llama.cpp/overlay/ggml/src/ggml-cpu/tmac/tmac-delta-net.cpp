#include "tmac-delta-net.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-log.h"
#include "tmac-served.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <string>

namespace ggml::cpu::tmac {

const tmac_delta_net_kernel * delta_net_kernel() {
    static const tmac_delta_net_kernel * const chosen = kernel_or_stock("TMAC_DELTA_NET", tmac_select_delta_net);
    return chosen;
}

static int64_t snapshots_of(const ggml_tensor * op) { return ggml_get_op_params_i32(op, 0); }

// What of `op` the kernels lack; NULL if nothing.
static const char * obstacle(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *gates = op->src[3];
    if (gates->ne[0] != 1) {
        return "gates of their own for each column";
    }
    if (v->ne[0] % (2 * TMAC_DELTA_ROWS) != 0) {
        return "heads of this width";
    }
    const bool has_same = ggml_are_same_shape(q, k) && q->ne[0] == v->ne[0] && q->ne[3] == v->ne[3];
    return has_same ? nullptr : "queries and keys of different heads or sequences";
}

static void note(const ggml_tensor * op, const char * missing) {
    const std::string shape = "heads of " + std::to_string(op->src[2]->ne[0]);
    say_who_serves("delta nets", shape, missing, delta_net_kernel()->name);
}

static bool serves(const ggml_tensor * op) {
    if (op->op != GGML_OP_GATED_DELTA_NET || !delta_net_kernel()) {
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

// What operations leave for each other in their parameters, behind those that they have. Planning a graph connects
// them, because a tensor knows its sources only. A new graph begins with zeros.
// Parameters are aligned to 4 bytes only.
static constexpr size_t link_at = 16;

struct link {
    const ggml_tensor * owner; // whose link it is: a copy of a tensor has a copy of its parameters
    const ggml_tensor * other;
};

static_assert(link_at + sizeof(link) + sizeof(int32_t) <= GGML_MAX_OP_PARAMS, "no room for the link");

static const ggml_tensor * linked_to(const ggml_tensor * op) {
    link found;
    std::memcpy(&found, (const char *) op->op_params + link_at, sizeof found);
    return found.owner == op ? found.other : nullptr;
}

static void link_to(const ggml_tensor * op, const ggml_tensor * other) {
    const link to = { op, other };
    std::memcpy((char *) const_cast<ggml_tensor *>(op)->op_params + link_at, &to, sizeof to);
}

// Of GET_ROWS: the delta net of ours that reads the states; NULL if there is none.
static const ggml_tensor * reader_of(const ggml_tensor * rows) { return linked_to(rows); }

// Of GATED_DELTA_NET: the CPY that would write the states to the cache; NULL if there is none that we know.
static const ggml_tensor * place_of(const ggml_tensor * net) { return linked_to(net); }

// Of GATED_DELTA_NET: whether GET_ROWS has left the states in the cache, this time.
static int32_t & is_in_place(const ggml_tensor * net) {
    return const_cast<ggml_tensor *>(net)->op_params[(link_at + sizeof(link)) / sizeof(int32_t)];
}

// The sizes of a delta net. Its result is followed by the snapshots of the states, each of all sequences.
struct sizes {
    int64_t width, heads, tokens, sequences, state_floats;

    explicit sizes(const ggml_tensor * net) {
        const ggml_tensor * v = net->src[2];
        width = v->ne[0], heads = v->ne[1], tokens = v->ne[2], sequences = v->ne[3];
        state_floats = width * width * heads;
    }

    size_t state_bytes() const { return state_floats * sizeof(float); }
    size_t result_bytes() const { return width * heads * tokens * sequences * sizeof(float); }
    // Whether the tensor has a row for each sequence's states.
    bool fit(const ggml_tensor * rows) const {
        return rows->type == GGML_TYPE_F32 && rows->nb[0] == sizeof(float) && rows->ne[0] == state_floats &&
               rows->ne[1] == sequences && rows->ne[2] == 1 && rows->ne[3] == 1;
    }
};

// The delta net whose states a CPY writes; NULL if it writes anything else.
static const ggml_tensor * net_of_copy(const ggml_tensor * op) {
    const ggml_tensor * net = op->op == GGML_OP_CPY ? op->src[0]->view_src : nullptr;
    return net && serves(net) ? net : nullptr;
}

class delta_net : public ggml::cpu::tensor_traits {
    // Needs no more work memory than llama.cpp's own code, which computes graphs that ask for the reference.
    bool work_size(int, const ggml_tensor * op, size_t &) override {
        thread_local int64_t noted = 0;
        if (op->src[2]->ne[0] != noted) {
            note(op, nullptr);
            noted = op->src[2]->ne[0];
        }
        const ggml_tensor *state = op->src[5], *rows = state->view_src;
        const bool is_read_from_rows = rows && rows->op == GGML_OP_GET_ROWS && state->view_offs == 0;
        if (is_read_from_rows && sizes(op).fit(rows) && snapshots_of(op) == 1) {
            link_to(rows, op);
        }
        return false;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        const tmac_delta_net net = operands(op);
        const int64_t blocks = tmac_delta_net_blocks(&net);
        // Threads take parts in turn, four each if all are as fast. Each is some KiB of the state at least.
        const int64_t part = std::max<int64_t>(1, blocks / (4 * params->nth));
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t first = part * params->ith; first < blocks;
             first = part * ggml_threadpool_chunk_add(params->threadpool, 1)) {
            delta_net_kernel()->update(&net, first, std::min(first + part, blocks));
        }
        return true;
    }

    static tmac_delta_net operands(const ggml_tensor * op) {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *state = op->src[5];
        const sizes of(op);
        tmac_delta_net net = {};
        net.q = (const float *) q->data;
        net.q_token_bytes = (int64_t) q->nb[2];
        net.q_head_bytes = (int64_t) q->nb[1];
        net.q_sequence_bytes = (int64_t) q->nb[3];
        net.k = (const float *) k->data;
        net.k_token_bytes = (int64_t) k->nb[2];
        net.k_head_bytes = (int64_t) k->nb[1];
        net.k_sequence_bytes = (int64_t) k->nb[3];
        net.v = (const float *) v->data;
        net.v_token_bytes = (int64_t) v->nb[2];
        net.v_head_bytes = (int64_t) v->nb[1];
        net.v_sequence_bytes = (int64_t) v->nb[3];
        net.gates = (const float *) op->src[3]->data;
        net.betas = (const float *) op->src[4]->data;
        net.out = (float *) op->data;
        net.snapshots = snapshots_of(op);
        net.snapshot_bytes = (int64_t) (of.state_bytes() * of.sequences);
        net.width = of.width;
        net.heads = of.heads;
        net.groups = q->ne[1];
        net.tokens = of.tokens;
        net.sequences = of.sequences;
        net.scale = 1 / std::sqrt((float) of.width);
        const ggml_tensor * const place = place_of(op);
        if (place && is_in_place(op)) {
            net.to = (float *) place->data;
            net.from = net.to;
            net.from_sequence_bytes = net.to_sequence_bytes = (int64_t) place->nb[1];
        } else {
            net.from = (const float *) state->data;
            net.from_sequence_bytes = (int64_t) state->nb[3];
            net.to = (float *) ((char *) op->data + of.result_bytes());
            net.to_sequence_bytes = (int64_t) of.state_bytes();
        }
        return net;
    }
};

// Leaves the states in the cache if each is where it will be written. It does not look at the states, so it does not
// matter that they change before the delta net reads them: until then llama.cpp's graphs write other places only.
class state_rows : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const bool stay = !params->use_ref && are_in_place(op);
        if (params->ith == 0) {
            is_in_place(reader_of(op)) = stay;
            static std::once_flag said;
            if (stay) {
                std::call_once(said, [] { tmac_say("the states of delta nets stay in the cache"); });
            }
        }
        return stay;
    }

    static bool are_in_place(const ggml_tensor * op) {
        const ggml_tensor *states = op->src[0], *ids = op->src[1], *place = place_of(reader_of(op));
        for (int64_t i = 0; place && i < op->ne[1]; i++) {
            const int32_t id = *(const int32_t *) ((const char *) ids->data + i * ids->nb[0]);
            if ((char *) states->data + id * states->nb[1] != (char *) place->data + i * place->nb[1]) {
                return false;
            }
        }
        return place != nullptr;
    }
};

class state_copy : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t &) override {
        const ggml_tensor *states = op->src[0], *net = net_of_copy(op);
        const sizes of(net);
        const bool are_the_states = states->view_offs == of.result_bytes() && ggml_is_contiguous(states) &&
                                    ggml_nbytes(states) == of.state_bytes() * of.sequences;
        link_to(net, are_the_states && of.fit(op) ? op : nullptr);
        return false;
    }

    bool compute_forward(ggml_compute_params *, ggml_tensor * op) override {
        const ggml_tensor * const net = net_of_copy(op);
        return place_of(net) == op && is_in_place(net);
    }
};

ggml::cpu::tensor_traits * delta_net_traits(const ggml_tensor * op) {
    static delta_net nets;
    static state_rows rows;
    static state_copy copies;
    switch (op->op) {
        case GGML_OP_GATED_DELTA_NET: return serves(op) ? &nets : nullptr;
        case GGML_OP_GET_ROWS: return reader_of(op) ? &rows : nullptr;
        case GGML_OP_CPY: return net_of_copy(op) ? &copies : nullptr;
        default: return nullptr;
    }
}

} // namespace ggml::cpu::tmac
