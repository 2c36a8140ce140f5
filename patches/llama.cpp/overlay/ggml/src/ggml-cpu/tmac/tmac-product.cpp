#include "tmac-product.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-choice.h"
#include "tmac-obstacle.h"
#include "tmac-order.h"
#include "tmac-repacked.h"

#include <algorithm>
#include <initializer_list>

namespace ggml::cpu::tmac {

static constexpr size_t alignment = TMAC_ALIGNMENT;
// Bytes of weights that stay in the second-level cache while a GEMV kernel multiplies them by all tokens in turn.
static constexpr int64_t tile_block_bytes = 256 * 1024;

static int64_t share(int64_t total, int part, int parts) { return total * part / parts; }

// Row n of all rows of a tensor: row n % ne1 of matrix n / ne1.
static char * row_at(const ggml_tensor * tensor, int64_t n) {
    const int64_t i1 = n % tensor->ne[1], matrix = n / tensor->ne[1];
    const int64_t i2 = matrix % tensor->ne[2], i3 = matrix / tensor->ne[2];
    return (char *) tensor->data + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

// The expert in one of a token's slots. The graph computes its number, so it is checked here, where it is used.
static int64_t expert_of(const ggml_tensor * op, int64_t slot, int64_t token) {
    const ggml_tensor * ids = op->src[2];
    const int32_t expert = *(const int32_t *) ((const char *) ids->data + slot * ids->nb[0] + token * ids->nb[1]);
    GGML_ASSERT(expert >= 0 && expert < op->src[0]->ne[2] && "tmac: no such expert");
    return expert;
}

// One row to prepare: the activations, and the order of the weight's columns (NULL: that of the activations).
struct input_row {
    const char * x;
    const int32_t * order;
};

// Experts may share a row of activations (src1 has fewer rows than there are slots); then they share the prepared row.
// If the experts have orders, they cannot share: every slot has a prepared row of its own.
static bool shares_rows(const ggml_tensor * op) { return op->op == GGML_OP_MUL_MAT || !tmac_order_of(op->src[0]); }

static int64_t input_rows(const ggml_tensor * op) {
    return shares_rows(op) ? ggml_nrows(op->src[1]) : ggml_nelements(op->src[2]);
}

static input_row input_row_at(const ggml_tensor * op, int64_t n) {
    const ggml_tensor * x = op->src[1];
    const ggml_tensor * order = tmac_order_of(op->src[0]);
    if (shares_rows(op)) {
        return { row_at(x, n), order ? (const int32_t *) order->data : nullptr };
    }
    const int64_t slots = op->ne[1], slot = n % slots, token = n / slots;
    const int64_t expert = expert_of(op, slot, token);
    return { row_at(x, token * x->ne[1] + slot % x->ne[1]), (const int32_t *) order->data + expert * order->ne[0] };
}

// The prepared row that a slot multiplies.
static int64_t row_of_slot(const ggml_tensor * op, int32_t slot, int32_t token) {
    const int64_t rows = op->src[1]->ne[1];
    return shares_rows(op) ? token * rows + slot % rows : token * op->ne[1] + slot;
}

// The number of tokens per matrix; for experts, the average if as many of them are used as possible.
static int64_t tokens_per_matrix(const ggml_tensor * op) {
    const int64_t jobs = ggml_nrows(op), experts = op->op == GGML_OP_MUL_MAT_ID ? op->src[0]->ne[2] : 1;
    const int64_t used = std::max<int64_t>(1, std::min(jobs, experts));
    return std::max<int64_t>(1, (jobs + used - 1) / used);
}

// The content of the work buffer: all prepared rows, which come first because the next product may use them; for each
// thread a row of activations in the order of the weight's columns; and the jobs. Job n multiplies x[n] and writes to
// y[n]. The jobs of expert e are [first_job[e], first_job[e + 1]).
struct work_buffer {
    char * rows = nullptr;
    char * gathered = nullptr;
    tmac_activations * x = nullptr;
    float ** y = nullptr;
    int64_t * first_job = nullptr;
    size_t row_bytes = 0;
    size_t gathered_bytes; // of one thread
    size_t size;

    // Large enough for any of `kernels`, of which some may be NULL. `at` is the memory; NULL only computes `size`.
    work_buffer(const ggml_tensor * op, int threads, std::initializer_list<const tmac_kernel *> kernels,
                void * at = nullptr) {
        const ggml_tensor * weight = op->src[0];
        const int64_t cols = weight->ne[0];
        for (const tmac_kernel * kernel : kernels) {
            row_bytes = std::max(row_bytes, kernel ? tmac_activations_size(kernel->form, cols) : 0);
        }
        gathered_bytes = tmac_order_of(weight) ? GGML_PAD(cols * sizeof(float), alignment) : 0;
        const uintptr_t base = GGML_PAD((uintptr_t) at, alignment);
        uintptr_t end = base;
        rows = take(end, row_bytes * input_rows(op));
        gathered = take(end, gathered_bytes * threads);
        x = (tmac_activations *) take(end, ggml_nrows(op) * sizeof(tmac_activations));
        y = (float **) take(end, ggml_nrows(op) * sizeof(float *));
        first_job = (int64_t *) take(end, (weight->ne[2] + 1) * sizeof(int64_t));
        size = end - base + alignment;
    }

    tmac_activations prepared(const tmac_kernel & kernel, int64_t cols, int64_t row) const {
        return tmac_activations_at(rows + row * row_bytes, kernel.form, cols);
    }

  private:
    static char * take(uintptr_t & end, size_t bytes) {
        char * const begin = (char *) end;
        end += GGML_PAD(bytes, alignment);
        return begin;
    }
};

static void list_jobs(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work) {
    for (int64_t n = 0; n < ggml_nrows(op); n++) {
        work.x[n] = work.prepared(kernel, op->src[0]->ne[0], n);
        work.y[n] = (float *) row_at(op, n);
    }
    work.first_job[0] = 0;
    work.first_job[1] = ggml_nrows(op);
}

// Lists one job per slot of every token, sorted by expert, then by token.
static void list_expert_jobs(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work) {
    const int64_t experts = op->src[0]->ne[2], slots = op->ne[1], tokens = op->ne[2];
    std::fill_n(work.first_job, experts + 1, 0);
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t slot = 0; slot < slots; slot++) {
            work.first_job[expert_of(op, slot, token) + 1]++;
        }
    }
    for (int64_t expert = 0; expert < experts; expert++) {
        work.first_job[expert + 1] += work.first_job[expert];
    }
    for (int64_t token = tokens - 1; token >= 0; token--) {
        for (int64_t slot = slots - 1; slot >= 0; slot--) {
            // Entry e + 1 counts down from the end of expert e's jobs; in the end it is their beginning.
            const int64_t job = --work.first_job[expert_of(op, slot, token) + 1];
            work.x[job] = work.prepared(kernel, op->src[0]->ne[0], row_of_slot(op, slot, token));
            work.y[job] = (float *) ((char *) op->data + slot * op->nb[1] + token * op->nb[2]);
        }
    }
    std::copy(work.first_job + 1, work.first_job + experts + 1, work.first_job);
    work.first_job[experts] = slots * tokens;
}

// Copies activations for columns [first, last) in the order of the weight's columns. The loader has checked the order,
// but a mapped file can change, and even then nothing may be read outside the row.
template <typename element>
static void gather(const input_row & from, int64_t cols, int64_t first, int64_t last, void * to) {
    for (int64_t i = first; i < last; i++) {
        // Read once, so that the checked value is the one that is used.
        const int32_t column = *(const volatile int32_t *) &from.order[i];
        GGML_ASSERT(column >= 0 && column < cols && "tmac: order of columns changed");
        ((element *) to)[i] = ((const element *) from.x)[column];
    }
}

static void prepare(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work,
                    const ggml_compute_params * params) {
    const int64_t cols = op->src[1]->ne[0], rows = input_rows(op);
    const int64_t blocks = (cols + TMAC_TABLE_BLOCK - 1) / TMAC_TABLE_BLOCK;
    const bool is_half = op->src[1]->type == GGML_TYPE_F16;
    const int64_t last = share(rows * blocks, params->ith + 1, params->nth);
    for (int64_t i = share(rows * blocks, params->ith, params->nth); i < last;) {
        const int64_t row = i / blocks, first = i % blocks, count = std::min(blocks - first, last - i);
        const input_row from = input_row_at(op, row);
        const void * x = from.x;
        if (from.order) {
            // Exact forms need the largest magnitude of the whole row.
            const bool is_whole = kernel.precision == TMAC_EXACT;
            const int64_t first_col = is_whole ? 0 : first * TMAC_TABLE_BLOCK;
            const int64_t last_col = is_whole ? cols : std::min(cols, (first + count) * TMAC_TABLE_BLOCK);
            void * const row_here = work.gathered + params->ith * work.gathered_bytes;
            (is_half ? gather<ggml_fp16_t> : gather<float>) (from, cols, first_col, last_col, row_here);
            x = row_here;
        }
        const tmac_vector vector = { x, is_half ? TMAC_F16 : TMAC_F32, 1, cols };
        const tmac_activations to = work.prepared(kernel, cols, row);
        kernel.prepare(&vector, first, first + count, &to);
        i += count;
    }
}

static bool overlap(const ggml_tensor * one, const ggml_tensor * other) {
    const char *first = (const char *) one->data, *second = (const char *) other->data;
    return first < second + ggml_nbytes(other) && second < first + ggml_nbytes(one);
}

// Whether the work buffer still holds the rows that a product needs: the node computed just before it in this graph,
// with nothing between, was a product of ours with the very same activations in the same form, and has not written over
// them. What is prepared, and where, follows from the activations and the form alone, but for weights with an order, in
// which rows are gathered first. The two nodes alone decide, so all threads agree.
static bool has_prepared_rows(const tmac_kernel & kernel, const ggml_tensor * op, const ggml_compute_params * params) {
    const ggml_tensor * before = params->before;
    if (!before || !is_product(before) || before->src[1] != op->src[1] || overlap(before, op->src[1]) ||
        tmac_order_of(before->src[0]) || tmac_order_of(op->src[0])) {
        return false;
    }
    const tmac_kernel * other = choice_for(before->src[0], tokens_per_matrix(before), params->use_ref).kernel;
    return other && other->form == kernel.form;
}

// Multiplies tiles [first, last) of a matrix for jobs [first_job, last_job).
static void multiply_tiles(const tmac_kernel & kernel, const tmac_matrix & w, int64_t first, int64_t last,
                           const work_buffer & work, int64_t first_job, int64_t last_job) {
    if (kernel.gemm) {
        kernel.gemm(&w, work.x + first_job, work.y + first_job, last_job - first_job, first, last);
        return;
    }
    const int64_t tile_bytes = w.cols * TMAC_TILE_ROWS * kernel.type->bits / 8;
    const int64_t step = last_job - first_job == 1 ? last - first : std::max<int64_t>(2, tile_block_bytes / tile_bytes);
    for (int64_t tile = first; tile < last; tile += step) {
        for (int64_t n = first_job; n < last_job; n++) {
            kernel.gemv(&w, work.x + n, work.y[n], tile, std::min(tile + step, last));
        }
    }
}

// The kernel for this number of jobs of one expert, if it reads the form that the activations have; else the usual one.
static const tmac_kernel & kernel_for_jobs(const tmac_kernel & usual, const ggml_tensor * weight, int64_t jobs,
                                           bool reference) {
    const tmac_kernel * best = choice_for(weight, jobs, reference).kernel;
    return best && best->form == usual.form ? *best : usual;
}

// The tiles of all matrices form one line, on which a tile is as long as its matrix has jobs. Parts of the line that
// are equally long take equally long to compute. Threads take chunks of the line.
static void multiply(const tmac_kernel & usual, const ggml_tensor * op, const work_buffer & work,
                     const ggml_compute_params * params) {
    const ggml_tensor * weight = op->src[0];
    const int64_t matrices = weight->ne[2], tiles = weight->ne[1] / TMAC_TILE_ROWS;
    const size_t bytes = matrix_bytes(weight);
    const bool has_experts = op->op == GGML_OP_MUL_MAT_ID;
    const int64_t line = has_experts ? tiles * work.first_job[matrices] : tiles;
    int index = params->ith;
    for (tmac_tiles chunk; (chunk = tmac_chunk(line, params->nth, index)).first < line;) {
        for (int64_t matrix = 0; matrix < matrices; matrix++) {
            const int64_t first_job = work.first_job[matrix], jobs = work.first_job[matrix + 1] - first_job;
            const int64_t length = has_experts ? jobs : 1, begin = has_experts ? tiles * first_job : 0;
            // A tile belongs to the chunk in which its place on the line begins.
            const auto tile_at = [=](int64_t place) {
                return place <= begin ? 0 : std::min(tiles, (place - begin + length - 1) / length);
            };
            if (jobs == 0 || chunk.last <= begin || chunk.first >= begin + tiles * length) {
                continue;
            }
            const tmac_kernel & kernel = kernel_for_jobs(usual, weight, jobs, params->use_ref);
            const char * data = (const char *) weight->data + matrix * bytes;
            const tmac_matrix w = tmac_matrix_at(kernel.type, data, weight->ne[1], weight->ne[0]);
            multiply_tiles(kernel, w, tile_at(chunk.first), tile_at(chunk.last), work, first_job, first_job + jobs);
        }
        index = ggml_threadpool_chunk_add(params->threadpool, 1);
    }
}

bool product::work_size(int n_threads, const ggml_tensor * op, size_t & size) {
    require_operands(op);
    const ggml_tensor * weight = op->src[0];
    const int64_t tokens = tokens_per_matrix(op);
    note_weight(weight);
    size =
        work_buffer(op, n_threads, { choice_for(weight, tokens).kernel, choice_for(weight, tokens, true).kernel }).size;
    return true;
}

bool product::compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    require_operands(op);
    const ggml_tensor * weight = op->src[0];
    const choice & chosen = choice_for(weight, tokens_per_matrix(op), params->use_ref);
    if (!chosen.kernel) {
        GGML_ABORT("tmac: tensor '%s' (%s): %s", weight->name, ggml_type_name(weight->type), chosen.error.c_str());
    }
    const tmac_kernel & kernel = *chosen.kernel;
    const work_buffer work(op, params->nth, { &kernel }, params->wdata);
    GGML_ASSERT(params->wsize >= work.size);
    if (params->ith == 0) {
        say_kernels(params->use_ref);
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
        (op->op == GGML_OP_MUL_MAT_ID ? list_expert_jobs : list_jobs)(kernel, op, work);
    }
    if (!has_prepared_rows(kernel, op, params)) {
        prepare(kernel, op, work, params);
    }
    ggml_barrier(params->threadpool);
    multiply(kernel, op, work, params);
    return true;
}

} // namespace ggml::cpu::tmac
