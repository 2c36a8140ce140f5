#include "tmac.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "kernels/tmac.h"
#include "kernels/tmac_format.h"
#include "tmac-file.h"
#include "tmac-precision.h"
#include "traits.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace ggml::cpu::tmac {

struct choice {
    const tmac_kernel * kernel = nullptr;
    std::string         error;
};

static constexpr int type_count      = TMAC_LAST_TYPE_ID - TMAC_FIRST_TYPE_ID + 1;
static constexpr int precision_count = TMAC_FAST + 1;
using choices = std::array<std::array<choice, type_count>, precision_count>;

static choices choose(const char * forced) {
    choices result;
    for (int precision = 0; precision < precision_count; precision++) {
        for (int i = 0; i < type_count; i++) {
            char     error[200] = "";
            choice & chosen     = result[precision][i];
            chosen.kernel = tmac_select(TMAC_FIRST_TYPE_ID + i, (tmac_precision) precision, tmac_cpu_features(), forced, error,
                                        sizeof error);
            chosen.error  = error;
        }
    }
    return result;
}

// What TMAC_PRECISION asks for, for all weights; -1 where it asks for nothing.
struct wanted_precision {
    int         value = -1;
    std::string error;

    wanted_precision() {
        static const std::array<const char *, precision_count> names = { "rounded", "exact", "fast" };
        const char * wanted = std::getenv("TMAC_PRECISION");
        if (!wanted || !wanted[0]) {
            return;
        }
        const auto found = std::find(names.begin(), names.end(), std::string(wanted));
        value = (int) (found - names.begin());
        if (found == names.end()) {
            error = std::string("TMAC_PRECISION=") + wanted + ": expected rounded, exact or fast";
        }
    }
};

static const wanted_precision & wanted() {
    static const wanted_precision instance;
    return instance;
}

// TMAC_PRECISION's, else that of the weight's model.
static int precision_for(const ggml_tensor * weight) {
    return wanted().value >= 0 ? wanted().value : tmac_precision_of_weight(weight);
}

// `reference` asks for the plain-C kernels, as ggml's own switch of that name does.
static const choice & choice_for(ggml_type type, int precision, bool reference = false) {
    static const choices usual  = choose(std::getenv("TMAC_KERNEL"));
    static const choices scalar = choose("scalar");
    static const choice  none   = { nullptr, wanted().error };
    return !wanted().error.empty() ? none : (reference ? scalar : usual)[precision][type - TMAC_FIRST_TYPE_ID];
}

// Says, when a graph with types not met before is computed, which kernels serve them and how many of its weights.
class kernel_log {
  public:
    void note(const ggml_tensor * weight) {
        const service served = { weight->type, precision_for(weight) };
        std::lock_guard<std::mutex> lock(mutex);
        if (said.count(served) == 0) {
            unsaid[served].insert(weight->name);
            has_unsaid = true;
        }
    }

    void say(bool reference) {
        if (!has_unsaid.load(std::memory_order_relaxed)) {
            return;
        }
        std::lock_guard<std::mutex> lock(mutex);
        std::string line;
        for (const auto & [served, names] : unsaid) {
            const tmac_kernel * kernel = choice_for(served.first, served.second, reference).kernel;
            line += (line.empty() ? "" : "; ") + std::to_string(names.size()) + " x " + ggml_type_name(served.first) + " by " +
                    (kernel ? kernel->name : "no kernel");
            said.insert(served);
        }
        unsaid.clear();
        has_unsaid = false;
        if (std::getenv("TMAC_LOG")) {
            fprintf(stderr, "tmac: %s\n", line.c_str());
        } else {
            GGML_LOG_INFO("tmac: %s\n", line.c_str());
        }
    }

  private:
    using service = std::pair<ggml_type, int>;  // a type in a precision

    std::mutex                               mutex;
    std::map<service, std::set<std::string>> unsaid;
    std::set<service>                        said;
    std::atomic<bool>                        has_unsaid{ false };
};

static kernel_log & log() {
    static kernel_log instance;
    return instance;
}

// Rows of src1 and dst seen as one list: token n is row n % ne1 of matrix n / ne1.
struct token_rows {
    const ggml_tensor * tensor;

    char * at(int64_t n) const {
        const int64_t i1 = n % tensor->ne[1], matrix = n / tensor->ne[1];
        const int64_t i2 = matrix % tensor->ne[2], i3 = matrix / tensor->ne[2];
        return (char *) tensor->data + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
    }
};

static int64_t share(int64_t total, int part, int parts) {
    return total * part / parts;
}

class tensor_traits : public ggml::cpu::tensor_traits {
    static constexpr size_t alignment = 64;
    // Weights that are kept in the second-level cache while all tokens go by.
    static constexpr int64_t tile_block_bytes = 256 * 1024;

    bool work_size(int /*n_threads*/, const ggml_tensor * op, size_t & size) override {
        log().note(op->src[0]);
        size = tables_bytes(op);
        return true;
    }

    // A kernel forced by name has its own precision; the plain-C one that stands in for it that of the weight.
    static size_t tables_bytes(const ggml_tensor * op) {
        const ggml_tensor * weight    = op->src[0];
        const tmac_kernel * kernel    = choice_for(weight->type, precision_for(weight)).kernel;
        const bool          is_exact  = precision_for(weight) == TMAC_EXACT || (kernel && kernel->precision == TMAC_EXACT);
        const size_t        one_token = tmac_tables_size(is_exact ? TMAC_EXACT : TMAC_ROUNDED, op->src[1]->ne[0]);
        return one_token * ggml_nrows(op->src[1]) + alignment;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor * weight = op->src[0];
        const ggml_tensor * x      = op->src[1];
        const choice &      chosen = choice_for(weight->type, precision_for(weight), params->use_ref);
        if (!chosen.kernel) {
            GGML_ABORT("tmac: tensor '%s' (%s): %s", weight->name, ggml_type_name(weight->type), chosen.error.c_str());
        }
        GGML_ASSERT(params->wsize >= tables_bytes(op));
        if (params->ith == 0) {
            log().say(params->use_ref);
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        char * tables = (char *) GGML_PAD((uintptr_t) params->wdata, alignment);
        build_tables(*chosen.kernel, x, tables, params);
        ggml_barrier(params->threadpool);
        multiply(*chosen.kernel, weight, token_rows{ op }, ggml_nrows(x), tables, params);
        return true;
    }

    static tmac_tables tables_of(const tmac_kernel & kernel, char * buffer, int64_t cols, int64_t token) {
        return tmac_tables_at(buffer + token * tmac_tables_size(kernel.precision, cols), kernel.precision, cols);
    }

    static void build_tables(const tmac_kernel & kernel, const ggml_tensor * x, char * buffer, const ggml_compute_params * params) {
        const int64_t cols = x->ne[0], groups = cols / TMAC_TABLE_GROUP, tokens = ggml_nrows(x);
        const int64_t last = share(tokens * groups, params->ith + 1, params->nth);
        for (int64_t i = share(tokens * groups, params->ith, params->nth); i < last;) {
            const int64_t     token  = i / groups, first = i % groups;
            const int64_t     count  = std::min(groups - first, last - i);
            const tmac_tables tables = tables_of(kernel, buffer, cols, token);
            const tmac_vector vector = { token_rows{ x }.at(token), x->type == GGML_TYPE_F16 ? TMAC_F16 : TMAC_F32, 1, cols };
            kernel.build_tables(&vector, first, first + count, &tables);
            i += count;
        }
    }

    static void multiply(const tmac_kernel & kernel, const ggml_tensor * weight, token_rows y, int64_t tokens, char * buffer,
                         const ggml_compute_params * params) {
        const int64_t     cols = weight->ne[0], tiles = weight->ne[1] / TMAC_TILE_ROWS;
        const tmac_matrix w    = tmac_matrix_at(&kernel, weight->data, weight->ne[1], cols);
        const int64_t     tile_bytes = cols * TMAC_TILE_ROWS * kernel.bits / 8;
        const int64_t     step = tokens == 1 ? tiles : std::max<int64_t>(2, tile_block_bytes / tile_bytes);
        int               index = params->ith;
        for (tmac_tiles chunk; (chunk = tmac_chunk(tiles, params->nth, index)).first < tiles;) {
            for (int64_t tile = chunk.first; tile < chunk.last; tile += step) {
                for (int64_t n = 0; n < tokens; n++) {
                    const tmac_tables tables = tables_of(kernel, buffer, cols, n);
                    kernel.gemv(&w, &tables, (float *) y.at(n), tile, std::min(tile + step, chunk.last));
                }
            }
            index = ggml_threadpool_chunk_add(params->threadpool, 1);
        }
    }
};

class extra_buffer_type : public ggml::cpu::extra_buffer_type {
    // No tensor is ever placed in our buffer type, so that weights stay in the mapped file.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override { return false; }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static tensor_traits traits;
        return op->op == GGML_OP_MUL_MAT && tmac_is_type(op->src[0]->type) ? &traits : nullptr;
    }
};

// What stands in the way of computing `op`; empty if nothing does.
static std::string obstacle(const ggml_tensor * op) {
    if (op->op != GGML_OP_MUL_MAT || !tmac_is_type(op->src[0]->type)) {
        return std::string("the look-up kernels cannot serve ") + ggml_op_desc(op) +
               ", only a matrix product that has such weights as its first operand";
    }
    const ggml_tensor * weight = op->src[0];
    const ggml_tensor * x      = op->src[1];
    if ((x->type != GGML_TYPE_F32 && x->type != GGML_TYPE_F16) || x->nb[0] != ggml_type_size(x->type) ||
        op->type != GGML_TYPE_F32 || op->nb[0] != sizeof(float)) {
        return "activations must be contiguous rows of f32 or f16, and the result f32";
    }
    if (weight->ne[1] % TMAC_TILE_ROWS != 0 || weight->ne[2] != 1 || weight->ne[3] != 1 || !ggml_is_contiguous(weight)) {
        return "the layout holds one matrix whose rows are a multiple of " + std::to_string(TMAC_TILE_ROWS);
    }
    return choice_for(weight->type, precision_for(weight)).error;
}

}  // namespace ggml::cpu::tmac

bool ggml_cpu_tmac_is_involved(const ggml_tensor * op) {
    const auto has_type = [](const ggml_tensor * t) { return t && tmac_is_type(t->type); };
    return has_type(op) || std::any_of(std::begin(op->src), std::end(op->src), has_type);
}

bool ggml_cpu_tmac_supports_op(const ggml_tensor * op) {
    const std::string obstacle = ggml::cpu::tmac::obstacle(op);
    if (obstacle.empty()) {
        return true;
    }
    const ggml_tensor * named = op->src[0] && tmac_is_type(op->src[0]->type) ? op->src[0] : op;
    GGML_LOG_ERROR("tmac: tensor '%s' of type %s: %s\n", named->name, ggml_type_name(named->type), obstacle.c_str());
    return false;
}

static const char * ggml_backend_cpu_tmac_buffer_type_get_name(ggml_backend_buffer_type_t) {
    return "CPU_TMAC";
}

static ggml_backend_buffer_t ggml_backend_cpu_tmac_buffer_type_alloc_buffer(ggml_backend_buffer_type_t, size_t) {
    return nullptr;
}

static size_t ggml_backend_cpu_tmac_buffer_type_get_alignment(ggml_backend_buffer_type_t) {
    return 64;
}

ggml_backend_buffer_type_t ggml_backend_cpu_tmac_buffer_type(void) {
    static ggml_backend_buffer_type buffer_type = {
        /* .iface   = */ {
                          /* .get_name       = */ ggml_backend_cpu_tmac_buffer_type_get_name,
                          /* .alloc_buffer   = */ ggml_backend_cpu_tmac_buffer_type_alloc_buffer,
                          /* .get_alignment  = */ ggml_backend_cpu_tmac_buffer_type_get_alignment,
                          /* .get_max_size   = */ nullptr,
                          /* .get_alloc_size = */ nullptr,
                          /* .is_host        = */ nullptr,
                          },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new ggml::cpu::tmac::extra_buffer_type(),
    };
    return &buffer_type;
}
