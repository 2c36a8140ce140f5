// Products with T-MAC's types, in the manner of test-backend-ops: every type against float64 for layouts, broadcast, views,
// column orders, experts and numbers of threads, as a caller computes them who does not ask supports_op. Then what must be
// refused (test-tmac-refused.cpp). `test-tmac save IN.gguf OUT.gguf` loads a model and saves it again; `test-tmac set
// IN.gguf` makes a model of the file's header, and sets its data by a function.
#include "test-tmac.h"

#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <string>

// How the activations lie in memory.
enum layout { ROWS, STRIDED, PERMUTED, HALF };

static const char * const layout_names[] = { "rows", "strided", "permuted", "f16" };

struct test_case {
    tmac_kind kind;
    int64_t rows, cols, tokens;
    int64_t matrices = 1; // of activations that the one weight multiplies
    layout x_layout = ROWS;
    int64_t experts = 0, used = 0, x_rows = 0; // x_rows: rows of activations per token
    bool has_order = false;

    std::string name() const {
        std::string text = std::string(ggml_type_name(kind.type)) + " " + std::to_string(rows) + "x" +
                           std::to_string(cols) + " tokens=" + std::to_string(tokens) +
                           " matrices=" + std::to_string(matrices) + " x=" + layout_names[x_layout] +
                           (has_order ? " order" : "");
        return experts ? text + " experts=" + std::to_string(experts) + "/" + std::to_string(used) + "/" +
                             std::to_string(x_rows)
                       : text;
    }
};

// The largest normalized mean squared error that int8 activations in groups of 32 explain; test-backend-ops has the same.
static constexpr double largest_nmse = 5e-4;
static const int thread_counts[] = { 1, 2, 3, 7 };

class test {
  public:
    test(const test_case & of, unsigned seed) : of(of), rng(seed), n_matrices(std::max<int64_t>(1, of.experts)) {}

    bool passes() {
        make_weight();
        make_x();
        op = of.experts ? ggml_mul_mat_id(ctx(), weight, x, ids) : ggml_mul_mat(ctx(), weight, x);
        graph.allocate();
        fill();
        const std::vector<double> expected = reference();
        std::vector<float> first;
        for (const int threads : thread_counts) {
            graph.compute(op, threads);
            std::vector<float> found(ggml_nelements(op));
            ggml_backend_tensor_get(op, found.data(), 0, ggml_nbytes(op));
            const double error = nmse(found, expected);
            if (!(error <= largest_nmse)) {
                return fails("threads=" + std::to_string(threads) + ": NMSE " + std::to_string(error));
            }
            if (!first.empty() && memcmp(first.data(), found.data(), ggml_nbytes(op)) != 0) {
                return fails("threads=" + std::to_string(threads) + ": other bits than with one thread");
            }
            first = found;
        }
        return true;
    }

  private:
    const test_case & of;
    std::mt19937 rng;
    int64_t n_matrices;
    tmac_graph graph;
    ggml_tensor *weight = nullptr, *order = nullptr, *whole_x = nullptr, *x = nullptr, *ids = nullptr, *op = nullptr;
    std::vector<tmac_random_matrix> matrices;
    std::vector<std::vector<int32_t>> orders;
    std::vector<int32_t> chosen;
    std::vector<float> values; // of x, in the order of its elements

    ggml_context * ctx() { return graph.ctx.get(); }

    bool fails(const std::string & why) {
        printf("FAIL %s: %s\n", of.name().c_str(), why.c_str());
        return false;
    }

    void make_weight() {
        weight = of.experts ? ggml_new_tensor_3d(ctx(), of.kind.type, of.cols, of.rows, of.experts)
                            : ggml_new_tensor_2d(ctx(), of.kind.type, of.cols, of.rows);
        if (of.has_order) {
            order = ggml_new_tensor_2d(ctx(), GGML_TYPE_I32, of.cols, n_matrices);
            weight->src[0] = order;
        }
    }

    void make_x() {
        const ggml_type type = of.x_layout == HALF ? GGML_TYPE_F16 : GGML_TYPE_F32;
        if (of.experts) {
            whole_x = x = ggml_new_tensor_3d(ctx(), type, of.cols, of.x_rows, of.tokens);
            ids = ggml_new_tensor_2d(ctx(), GGML_TYPE_I32, of.used, of.tokens);
        } else if (of.x_layout == STRIDED) {
            whole_x = ggml_new_tensor_4d(ctx(), type, of.cols + 32, of.tokens, of.matrices, 2);
            x = ggml_view_4d(ctx(), whole_x, of.cols, of.tokens, of.matrices, 2, whole_x->nb[1], whole_x->nb[2],
                             whole_x->nb[3], 16 * ggml_type_size(type));
        } else if (of.x_layout == PERMUTED) {
            whole_x = ggml_new_tensor_4d(ctx(), type, of.cols, of.matrices, of.tokens, 1);
            x = ggml_permute(ctx(), whole_x, 0, 2, 1, 3);
        } else {
            whole_x = x = ggml_new_tensor_4d(ctx(), type, of.cols, of.tokens, of.matrices, 1);
        }
    }

    // The number in `whole_x` of the first element of row n of x.
    int64_t at(int64_t n) const {
        const int64_t i1 = n % x->ne[1], i2 = n / x->ne[1] % x->ne[2], i3 = n / x->ne[1] / x->ne[2];
        return (int64_t) ((x->view_offs + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3]) / ggml_type_size(x->type));
    }

    void fill() {
        std::normal_distribution<float> normal;
        std::vector<float> all(ggml_nelements(whole_x));
        std::vector<ggml_fp16_t> halves(all.size());
        for (size_t i = 0; i < all.size(); i++) {
            halves[i] = ggml_fp32_to_fp16(all[i] = normal(rng));
            all[i] = of.x_layout == HALF ? ggml_fp16_to_fp32(halves[i]) : all[i];
        }
        ggml_backend_tensor_set(whole_x, of.x_layout == HALF ? (void *) halves.data() : all.data(), 0,
                                ggml_nbytes(whole_x));
        for (int64_t row = 0; row < ggml_nrows(x); row++) {
            values.insert(values.end(), all.begin() + at(row), all.begin() + at(row) + of.cols);
        }
        for (int64_t i = 0; i < n_matrices; i++) {
            matrices.emplace_back(of.kind, of.rows, of.cols, rng);
            const std::vector<uint8_t> & bytes = matrices.back().bytes;
            GGML_ASSERT(bytes.size() == weight->nb[2]);
            ggml_backend_tensor_set(weight, bytes.data(), i * bytes.size(), bytes.size());
            orders.emplace_back(of.cols);
            std::iota(orders.back().begin(), orders.back().end(), 0);
            if (order) {
                std::shuffle(orders.back().begin(), orders.back().end(), rng);
                ggml_backend_tensor_set(order, orders.back().data(), i * order->nb[1], order->nb[1]);
            }
        }
        for (int64_t token = 0; ids && token < of.tokens; token++) {
            std::vector<int32_t> experts(of.experts);
            std::iota(experts.begin(), experts.end(), 0);
            std::shuffle(experts.begin(), experts.end(), rng);
            chosen.insert(chosen.end(), experts.begin(), experts.begin() + of.used);
        }
        if (ids) {
            ggml_backend_tensor_set(ids, chosen.data(), 0, ggml_nbytes(ids));
        }
    }

    std::vector<double> reference() const {
        std::vector<double> y(ggml_nelements(op));
        for (int64_t row = 0; row < ggml_nrows(op); row++) {
            const int64_t token = row / op->ne[1], slot = row % op->ne[1];
            const int64_t expert = ids ? chosen[row] : 0;
            const float * const from = &values[of.cols * (ids ? token * of.x_rows + slot % of.x_rows : row)];
            for (int64_t m = 0; m < of.rows; m++) {
                for (int64_t k = 0; k < of.cols; k++) {
                    y[row * of.rows + m] += (double) matrices[expert].dense[m * of.cols + k] * from[orders[expert][k]];
                }
            }
        }
        return y;
    }

    static double nmse(const std::vector<float> & found, const std::vector<double> & expected) {
        double error = 0, all = 0;
        for (size_t i = 0; i < expected.size(); i++) {
            error += (found[i] - expected[i]) * (found[i] - expected[i]);
            all += expected[i] * expected[i];
        }
        return error / all;
    }
};

static std::vector<test_case> cases_of(const tmac_kind & kind) {
    const int64_t cols = std::max<int64_t>(128, kind.columns());
    std::vector<test_case> cases;
    for (const int64_t tokens : { 1, 2, 3, 4, 7, 16, 33 }) {
        cases.push_back({ kind, 96, 3 * kind.columns(), tokens });
        cases.push_back({ kind, 32, kind.columns(), tokens });
        cases.push_back({ kind, 160, 2 * cols + kind.columns(), tokens, 3 });
        for (const layout x_layout : { STRIDED, PERMUTED, HALF }) {
            cases.push_back({ kind, 64, cols, tokens, 2, x_layout });
        }
        cases.push_back({ kind, 64, 2 * cols, tokens, 2, STRIDED, 0, 0, 0, true });
        for (const int64_t x_rows : { 1, 3 }) {
            for (const bool has_order : { false, true }) {
                cases.push_back({ kind, 64, cols, tokens, 1, ROWS, 5, 3, x_rows, has_order });
            }
        }
        cases.push_back({ kind, 64, cols, tokens, 1, HALF, 16, 1, 1, false });
    }
    return cases;
}

static bool save(const char * from, const char * to) {
    llama_model_params params = llama_model_default_params();
    llama_model * model = llama_model_load_from_file(from, params);
    if (!model) {
        return false;
    }
    bool is_saved = true;
    try {
        llama_model_save_to_file(model, to);
    } catch (const std::exception & error) {
        fprintf(stderr, "%s\n", error.what());
        is_saved = false;
    }
    llama_model_free(model);
    return is_saved;
}

static bool set(const char * from) {
    const gguf_init_params header = { true, nullptr };
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> metadata(gguf_init_from_file(from, header), gguf_free);
    const auto set_zeros = [](ggml_tensor * tensor, void *) {
        ggml_backend_tensor_memset(tensor, 0, 0, ggml_nbytes(tensor));
    };
    llama_model * model =
        metadata ? llama_model_init_from_user(metadata.get(), set_zeros, nullptr, llama_model_default_params())
                 : nullptr;
    llama_model_free(model);
    return model != nullptr;
}

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    if (argc == 3 && strcmp(argv[1], "set") == 0) {
        return set(argv[2]) ? 0 : 1;
    }
    if (argc == 4 && strcmp(argv[1], "save") == 0) {
        return save(argv[2], argv[3]) ? 0 : 1;
    }
    int passed = 0, run = 0;
    for (const tmac_kind & kind : tmac_kinds()) {
        for (const test_case & one : cases_of(kind)) {
            passed += test(one, ++run).passes();
        }
    }
    const int threads = (int) (sizeof(thread_counts) / sizeof(thread_counts[0]));
    printf("%d of %d products pass, each with %d numbers of threads\n", passed, run, threads);
    bool is_right = passed == run && run > 0;
    is_right = test_refusals() && is_right;
    is_right = test_shared_rows() && is_right;
#ifdef TMAC_TEST_ROTATED
    is_right = test_rotated_views() && is_right;
#endif
    return is_right ? 0 : 1;
}
