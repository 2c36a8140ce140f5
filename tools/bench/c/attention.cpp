// Times the attention of llama.cpp's graphs, as llama.cpp builds them, through the CPU backend that it is linked with.
//
// Arguments: threads, megabytes of caches per operation (0: one), seconds per operation. Each line of the input is one
// operation: "flash" or "products", the type of K and V, the width of a head, query heads, KV heads, positions, queries.
// For each, a line with the microseconds of one operation (median) and the bytes of K and V that it reads. "products" is
// two products and a softmax, with V transposed, as without flash attention.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

struct attention {
    std::string kind;
    ggml_type type;
    int64_t width, heads, kv_heads, positions, queries;

    size_t cache_bytes() const { return 2 * ggml_row_size(type, width) * kv_heads * positions; }
};

static const int most_operations = 4096, fewest_samples = 3, most_samples = 50, nodes_per_operation = 16;

static ggml_type type_called(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name((ggml_type) i);
        if (known && name == known) {
            return (ggml_type) i;
        }
    }
    throw "no type is called " + name;
}

static float next_value() {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float) (state >> 8) / (1 << 23) - 1;
}

static std::vector<float> values(size_t count) {
    std::vector<float> made(count);
    std::generate(made.begin(), made.end(), next_value);
    return made;
}

// The bytes of some blocks of a type, repeated.
static void fill(ggml_tensor * tensor) {
    const int64_t count = 1 << 14;
    const std::vector<float> some = values(count);
    std::vector<char> bytes(ggml_row_size(tensor->type, count));
    if (tensor->type == GGML_TYPE_F32) {
        std::memcpy(bytes.data(), some.data(), bytes.size());
    } else {
        ggml_quantize_chunk(tensor->type, some.data(), bytes.data(), 0, 1, count, nullptr);
    }
    const size_t all = ggml_nbytes(tensor);
    for (size_t at = 0; at < all; at += bytes.size()) {
        std::memcpy((char *) tensor->data + at, bytes.data(), std::min(bytes.size(), all - at));
    }
}

// The last query sees all positions, each before it one fewer.
static void fill_mask(ggml_tensor * mask) {
    const int64_t positions = mask->ne[0], queries = mask->ne[1];
    for (int64_t q = 0; q < queries; q++) {
        for (int64_t p = 0; p < positions; p++) {
            ((ggml_fp16_t *) mask->data)[q * positions + p] =
                ggml_fp32_to_fp16(p <= positions - queries + q ? 0 : -std::numeric_limits<float>::infinity());
        }
    }
}

static ggml_tensor * operation(ggml_context * context, ggml_context * inputs, const attention & a,
                               ggml_tensor * queries, ggml_tensor * mask, std::vector<ggml_tensor *> & caches) {
    const float scale = 1 / std::sqrt((float) a.width);
    ggml_tensor * keys = ggml_new_tensor_3d(inputs, a.type, a.width, a.kv_heads, a.positions);
    ggml_tensor * q = ggml_permute(context, queries, 0, 2, 1, 3);
    ggml_tensor * k = ggml_permute(context, keys, 0, 2, 1, 3);
    caches.push_back(keys);
    if (a.kind == "flash") {
        caches.push_back(ggml_new_tensor_3d(inputs, a.type, a.width, a.kv_heads, a.positions));
        ggml_tensor * v = ggml_permute(context, caches.back(), 0, 2, 1, 3);
        return ggml_flash_attn_ext(context, q, k, v, mask, scale, 0, 0);
    }
    caches.push_back(ggml_new_tensor_3d(inputs, a.type, a.positions, a.width, a.kv_heads));
    ggml_tensor * weights = ggml_soft_max_ext(context, ggml_mul_mat(context, k, q), mask, scale, 0);
    ggml_tensor * sums = ggml_mul_mat(context, caches.back(), weights);
    return ggml_cont_2d(context, ggml_permute(context, sums, 0, 2, 1, 3), a.width * a.heads, a.queries);
}

static double seconds_of(ggml_backend_t backend, ggml_cgraph * graph) {
    const auto begin = std::chrono::steady_clock::now();
    ggml_backend_graph_compute(backend, graph);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

static double median_seconds(ggml_backend_t backend, ggml_cgraph * graph, double seconds) {
    seconds_of(backend, graph);
    std::vector<double> samples;
    for (double all = 0; samples.size() < fewest_samples || (all < seconds && samples.size() < most_samples);) {
        samples.push_back(seconds_of(backend, graph));
        all += samples.back();
    }
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
}

static void time(ggml_backend_t backend, const attention & a, double megabytes, double seconds) {
    const int count =
        std::max(1, (int) std::min<double>(most_operations, std::ceil(megabytes * 1e6 / (double) a.cache_bytes())));
    const size_t nodes = (size_t) count * nodes_per_operation + 8;
    const ggml_init_params parameters = { nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false),
                                          nullptr, true };
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init(parameters), ggml_free);
    // What is read; it keeps its memory while the graph is computed again.
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> inputs(ggml_init(parameters), ggml_free);
    ggml_cgraph * graph = ggml_new_graph_custom(context.get(), nodes, false);
    ggml_tensor * mask = ggml_new_tensor_2d(inputs.get(), GGML_TYPE_F16, a.positions, a.queries);
    ggml_tensor * queries = ggml_new_tensor_3d(inputs.get(), GGML_TYPE_F32, a.width, a.heads, a.queries);
    std::vector<ggml_tensor *> caches;
    for (int i = 0; i < count; i++) {
        ggml_build_forward_expand(graph, operation(context.get(), inputs.get(), a, queries, mask, caches));
    }
    const std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> read(
        ggml_backend_alloc_ctx_tensors(inputs.get(), backend), ggml_backend_buffer_free);
    const std::unique_ptr<ggml_gallocr, decltype(&ggml_gallocr_free)> memory(
        ggml_gallocr_new(ggml_backend_cpu_buffer_type()), ggml_gallocr_free);
    if (!read || !ggml_gallocr_alloc_graph(memory.get(), graph)) {
        throw std::string("the memory is too small for the graph");
    }
    std::for_each(caches.begin(), caches.end(), fill);
    fill(queries);
    fill_mask(mask);
    std::printf("%.3f %zu\n", median_seconds(backend, graph, seconds) * 1e6 / count, a.cache_bytes());
    std::fflush(stdout);
}

int main(int count, char ** arguments) try {
    if (count != 4) {
        throw std::string("expected: threads megabytes seconds");
    }
    const int threads = std::atoi(arguments[1]);
    const std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)> backend(ggml_backend_cpu_init(),
                                                                              ggml_backend_free);
    ggml_threadpool_params parameters = ggml_threadpool_params_default(threads);
    ggml_threadpool * pool = ggml_threadpool_new(&parameters);
    ggml_backend_cpu_set_n_threads(backend.get(), threads);
    ggml_backend_cpu_set_threadpool(backend.get(), pool);
    for (std::string line; std::getline(std::cin, line);) {
        attention a;
        std::string type;
        std::istringstream words(line);
        if (!(words >> a.kind >> type >> a.width >> a.heads >> a.kv_heads >> a.positions >> a.queries)) {
            throw "not an operation: " + line;
        }
        a.type = type_called(type);
        time(backend.get(), a, std::atof(arguments[2]), std::atof(arguments[3]));
    }
    ggml_backend_cpu_set_threadpool(backend.get(), nullptr);
    ggml_threadpool_free(pool);
    return 0;
} catch (const std::string & problem) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    return 1;
}
