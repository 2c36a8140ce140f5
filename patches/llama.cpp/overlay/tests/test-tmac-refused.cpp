// Operations on T-MAC tensors that cannot be computed, and on weights of llama.cpp's own types that were repacked: supports_op
// says no, and a caller who does not ask is stopped with a sentence that names tensor and type. Each runs in a process of its
// own, because it ends it.
#include "test-tmac.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#ifdef _WIN32
bool test_refusals() {
    printf("refusals are not tested on Windows, which has no fork()\n");
    return true;
}
#else
#include <sys/wait.h>
#include <unistd.h>

// What a case begins with: a weight of 64 rows and 128 columns, and activations of 3 tokens.
struct operands {
    ggml_context * ctx;
    ggml_tensor *w, *x;
    ggml_backend_buffer_ptr buffer; // of a repacked weight

    operands(ggml_context * ctx, ggml_type type)
        : ctx(ctx), w(ggml_new_tensor_2d(ctx, type, 128, 64)), x(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 128, 3)) {
        ggml_set_name(w, "a.weight");
        if (!tmac_is_type(type)) {
            ggml_backend_buffer_type_t ours = tmac_buffer_type();
            buffer.reset(ggml_backend_buft_alloc_buffer(ours, ggml_backend_buft_get_alloc_size(ours, w)));
            ggml_backend_tensor_alloc(buffer.get(), w, ggml_backend_buffer_get_base(buffer.get()));
            const std::vector<uint8_t> zeros(ggml_nbytes(w));
            ggml_backend_tensor_set(w, zeros.data(), 0, zeros.size());
        }
    }
};

struct refused_case {
    const char * what;
    const char * words;
    std::function<ggml_tensor *(const operands &)> make;
    bool has_own_weight = false; // which is not repacked
};

static ggml_tensor * floats(const operands & o, int64_t cols, int64_t rows) {
    return ggml_new_tensor_2d(o.ctx, GGML_TYPE_F32, cols, rows);
}

static ggml_tensor * weight_of(const operands & o, int64_t cols, int64_t rows, int64_t matrices) {
    ggml_tensor * w = ggml_new_tensor_3d(o.ctx, o.w->type, cols, rows, matrices);
    return ggml_set_name(w, "odd.weight");
}

static ggml_tensor * experts_of(const operands & o, ggml_tensor * w) {
    ggml_tensor * ids = ggml_new_tensor_2d(o.ctx, GGML_TYPE_I32, 2, 3);
    return ggml_mul_mat_id(o.ctx, w, ggml_new_tensor_3d(o.ctx, GGML_TYPE_F32, w->ne[0], 1, 3), ids);
}

static const char * const no_view = "rows are interleaved, so a view or a reshape of it cannot be multiplied";
static const char * const no_shape = "whose rows are a multiple of 32, found the shape [";
static const char * const no_rows = "activations must be contiguous rows of f32 or f16";

static const refused_case cases[] = {
    { "a slice of rows", no_view,
      [](const operands & o) {
          return ggml_mul_mat(o.ctx, ggml_view_2d(o.ctx, o.w, 128, 32, o.w->nb[1], 32 * o.w->nb[1]), o.x);
      } },
    { "a reshape", no_view,
      [](const operands & o) { return ggml_mul_mat(o.ctx, ggml_reshape_2d(o.ctx, o.w, 256, 32), floats(o, 256, 3)); } },
    { "a view of the whole", no_view,
      [](const operands & o) { return ggml_mul_mat(o.ctx, ggml_view_tensor(o.ctx, o.w), o.x); } },
    { "a view of all experts", no_view,
      [](const operands & o) { return experts_of(o, ggml_view_tensor(o.ctx, weight_of(o, 128, 64, 4))); }, true },
    { "transposed activations", no_rows,
      [](const operands & o) { return ggml_mul_mat(o.ctx, o.w, ggml_transpose(o.ctx, floats(o, 3, 128))); } },
    { "activations in bf16", no_rows,
      [](const operands & o) { return ggml_mul_mat(o.ctx, o.w, ggml_new_tensor_2d(o.ctx, GGML_TYPE_BF16, 128, 3)); } },
    { "48 rows", "found the shape [128, 48, 1, 1]",
      [](const operands & o) { return ggml_mul_mat(o.ctx, weight_of(o, 128, 48, 1), o.x); }, true },
    { "48 rows of experts", "found the shape [128, 48, 4, 1]",
      [](const operands & o) { return experts_of(o, weight_of(o, 128, 48, 4)); }, true },
    { "three dimensions", no_shape,
      [](const operands & o) {
          return ggml_mul_mat(o.ctx, weight_of(o, 128, 64, 2), ggml_new_tensor_3d(o.ctx, GGML_TYPE_F32, 128, 3, 2));
      },
      true },
    { "an order of another shape", "its order 'odd.order' is i32 [64, 1, 1], expected i32 [128, 1, 1]",
      [](const operands & o) {
          o.w->src[0] = ggml_set_name(ggml_new_tensor_1d(o.ctx, GGML_TYPE_I32, 64), "odd.order");
          return ggml_mul_mat(o.ctx, o.w, o.x);
      },
      true },
    { "weights as activations", "such a weight must be the first operand of a product",
      [](const operands & o) { return ggml_mul_mat(o.ctx, floats(o, 128, 8), o.w); } },
    { "a cast", "cannot serve CPY", [](const operands & o) { return ggml_cast(o.ctx, o.w, GGML_TYPE_F32); } },
    { "a copy", "cannot serve CONT", [](const operands & o) { return ggml_cont(o.ctx, o.w); } },
    { "a copy into a weight", "cannot serve CPY",
      [](const operands & o) { return ggml_cpy(o.ctx, floats(o, 128, 64), o.w); } },
    { "rows", "cannot serve GET_ROWS",
      [](const operands & o) { return ggml_get_rows(o.ctx, o.w, ggml_new_tensor_1d(o.ctx, GGML_TYPE_I32, 3)); } },
    { "a norm", "cannot serve MUL", [](const operands & o) { return ggml_mul(o.ctx, floats(o, 128, 64), o.w); } },
    { "a bias", "cannot serve ADD", [](const operands & o) { return ggml_add(o.ctx, floats(o, 128, 64), o.w); } },
    { "an outer product", "cannot serve OUT_PROD",
      [](const operands & o) { return ggml_out_prod(o.ctx, o.w, floats(o, 16, 64)); } },
};

// How a case is computed by a caller who does not ask.
enum caller {
    COMPUTES, // plans and computes the graph
    // Plans another graph, in whose place he then puts the operation. ggml plans one thread for SCALE, and so it computes the
    // operation in its place with one: a plan for more would wait for threads that do not survive fork().
    CHANGES,
};

static void compute(const refused_case & one, ggml_type type, caller how) {
    tmac_graph graph;
    const operands o(graph.ctx.get(), type);
    ggml_tensor * const op = one.make(o);
    ggml_tensor * const sound = how == CHANGES ? ggml_scale(o.ctx, ggml_dup_tensor(o.ctx, o.x), 2) : nullptr;
    graph.allocate();
    if (how == COMPUTES) {
        graph.compute(op, 2);
        return;
    }
    ggml_backend_t backend = graph.backend.get();
    const ggml_backend_graph_plan_t plan = ggml_backend_graph_plan_create(backend, graph.graph_of(sound));
    const int32_t flags = sound->flags; // that it is to be computed
    *sound = *op;
    sound->flags = flags;
    ggml_backend_graph_plan_compute(backend, plan);
}

// What a process prints that computes the case; empty if it does not end by a signal.
static std::string last_words(const refused_case & one, ggml_type type, caller how) {
    int ends[2];
    if (pipe(ends) != 0) {
        return "";
    }
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        setenv("GGML_NO_BACKTRACE", "1", 1);
        alarm(20); // OpenMP's threads do not survive fork(), so an operation that is not refused waits for ever
        compute(one, type, how);
        _exit(0);
    }
    close(ends[1]);
    std::string words;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
        words.append(buffer, n);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? words : "";
}

static bool supports_op_refuses(const refused_case & one, ggml_type type) {
    tmac_graph graph;
    const operands o(graph.ctx.get(), type);
    return !ggml_backend_supports_op(graph.backend.get(), one.make(o));
}

static bool test_refusal(const refused_case & one, ggml_type type) {
    bool is_refused = supports_op_refuses(one, type);
    for (const caller how : { COMPUTES, CHANGES }) {
        const std::string words = last_words(one, type, how);
        const bool is_named = words.find("tmac: tensor '") != std::string::npos &&
                              words.find(std::string("of type ") + ggml_type_name(type)) != std::string::npos;
        if (!is_named || words.find(one.words) == std::string::npos) {
            printf("FAIL %s of %s (%s): expected the words '%s', found:\n%s\n", one.what, ggml_type_name(type),
                   how == COMPUTES ? "computed" : "put in another's place", one.words, words.c_str());
            is_refused = false;
        }
    }
    printf("%s %s of %s\n", is_refused ? "refused:" : "NOT REFUSED:", one.what, ggml_type_name(type));
    return is_refused;
}

bool test_refusals() {
    bool all = true;
    for (const refused_case & one : cases) {
        all = test_refusal(one, tmac_kinds()[0].type) && all;
        if (!one.has_own_weight) {
            all = test_refusal(one, GGML_TYPE_Q4_0) && all;
        }
    }
    return all;
}
#endif
