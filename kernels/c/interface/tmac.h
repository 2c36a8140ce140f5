// T-MAC's kernels: GEMV and GEMM on bit-plane weights. This interface knows nothing of ggml, allocates
// nothing, starts no threads and keeps no state; the caller owns memory and splits the work.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TMAC_INLINE static inline __attribute__((always_inline))

#define TMAC_TILE_ROWS 32  // rows whose codes lie interleaved; the unit in which work is split
#define TMAC_CHUNK_COLS 16 // columns of one 64-byte plane line
#define TMAC_TABLE_GROUP 32 // columns whose table entries share a step
#define TMAC_TABLE_BLOCK 128 // columns that share a scale of the tables; a row's last block may be shorter
#define TMAC_LARGEST_STEP 31 // shifted by the highest plane it fits into a byte

// Weights W[rows, cols] in the T-MAC layout, version 1. rows % TMAC_TILE_ROWS == 0, cols % group == 0. Any address that a
// uint16_t may have will do; 64-byte alignment is faster.
struct tmac_matrix {
    const uint8_t * planes;
    const uint16_t * scales; // fp16; NULL for tensor-scale types
    const uint8_t * zeros;   // 4.4 fixed point; NULL for symmetric types
    int64_t rows;
    int64_t cols;
};

// What a kernel rounds on the way.
enum tmac_precision {
    TMAC_ROUNDED, // table entries or activations are rounded to 8 bits, all else is exact integers and floats; with bf16,
                  // activations and scaled weights are
    TMAC_EXACT,   // activations are rounded to int8, one scale per vector; nothing else is rounded but floats
    TMAC_FAST,    // rounded tables, and sums of look-ups by rounding averages
};

enum tmac_input { TMAC_F32, TMAC_F16, TMAC_I8 };

// Activations x[cols].
struct tmac_vector {
    const void * data;
    enum tmac_input input;
    float scale; // of TMAC_I8: x[k] = scale * data[k]
    int64_t cols;
};

// What a kernel wants a vector of activations as.
enum tmac_form { TMAC_TABLES, TMAC_EXACT_TABLES, TMAC_INT8, TMAC_EXACT_INT8, TMAC_BF16 };

// One vector of activations, prepared for kernels of a form. With table index i's bit u standing for +x[4q+u] or -x[4q+u],
// entry i of quad q is the signed sum of its four activations T:
//   tables:       T = entry * step * 2 * scale, where entry is byte 16q+i, signed
//   exact tables: T = (low + 256 * high) * 2 * scale * output_scale, where low (unsigned) and high (signed) are bytes
//                 16(q%4)+i and 64+16(q%4)+i of the 128 bytes of chunk q/4; scale is 0.5
//   int8:         x[k] = scale * entry, where entry is byte k, signed
//   exact int8:   x[k] = output_scale * entry; scale is 1
//   bf16:         x[k] is the two bytes 2k, 2k+1
struct tmac_activations {
    uint8_t * entries;
    uint32_t * steps;     // tables: 4 words per TMAC_TABLE_GROUP columns, word b for plane b: each byte is step << b
    float * scale;        // tables: one per TMAC_TABLE_BLOCK columns; int8: one per TMAC_TABLE_GROUP; bf16: none
    float * sum;          // of x per TMAC_TABLE_GROUP columns: tables, as given; int8, as rounded; exact: in units of
                          // output_scale; bf16: none
    float * output_scale; // exact: what the int8 activations are multiplied by
};

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

struct tmac_kernel {
    const char * name;
    const char * isa;
    const char * type_name;
    uint32_t type_id;        // the ggml type that it serves
    uint32_t cpu_features;   // bits of tmac_cpu_features() that it needs
    uint32_t usual_features; // bits without which it serves only by its name
    int bits;
    int group; // 0: one scale for the whole tensor, which is not stored with it
    int has_zeros;
    enum tmac_precision precision;
    enum tmac_form form;
    int least_tokens; // 1: a GEMV; more: a GEMM, which serves from so many on; 0: a GEMM that serves only by its name
    tmac_prepare_fn prepare;
    tmac_gemv_fn gemv; // NULL for a GEMM
    tmac_gemm_fn gemm; // NULL for a GEMV
};

// The catalog in priority order, generated.
extern const struct tmac_kernel tmac_kernels[];
extern const size_t tmac_kernel_count;

// What the CPU at hand is and can do, one bit per feature that the catalog names; generated with it. Asks Linux for the tiles of
// AMX, without which those kernels fault: to be called once before any kernel.
uint32_t tmac_cpu_features(void);

// The kernel for products of a type with so many tokens, in a precision, on a CPU with these features: the first of the
// catalog that it can run and that serves so many tokens. `forced` (may be NULL or empty) is the name of a kernel or of an
// instruction set; it must exist and run here. A kernel's name binds only the type and the method (GEMV or GEMM) it serves,
// and its own precision stands above the one asked for; an instruction set binds the methods that it has kernels of, from the number
// of tokens on that they serve.
// GEMM kernels of TMAC_ROUNDED serve TMAC_FAST, which has none. Returns NULL and a sentence in `error` where nothing fits.
const struct tmac_kernel * tmac_select(uint32_t type_id, enum tmac_precision precision, int64_t tokens,
                                       uint32_t cpu_features, const char * forced, char * error, size_t error_size);

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

// The regions of a rows x cols matrix that lies at `data`.
struct tmac_matrix tmac_matrix_at(const struct tmac_kernel * kernel, const void * data, int64_t rows, int64_t cols);

#ifdef __cplusplus
}
#endif
