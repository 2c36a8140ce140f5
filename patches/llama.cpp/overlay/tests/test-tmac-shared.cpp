// Products that share their activations: the second one uses the rows that the first one prepared, and must not where
// the activations changed between, the form is another, or the columns have an order.
#include "test-tmac.h"

#include "ggml.h"

#include <cstdio>
#include <cstring>

enum between { NOTHING, UNSEEN, SCALED, OTHER_ACTIVATIONS, OTHER_GRAPH, ORDER, EXPERTS };
static const char * const between_names[] = { "nothing",       "zeros unseen", "scaled in place", "other activations",
                                              "another graph", "an order",     "experts" };

class shared_test {
  public:
    shared_test(const tmac_kind & kind, const tmac_kind & other, int64_t tokens, between what, unsigned seed)
        : what(what), tokens(tokens), rng(seed) {
        cols = std::max<int64_t>(256, std::max(kind.columns(), other.columns()));
        weights[0] = new_weight(kind);
        weights[1] = new_weight(other);
        x = ggml_new_tensor_3d(ctx(), GGML_TYPE_F32, cols, what == EXPERTS ? 1 : tokens, what == EXPERTS ? tokens : 1);
        other_x = ggml_dup_tensor(ctx(), x);
        ids = ggml_new_tensor_2d(ctx(), GGML_TYPE_I32, 2, tokens);
        order = ggml_new_tensor_1d(ctx(), GGML_TYPE_I32, cols);
        weights[1]->src[0] = what == ORDER ? order : nullptr;
        scaled = ggml_scale_inplace(ctx(), x, -2);
        for (int i = 0; i < 2; i++) {
            products[i] = product(weights[i], x);
        }
        other_product = product(weights[0], other_x);
        graph.allocate();
        fill(kind, 0);
        fill(other, 1);
    }

    bool passes(int threads) {
        // What the second product is alone.
        set(x);
        if (what == SCALED) {
            compute({ scaled }, threads);
        }
        const std::vector<float> expected = compute({ products[1] }, threads);
        set(x);
        std::vector<float> found;
        switch (what) {
            case UNSEEN:
                // Behind the graph's back the activations become zeros: only rows that were prepared before give the
                // result of what they were.
                after_nodes(clear);
                found = compute({ products[0], products[1] }, threads);
                after_nodes(nullptr);
                break;
            case SCALED: found = compute({ products[0], scaled, products[1] }, threads); break;
            case OTHER_ACTIVATIONS: found = compute({ other_product, products[1] }, threads); break;
            case OTHER_GRAPH:
                ggml_backend_tensor_memset(x, 0, 0, ggml_nbytes(x));
                compute({ products[0] }, threads);
                set(x);
                found = compute({ products[1] }, threads);
                break;
            default: found = compute({ products[0], products[1] }, threads);
        }
        return memcmp(found.data(), expected.data(), expected.size() * sizeof(float)) == 0;
    }

  private:
    between what;
    int64_t tokens, cols = 0, rows = 64;
    std::mt19937 rng;
    tmac_graph graph;
    ggml_tensor *weights[2], *products[2], *x, *other_x, *ids, *order, *scaled, *other_product;

    ggml_context * ctx() { return graph.ctx.get(); }

    ggml_tensor * new_weight(const tmac_kind & kind) {
        return ggml_new_tensor_3d(ctx(), kind.type, cols, rows, what == EXPERTS ? 3 : 1);
    }

    ggml_tensor * product(ggml_tensor * weight, ggml_tensor * of) {
        return what == EXPERTS ? ggml_mul_mat_id(ctx(), weight, of, ids) : ggml_mul_mat(ctx(), weight, of);
    }

    void fill(const tmac_kind & kind, int which) {
        for (int64_t i = 0; i < weights[which]->ne[2]; i++) {
            const tmac_random_matrix matrix(kind, rows, cols, rng);
            ggml_backend_tensor_set(weights[which], matrix.bytes.data(), i * matrix.bytes.size(), matrix.bytes.size());
        }
        std::vector<int32_t> chosen(2 * tokens), columns(cols);
        for (size_t i = 0; i < chosen.size(); i++) {
            chosen[i] = (int32_t) (i % 2 ? (i + 1) % 3 : i % 3);
        }
        ggml_backend_tensor_set(ids, chosen.data(), 0, ggml_nbytes(ids));
        for (int64_t i = 0; i < cols; i++) {
            columns[i] = (int32_t) (cols - 1 - i);
        }
        ggml_backend_tensor_set(order, columns.data(), 0, ggml_nbytes(order));
        set(other_x);
    }

    // Called by the first thread after each node, when every thread has prepared what it needs of it. True would abort.
    static bool clear(void * test) {
        const ggml_tensor * x = ((shared_test *) test)->x;
        memset(x->data, 0, ggml_nbytes(x));
        return false;
    }

    void after_nodes(ggml_abort_callback callback) {
        const ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(graph.backend.get()));
        const auto set_callback = (ggml_backend_set_abort_callback_t) ggml_backend_reg_get_proc_address(
            reg, "ggml_backend_set_abort_callback");
        set_callback(graph.backend.get(), callback, this);
    }

    // The same values whenever it is called, but others for each tensor.
    void set(ggml_tensor * tensor) {
        std::mt19937 same(tensor == x ? 1 : 2);
        std::normal_distribution<float> normal;
        std::vector<float> values(ggml_nelements(tensor));
        std::generate(values.begin(), values.end(), [&] { return normal(same); });
        ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
    }

    // Computes the nodes in this order, as a graph, and gives the last one's result.
    std::vector<float> compute(const std::vector<ggml_tensor *> & nodes, int threads) {
        ggml_context_ptr of_graph{ ggml_init({ ggml_graph_overhead(), nullptr, true }) };
        graph.graph = ggml_new_graph(of_graph.get());
        for (ggml_tensor * node : nodes) {
            ggml_build_forward_expand(graph.graph, node);
        }
        graph.compute(nodes.back(), threads);
        graph.graph = nullptr;
        std::vector<float> found(ggml_nelements(nodes.back()));
        ggml_backend_tensor_get(nodes.back(), found.data(), 0, ggml_nbytes(nodes.back()));
        return found;
    }
};

bool test_shared_rows() {
    const std::vector<tmac_kind> kinds = tmac_kinds();
    int passed = 0, run = 0;
    for (size_t i = 0; i < kinds.size(); i++) {
        // With one of the same type, and with one that may read another form.
        for (const tmac_kind & other : { kinds[i], kinds[(i + 7) % kinds.size()] }) {
            for (const int64_t tokens : { 1, 5, 33 }) {
                for (const between what : { NOTHING, UNSEEN, SCALED, OTHER_ACTIVATIONS, OTHER_GRAPH, ORDER, EXPERTS }) {
                    // Two of a type have the same form; two others may not, and then share nothing.
                    if (what == UNSEEN && other.type != kinds[i].type) {
                        continue;
                    }
                    for (const int threads : { 1, 3 }) {
                        const bool is_right = shared_test(kinds[i], other, tokens, what, ++run).passes(threads);
                        passed += is_right;
                        if (!is_right) {
                            printf("FAIL %s, then %s, between them %s: %d tokens, %d threads\n",
                                   ggml_type_name(kinds[i].type), ggml_type_name(other.type), between_names[what],
                                   (int) tokens, threads);
                        }
                    }
                }
            }
        }
    }
    printf("%d of %d pairs of products with the same activations pass\n", passed, run);
    return passed == run && run > 0;
}
