// T-MAC's kernels: GEMV and GEMM on bit-plane weights. This interface knows nothing of ggml, allocates
// nothing, starts no threads and keeps no state; the caller owns memory and splits the work.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "tmac_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TMAC_INLINE static inline __attribute__((always_inline))

struct tmac_matrix;
struct tmac_vector;
struct tmac_activations;

// Prepares blocks [first_block, last_block) of x. A NaN or an infinity makes every output row non-finite.
// Tables: blocks whose sums of four stay below 1e-34 in magnitude count as zero in the entries, and an overflow of a sum
// makes every output row non-finite; so with int8 and magnitudes below 1e-35. Exact: the int8 scale is max(|x|, 1e-5) / 127
// over all of x; int8 input stays as it is. The caller whose part begins at block 0 writes output_scale.
typedef void (*tmac_prepare_fn)(const struct tmac_vector * x, int64_t first_block, int64_t last_block,
                                const struct tmac_activations * to);

// y[r] = sum_k W[r, k] x[k] for the rows of tiles [first_tile, last_tile); y is indexed by absolute row.
typedef void (*tmac_gemv_fn)(const struct tmac_matrix * w, const struct tmac_activations * x, float * y,
                             int64_t first_tile, int64_t last_tile);

// The same for each of the tokens: y[t] from x[t]. Tables give the bits that a GEMV gives.
typedef void (*tmac_gemm_fn)(const struct tmac_matrix * w, const struct tmac_activations * x, float * const * y,
                             int64_t tokens, int64_t first_tile, int64_t last_tile);

struct tmac_attention;
struct tmac_attention_plan;

// Computes an item of the plan. `scratch` is aligned to 64 bytes. If there are several ranges the states of the item's rows are left
// in `shared`, for tmac_attention_merge; if there is one, the item's rows of the result are complete.
typedef void (*tmac_attend_fn)(const struct tmac_attention * a, const struct tmac_attention_plan * plan, int64_t item,
                               float * shared, void * scratch);

struct tmac_delta_net;

// Computes blocks [first_block, last_block) of tmac_delta_net_blocks(), in any order and number of threads.
typedef void (*tmac_delta_net_fn)(const struct tmac_delta_net * n, int64_t first_block, int64_t last_block);

struct tmac_convolution;

// Fills the windows of blocks [first_block, last_block) of TMAC_CHANNEL_BLOCK channels, sequence by sequence; or computes
// the results of such blocks from full windows.
typedef void (*tmac_convolution_fn)(const struct tmac_convolution * c, int64_t first_block, int64_t last_block);

// y = after * (H (before * x) * scale), where H is the Walsh-Hadamard transform in Sylvester's order of `size` values, a power
// of two. `before` and `after` may be NULL; x may be y.
typedef void (*tmac_transform_fn)(const float * x, const float * before, const float * after, float scale, int64_t size,
                                  float * y);

// What a repacker found: numbers that are infinite or no numbers, which it copies; what the T-MAC type does not have.
enum { TMAC_REPACK_NOT_FINITE = 1, TMAC_REPACK_INEXACT = 2 };

// Rows of a stock type, which follow one another without padding, into tiles [first_tile, last_tile) of a matrix in the
// T-MAC layout, which begins at `to`. rows % TMAC_TILE_ROWS == 0, cols % block_cols == 0; both need no alignment but that of
// uint16_t. Returns what it found, 0 if nothing; without TMAC_REPACK_INEXACT every weight is the same. Every repacker of a type
// writes the same bytes.
typedef int (*tmac_repack_fn)(const void * from, void * to, int64_t rows, int64_t cols, int64_t first_tile,
                              int64_t last_tile);

// A type of llama.cpp's own, and the T-MAC type that has the same values.
struct tmac_stock_type {
    const char * name; // of the ggml type, in lower case
    uint32_t id;       // of the ggml type
    int block_cols;    // columns of a block
    int block_bytes;
    const struct tmac_type * type;
    const char * left_on; // instruction sets, between blanks, on which llama.cpp keeps such weights
};

struct tmac_repacker {
    const char * name;
    uint32_t cpu_features; // bits of tmac_cpu_features() that it needs
    const struct tmac_stock_type * stock;
    tmac_repack_fn repack;
};

#include "tmac_structs.h"

// The weight types of the layout.
extern const struct tmac_type tmac_types[];
extern const size_t tmac_type_count;

// By enum tmac_precision, and by enum tmac_form.
extern const char * const tmac_precision_names[];
extern const struct tmac_form_sizes tmac_form_sizes[];

// The catalog in priority order, generated.
extern const struct tmac_kernel tmac_kernels[];
extern const size_t tmac_kernel_count;

// What the CPU at hand is and can do, one bit per feature that the catalog names; generated with it. Asks Linux for the tiles of
// AMX, without which those kernels fault: to be called once before any kernel.
uint32_t tmac_cpu_features(void);

// The maker, family and model of the CPU at hand, such as "AuthenticAMD 26 2"; empty where nothing is known of it.
void tmac_cpu_name(char * name, size_t size);

// From how many tokens on kernels serve: tables of families of CPUs, the last one for all others, both generated; and what
// was measured on the machine that this build is for.
extern const struct tmac_crossings tmac_crossings[];
extern const struct tmac_crossings tmac_measured[];
extern const size_t tmac_measured_count;

// The table for a CPU of this name with these features: the measured one, that of its family, or the one for all.
const struct tmac_crossings * tmac_crossings_for(const char * cpu, uint32_t cpu_features);

// The kernel for products of a type with so many tokens, in a precision, on a CPU with these features: the first of the
// catalog that it can run and that by `crossings` serves so many tokens; for several that may be a GEMV kernel.
// `forced` (may be NULL or empty) is the name of a kernel or of an instruction set; it must exist and run here. A
// kernel's name binds only the type and the method (GEMV or GEMM) it serves, and its own precision stands above the one
// asked for; an instruction set binds the methods that it has kernels of, from the number of tokens on that they serve.
// GEMM kernels of TMAC_ROUNDED serve TMAC_FAST, which has none. Returns NULL and a sentence in `error` where nothing
// fits.
const struct tmac_kernel * tmac_select(uint32_t type_id, enum tmac_precision precision, int64_t tokens,
                                       uint32_t cpu_features, const struct tmac_crossings * crossings,
                                       const char * forced, char * error, size_t error_size);

// Bytes of `cols` prepared activations in one buffer, and the pointers into it (buffer aligned to 64 bytes).
size_t tmac_activations_size(enum tmac_form form, int64_t cols);
struct tmac_activations tmac_activations_at(void * buffer, enum tmac_form form, int64_t cols);

struct tmac_tiles {
    int64_t first, last; // last: one past the end
};

// Chunk number `index` of a matrix's tiles; first == tiles after the last. Threads take the chunks in order, so that a slow
// core does not hold the rest: each begins with half of an equal share, and the other half goes in quarters of a share to
// whoever is free. Few chunks, because each begins with cold streams; with few tiles a thread, one equal share each.
struct tmac_tiles tmac_chunk(int64_t tiles, int threads, int index);

// The type with this ggml id; NULL for any other number.
const struct tmac_type * tmac_type_of(uint32_t type_id);

// The regions of a rows x cols matrix that lies at `data`.
struct tmac_matrix tmac_matrix_at(const struct tmac_type * type, const void * data, int64_t rows, int64_t cols);

// The attention kernels in priority order, generated.
extern const struct tmac_attention_kernel tmac_attention_kernels[];
extern const size_t tmac_attention_kernel_count;

// By enum tmac_cache_type: the type's ggml id.
extern const uint32_t tmac_cache_ggml_ids[];

// The first attention kernel that a CPU with these features can run, or the one that is `forced` (may be NULL or empty)
// by its name or its instruction set. NULL and a sentence in `error` if there is none.
const struct tmac_attention_kernel * tmac_select_attention(uint32_t cpu_features, const char * forced, char * error,
                                                           size_t error_size);

struct tmac_attention_plan tmac_plan_attention(const struct tmac_attention * a,
                                               const struct tmac_attention_kernel * kernel);

// The factor of the mask for a query head (ALiBi).
float tmac_attention_slope(const struct tmac_attention * a, int64_t head);

// The result of a row, (sequence * heads + head) * queries + query, from its states of all ranges: that of range n is at
// states + n * stride.
void tmac_attention_finish(const struct tmac_attention * a, int64_t row, int64_t ranges, const float * states,
                           int64_t stride);

// The same for rows [first_row, last_row) of a plan with several ranges, when all items are done. With one range nothing
// is left to do.
void tmac_attention_merge(const struct tmac_attention * a, const struct tmac_attention_plan * plan,
                          const float * shared, int64_t first_row, int64_t last_row);

// The kernels of delta nets in priority order, generated, and the choice among them, as with attention.
extern const struct tmac_delta_net_kernel tmac_delta_net_kernels[];
extern const size_t tmac_delta_net_kernel_count;
const struct tmac_delta_net_kernel * tmac_select_delta_net(uint32_t cpu_features, const char * forced, char * error,
                                                           size_t error_size);

// The parts of the work: TMAC_DELTA_ROWS rows of the state of a head each.
int64_t tmac_delta_net_blocks(const struct tmac_delta_net * n);

// The rotation kernels in priority order, generated; the last one runs everywhere.
extern const struct tmac_rotation_kernel tmac_rotation_kernels[];
extern const size_t tmac_rotation_kernel_count;

// The first rotation kernel that a CPU with these features can run. All give the same bits.
const struct tmac_rotation_kernel * tmac_select_rotation(uint32_t cpu_features);

// Blocks [first_block, last_block) of y, the row x rotated. x is not y.
void tmac_rotate(const struct tmac_rotation * rotation, const struct tmac_rotation_kernel * kernel, const float * x,
                 int64_t first_block, int64_t last_block, float * y);

// The same of a row that has been rotated: signs * H(x). Not for rotations that permute. x may be y.
void tmac_rotate_back(const struct tmac_rotation * rotation, const struct tmac_rotation_kernel * kernel,
                      const float * x, int64_t first_block, int64_t last_block, float * y);

// The stock types that have a T-MAC type with the same values, and their repackers in priority order, both generated.
extern const struct tmac_stock_type tmac_stock_types[];
extern const size_t tmac_stock_type_count;
extern const struct tmac_repacker tmac_repackers[];
extern const size_t tmac_repacker_count;

// NULL for a type that is not in that list.
const struct tmac_stock_type * tmac_stock_type_of(uint32_t ggml_id);

// The first repacker that a CPU with these features can run.
const struct tmac_repacker * tmac_select_repacker(const struct tmac_stock_type * stock, uint32_t cpu_features);

// Whether llama.cpp keeps weights of a stock type on a CPU with these features, because its own kernels are faster there.
int tmac_is_left_to_stock(const struct tmac_stock_type * stock, uint32_t cpu_features);

#ifdef __cplusplus
}
#endif
