// Weights of T-MAC's types for tests, packed as docs/format.md says and not by any other code of ours.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include "../ggml/src/ggml-cpu/tmac/tmac-types.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

struct tmac_kind {
    ggml_type type;
    int bits, group; // group 0: no scales
    bool is_ternary, has_zeros, has_minima, has_levels;

    explicit tmac_kind(int id) : type((ggml_type) id) {
        const int low = id & 0xF;
        is_ternary = (id >> 4 & 0xF) == 0;
        bits = is_ternary ? 2 : id >> 4 & 0xF;
        has_levels = low == 9;
        const bool is_minimum = !is_ternary && low >= 6 && low <= 8, is_symmetric = bits == 3 || bits == 6;
        has_minima = is_minimum || (has_levels && !is_symmetric);
        has_zeros = !is_ternary && low < 6 && (low & 1);
        group = low == 0xF ? 0 : 32 << (is_minimum ? low - 6 : low / 2);
        if (has_levels) {
            group = bits == 4 || bits == 5 ? 32 : 16;
        }
    }

    // The least number of columns, of which others are multiples.
    int64_t columns() const { return ggml_blck_size(type); }
};

inline std::vector<tmac_kind> tmac_kinds() {
    std::vector<tmac_kind> kinds;
    for (int id = TMAC_FIRST_TYPE_ID; id < TMAC_END_TYPE_ID; id++) {
        if (tmac_is_type(id)) {
            kinds.emplace_back(id);
        }
    }
    return kinds;
}

// The buffer type whose weights are repacked.
inline ggml_backend_buffer_type_t tmac_buffer_type() {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto get_all = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t * all = get_all(cpu);
    while (*all && std::string(ggml_backend_buft_name(*all)) != "CPU_TMAC") {
        all++;
    }
    GGML_ASSERT(*all);
    return *all;
}

// A matrix of random codes, scales and zero-points.
struct tmac_random_matrix {
    int64_t rows, cols;
    std::vector<uint8_t> codes, bytes;
    std::vector<float> dense; // what it means, row by row

    tmac_random_matrix(const tmac_kind & kind, int64_t rows, int64_t cols, std::mt19937 & rng)
        : rows(rows), cols(cols), codes(rows * cols), dense(rows * cols) {
        for (uint8_t & code : codes) {
            code = kind.is_ternary ? 1 + rng() % 3 : rng() % (1u << kind.bits);
        }
        kind.is_ternary ? pack_triples() : pack_planes(kind.bits);
        const int64_t group = kind.group ? kind.group : cols, groups = cols / group;
        // Numbers of groups, or of blocks whose groups have levels.
        const int64_t block = kind.has_levels ? 256 : group, blocks = cols / block;
        std::vector<ggml_fp16_t> scales(rows * blocks), minima(rows * blocks);
        std::vector<uint8_t> zeros(rows * groups), levels(rows * groups, 1), minimum_levels(rows * groups, 1);
        for (int64_t i = 0; i < rows * blocks; i++) {
            scales[i] = ggml_fp32_to_fp16((0.5f + rng() % 1024 / 1024.0f) * (rng() % 8 ? 1 : -1));
            minima[i] = ggml_fp32_to_fp16((0.5f + rng() % 1024 / 1024.0f) * (rng() % 2 ? 1 : -1));
        }
        for (int64_t i = 0; i < rows * groups; i++) {
            zeros[i] = rng() % (16 << std::min(kind.bits, 4));
            if (kind.has_levels) {
                levels[i] = kind.has_minima ? rng() % (kind.bits == 2 ? 16 : 64) : rng() % 64 - 32;
                minimum_levels[i] = rng() % (kind.bits == 2 ? 16 : 64);
            }
        }
        const float fixed = kind.bits == 1 ? 0.5f : (float) (1 << (kind.bits - 1));
        for (int64_t i = 0; i < rows * cols; i++) {
            const int64_t row = i / cols, col = i % cols, at = row * groups + col / group,
                          of = row * blocks + col / block;
            const float scale = kind.group ? ggml_fp16_to_fp32(scales[of]) * (int8_t) levels[at] : 1;
            const float minimum = ggml_fp16_to_fp32(minima[of]) * (kind.has_levels ? -minimum_levels[at] : 1);
            dense[i] = kind.has_minima ? scale * codes[i] + minimum
                                       : scale * (codes[i] - (kind.has_zeros ? zeros[at] / 16.0f : fixed));
        }
        if (kind.has_levels) {
            append_scale_blocks(kind, scales, minima, levels, minimum_levels, blocks);
            return;
        }
        if (kind.group) {
            append_by_tile(scales, groups);
        }
        if (kind.has_zeros) {
            append_by_tile(zeros, groups);
        }
        if (kind.has_minima) {
            append_by_tile(minima, groups);
        }
    }

  private:
    void pack_planes(int bits) {
        bytes.assign(rows * cols * bits / 8, 0);
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t col = 0; col < cols; col++) {
                for (int b = 0; b < bits; b++) {
                    const int64_t line = (row / 32 * (cols / 16) + col / 16) * bits + b;
                    const int64_t byte = 16 * (col % 16 / 4) + row % 16;
                    const int bit = 4 * (row % 32 / 16) + col % 4;
                    bytes[64 * line + byte] |= (codes[row * cols + col] >> b & 1) << bit;
                }
            }
        }
    }

    void pack_triples() {
        bytes.assign(rows * cols / 128 * 27, 0);
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t block = 0; block < cols / 128; block++) {
                uint8_t * const to = bytes.data() + (row / 32 * (cols / 128) + block) * 864;
                for (int64_t j = 0; j < 43; j++) {
                    int v = 0;
                    for (int64_t i = 0, weight = 1; i < 3 && 3 * j + i < 128; i++, weight *= 3) {
                        v += (int) weight * (codes[row * cols + 128 * block + 3 * j + i] - 2);
                    }
                    const int64_t r = row % 16, high = row % 32 / 16;
                    to[16 * j + r] |= (v < 0 ? -v : v) << (4 * high);
                    to[688 + 16 * (j / 4) + r] |= (v < 0) << (7 - 2 * (j % 4) - high);
                }
            }
        }
    }

    // The values of a group of the 32 rows of a tile.
    template <typename T>
    void append(const std::vector<T> & values, int64_t groups, int64_t tile, int64_t group) {
        for (int64_t row = 32 * tile; row < 32 * tile + 32; row++) {
            const uint8_t * const value = (const uint8_t *) &values[row * groups + group];
            bytes.insert(bytes.end(), value, value + sizeof(T));
        }
    }

    // For each tile, each group.
    template <typename T>
    void append_by_tile(const std::vector<T> & values, int64_t groups) {
        for (int64_t tile = 0; tile < rows / 32; tile++) {
            for (int64_t group = 0; group < groups; group++) {
                append(values, groups, tile, group);
            }
        }
    }

    void append_scale_blocks(const tmac_kind & kind, const std::vector<ggml_fp16_t> & scales,
                             const std::vector<ggml_fp16_t> & minima, std::vector<uint8_t> levels,
                             const std::vector<uint8_t> & minimum_levels, int64_t blocks) {
        const int64_t per_block = 256 / kind.group, groups = blocks * per_block;
        const bool is_one_byte = kind.bits == 2;
        for (size_t i = 0; is_one_byte && i < levels.size(); i++) {
            levels[i] |= minimum_levels[i] << 4;
        }
        for (int64_t tile = 0; tile < rows / 32; tile++) {
            for (int64_t block = 0; block < blocks; block++) {
                append(scales, blocks, tile, block);
                if (kind.has_minima) {
                    append(minima, blocks, tile, block);
                }
                for (int64_t group = block * per_block; group < (block + 1) * per_block; group++) {
                    append(levels, groups, tile, group);
                    if (kind.has_minima && !is_one_byte) {
                        append(minimum_levels, groups, tile, group);
                    }
                }
            }
        }
    }
};

// A graph of one operation, on a CPU backend that is not asked whether it supports it.
struct tmac_graph {
    ggml_backend_ptr backend{ ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr) };
    ggml_context_ptr ctx{ ggml_init({ 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }) };
    ggml_backend_buffer_ptr buffer;
    ggml_cgraph * graph = nullptr;

    void allocate() { buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get())); }

    ggml_cgraph * graph_of(ggml_tensor * op) {
        if (!graph) {
            graph = ggml_new_graph(ctx.get());
            ggml_build_forward_expand(graph, op);
        }
        return graph;
    }

    void compute(ggml_tensor * op, int threads) {
        const ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend.get()));
        const auto set_n_threads =
            (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
        set_n_threads(backend.get(), threads);
        ggml_backend_graph_compute(backend.get(), graph_of(op));
    }
};

bool test_refusals();
bool test_shared_rows();
bool test_rotated_views();
