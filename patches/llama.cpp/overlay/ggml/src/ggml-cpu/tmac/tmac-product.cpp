#include "tmac-product.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "kernels/tmac.h"
#include "tmac-choice.h"
#include "tmac-order.h"

#include <algorithm>

namespace ggml::cpu::tmac {

static constexpr size_t alignment = 64;
// Weights that are kept in the second-level cache while all tokens go by.
static constexpr int64_t tile_block_bytes = 256 * 1024;

static int64_t share(int64_t total, int part, int parts) {
    return total * part / parts;
}

// Rows of a tensor seen as one list: row n is row n % ne1 of matrix n / ne1.
static char * row_at(const ggml_tensor * tensor, int64_t n) {
    const int64_t i1 = n % tensor->ne[1], matrix = n / tensor->ne[1];
    const int64_t i2 = matrix % tensor->ne[2], i3 = matrix / tensor->ne[2];
    return (char *) tensor->data + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

// The expert that a token chose for one of its slots. Graphs compute it, so that only its use can check it.
static int64_t expert_of(const ggml_tensor * op, int64_t slot, int64_t token) {
    const ggml_tensor * ids    = op->src[2];
    const int32_t       expert = *(const int32_t *) ((const char *) ids->data + slot * ids->nb[0] + token * ids->nb[1]);
    GGML_ASSERT(expert >= 0 && expert < op->src[0]->ne[2] && "tmac: no such expert");
    return expert;
}

// One row of tables: the activations, and the order in which the weights' columns want them (NULL: as they are).
struct table_row {
    const char *    x;
    const int32_t * order;
};

// Experts may share a row of activations (src1 has fewer rows than there are slots), and then share its tables; with an
// order of its own for each expert, every slot has its own tables.
static bool shares_tables(const ggml_tensor * op) {
    return op->op == GGML_OP_MUL_MAT || !tmac_order_of(op->src[0]);
}

static int64_t table_rows(const ggml_tensor * op) {
    return shares_tables(op) ? ggml_nrows(op->src[1]) : ggml_nelements(op->src[2]);
}

static table_row table_row_at(const ggml_tensor * op, int64_t n) {
    const ggml_tensor * x     = op->src[1];
    const ggml_tensor * order = tmac_order_of(op->src[0]);
    if (shares_tables(op)) {
        return { row_at(x, n), order ? (const int32_t *) order->data : nullptr };
    }
    const int64_t slots = op->ne[1], slot = n % slots, token = n / slots;
    const int64_t expert = expert_of(op, slot, token);
    return { row_at(x, token * x->ne[1] + slot % x->ne[1]), (const int32_t *) order->data + expert * order->ne[0] };
}

// Which tables a slot's product uses.
static int64_t tables_of_slot(const ggml_tensor * op, int32_t slot, int32_t token) {
    const int64_t rows = op->src[1]->ne[1];
    return shares_tables(op) ? token * rows + slot % rows : token * op->ne[1] + slot;
}

// One of the rows of dst: slot `slot` of token `token`.
struct expert_use {
    int32_t slot, token;
};

// What lies in the work buffer: the tables of all rows; for each thread a row of activations in the weights' order; the
// uses of each expert, those of expert e from first_use[e] to first_use[e + 1].
struct work_buffer {
    char *       tables    = nullptr;
    char *       gathered  = nullptr;
    int64_t *    first_use = nullptr;
    expert_use * uses      = nullptr;
    size_t       gathered_bytes;  // of one thread
    size_t       size;

    work_buffer(const ggml_tensor * op, int threads, void * at = nullptr) {
        const ggml_tensor *  weight    = op->src[0];
        const int64_t        cols      = weight->ne[0];
        const tmac_precision precision = may_be_exact(weight) ? TMAC_EXACT : TMAC_ROUNDED;
        gathered_bytes = tmac_order_of(weight) ? GGML_PAD(cols * sizeof(float), alignment) : 0;
        const uintptr_t base = GGML_PAD((uintptr_t) at, alignment);
        uintptr_t       end  = base;
        tables   = take(end, tmac_tables_size(precision, cols) * table_rows(op));
        gathered = take(end, gathered_bytes * threads);
        if (op->op == GGML_OP_MUL_MAT_ID) {
            first_use = (int64_t *) take(end, (weight->ne[2] + 1) * sizeof(int64_t));
            uses      = (expert_use *) take(end, ggml_nelements(op->src[2]) * sizeof(expert_use));
        }
        size = end - base + alignment;
    }

  private:
    static char * take(uintptr_t & end, size_t bytes) {
        char * const begin = (char *) end;
        end += GGML_PAD(bytes, alignment);
        return begin;
    }
};

// Sorts the slots of all tokens by their expert, in the order of the tokens.
static void list_uses(const ggml_tensor * op, const work_buffer & work) {
    const int64_t experts = op->src[0]->ne[2], slots = op->ne[1], tokens = op->ne[2];
    std::fill_n(work.first_use, experts + 1, 0);
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t slot = 0; slot < slots; slot++) {
            work.first_use[expert_of(op, slot, token) + 1]++;
        }
    }
    for (int64_t expert = 0; expert < experts; expert++) {
        work.first_use[expert + 1] += work.first_use[expert];
    }
    for (int64_t token = tokens - 1; token >= 0; token--) {
        for (int64_t slot = slots - 1; slot >= 0; slot--) {
            // Filled from each expert's end, so that at last every entry e + 1 has become expert e's beginning.
            work.uses[--work.first_use[expert_of(op, slot, token) + 1]] = { (int32_t) slot, (int32_t) token };
        }
    }
    std::copy(work.first_use + 1, work.first_use + experts + 1, work.first_use);
    work.first_use[experts] = slots * tokens;
}

// Columns [first, last) of a row of activations as the weights' columns want them. The loader has checked the order;
// but a mapped file can change, and no change may read past the row.
template <typename element>
static void gather(const table_row & from, int64_t cols, int64_t first, int64_t last, void * to) {
    for (int64_t i = first; i < last; i++) {
        // Read once, so that what is used is what was checked.
        const int32_t column = *(const volatile int32_t *) &from.order[i];
        GGML_ASSERT(column >= 0 && column < cols && "tmac: order of columns changed");
        ((element *) to)[i] = ((const element *) from.x)[column];
    }
}

static tmac_tables tables_at(const tmac_kernel & kernel, char * buffer, int64_t cols, int64_t row) {
    return tmac_tables_at(buffer + row * tmac_tables_size(kernel.precision, cols), kernel.precision, cols);
}

static void build_tables(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work,
                         const ggml_compute_params * params) {
    const int64_t cols = op->src[1]->ne[0], groups = cols / TMAC_TABLE_GROUP, rows = table_rows(op);
    const bool    is_half = op->src[1]->type == GGML_TYPE_F16;
    const int64_t last    = share(rows * groups, params->ith + 1, params->nth);
    for (int64_t i = share(rows * groups, params->ith, params->nth); i < last;) {
        const int64_t   row = i / groups, first = i % groups, count = std::min(groups - first, last - i);
        const table_row from = table_row_at(op, row);
        const void *    x    = from.x;
        if (from.order) {
            // Exact tables need the whole row, for its largest magnitude.
            const bool    is_whole  = kernel.precision == TMAC_EXACT;
            const int64_t first_col = is_whole ? 0 : first * TMAC_TABLE_GROUP;
            const int64_t last_col  = is_whole ? cols : (first + count) * TMAC_TABLE_GROUP;
            void * const  row_here  = work.gathered + params->ith * work.gathered_bytes;
            (is_half ? gather<ggml_fp16_t> : gather<float>)(from, cols, first_col, last_col, row_here);
            x = row_here;
        }
        const tmac_vector vector = { x, is_half ? TMAC_F16 : TMAC_F32, 1, cols };
        const tmac_tables tables = tables_at(kernel, work.tables, cols, row);
        kernel.build_tables(&vector, first, first + count, &tables);
        i += count;
    }
}

// One product of a matrix: by which tables, and where its result goes.
struct job {
    int64_t tables;
    char *  y;
};

// Tiles [first, last) of one matrix for all of its jobs.
template <typename job_of>
static void multiply_tiles(const tmac_kernel & kernel, const tmac_matrix & w, int64_t first, int64_t last, int64_t jobs,
                           char * tables_buffer, const job_of & job_at) {
    const int64_t tile_bytes = w.cols * TMAC_TILE_ROWS * kernel.bits / 8;
    const int64_t step       = jobs == 1 ? last - first : std::max<int64_t>(2, tile_block_bytes / tile_bytes);
    for (int64_t tile = first; tile < last; tile += step) {
        for (int64_t n = 0; n < jobs; n++) {
            const job         job    = job_at(n);
            const tmac_tables tables = tables_at(kernel, tables_buffer, w.cols, job.tables);
            kernel.gemv(&w, &tables, (float *) job.y, tile, std::min(tile + step, last));
        }
    }
}

static void multiply(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work,
                     const ggml_compute_params * params) {
    const ggml_tensor * weight = op->src[0];
    const int64_t       tiles  = weight->ne[1] / TMAC_TILE_ROWS;
    const tmac_matrix   w      = tmac_matrix_at(&kernel, weight->data, weight->ne[1], weight->ne[0]);
    const auto          job_at = [op](int64_t n) { return job{ n, row_at(op, n) }; };
    int                 index  = params->ith;
    for (tmac_tiles chunk; (chunk = tmac_chunk(tiles, params->nth, index)).first < tiles;) {
        multiply_tiles(kernel, w, chunk.first, chunk.last, ggml_nrows(op), work.tables, job_at);
        index = ggml_threadpool_chunk_add(params->threadpool, 1);
    }
}

// All experts' tiles stand in one line, each as long as its expert has uses: parts of it that are as long take as long.
static void multiply_experts(const tmac_kernel & kernel, const ggml_tensor * op, const work_buffer & work,
                             const ggml_compute_params * params) {
    const ggml_tensor * weight = op->src[0];
    const int64_t       experts = weight->ne[2], tiles = weight->ne[1] / TMAC_TILE_ROWS;
    const int64_t       line    = tiles * work.first_use[experts];
    int                 index   = params->ith;
    for (tmac_tiles chunk; (chunk = tmac_chunk(line, params->nth, index)).first < line;) {
        for (int64_t expert = 0; expert < experts; expert++) {
            const expert_use * uses  = work.uses + work.first_use[expert];
            const int64_t      count = work.first_use[expert + 1] - work.first_use[expert];
            const int64_t      begin = tiles * work.first_use[expert];
            // A tile is of the chunk in which its place begins.
            const auto tile_at = [=](int64_t place) {
                return place <= begin ? 0 : std::min(tiles, (place - begin + count - 1) / count);
            };
            if (count == 0 || chunk.last <= begin || chunk.first >= begin + tiles * count) {
                continue;
            }
            const char *      data   = (const char *) weight->data + expert * weight->nb[2];
            const tmac_matrix w      = tmac_matrix_at(&kernel, data, weight->ne[1], weight->ne[0]);
            const auto        job_at = [=](int64_t n) {
                return job{ tables_of_slot(op, uses[n].slot, uses[n].token),
                            (char *) op->data + uses[n].slot * op->nb[1] + uses[n].token * op->nb[2] };
            };
            multiply_tiles(kernel, w, tile_at(chunk.first), tile_at(chunk.last), count, work.tables, job_at);
        }
        index = ggml_threadpool_chunk_add(params->threadpool, 1);
    }
}

bool product::work_size(int n_threads, const ggml_tensor * op, size_t & size) {
    note_weight(op->src[0]);
    size = work_buffer(op, n_threads).size;
    return true;
}

bool product::compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor * weight = op->src[0];
    const choice &      chosen = choice_for(weight, params->use_ref);
    if (!chosen.kernel) {
        GGML_ABORT("tmac: tensor '%s' (%s): %s", weight->name, ggml_type_name(weight->type), chosen.error.c_str());
    }
    const work_buffer work(op, params->nth, params->wdata);
    GGML_ASSERT(params->wsize >= work.size);
    if (params->ith == 0) {
        say_kernels(params->use_ref);
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
        if (op->op == GGML_OP_MUL_MAT_ID) {
            list_uses(op, work);
        }
    }
    build_tables(*chosen.kernel, op, work, params);
    ggml_barrier(params->threadpool);
    (op->op == GGML_OP_MUL_MAT_ID ? multiply_experts : multiply)(*chosen.kernel, op, work, params);
    return true;
}

}  // namespace ggml::cpu::tmac
