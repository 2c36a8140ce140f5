// T-MAC's kernels: GEMV on bit-plane weights by table look-up. This interface knows nothing of ggml, allocates
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
#define TMAC_TABLE_GROUP 32 // columns that share one scale of the look-up tables

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
    TMAC_ROUNDED, // table entries are rounded to 8 bits; all else is exact integers and floats
    TMAC_EXACT,   // activations are rounded to int8, one scale per vector; tables hold their sums exactly
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

// Look-up tables of one activation vector. With i's bit u standing for +x[4q+u] or -x[4q+u], entry i of quad q is the
// signed sum of its four activations T:
//   rounded: T = entry * 2 * half_scale, where entry is byte 16q+i, signed
//   exact:   T = (low + 256 * high) * output_scale, where low (unsigned) and high (signed) are bytes 16(q%4)+i and
//            64+16(q%4)+i of the 128 bytes of chunk q/4
struct tmac_tables {
    uint8_t * entries;    // 16 bytes per 4 columns (exact: 32)
    float * half_scale;   // one per TMAC_TABLE_GROUP columns; exact: 0.5
    float * sum;          // sum of x over the same columns; exact: in units of output_scale
    float * output_scale; // exact: what the int8 activations are multiplied by
};

// Tables of columns [32*first_group, 32*last_group) of x. A NaN or an infinity makes every output row non-finite.
// Rounded: activations whose sums of four stay below 1e-35 in magnitude count as zero in the entries, and an overflow of
// a sum makes every output row non-finite. Exact: the int8 scale is max(|x|, 1e-5) / 127 over all of x; int8 input stays
// as it is. The caller whose part begins at group 0 writes output_scale.
typedef void (*tmac_build_tables_fn)(const struct tmac_vector * x, int64_t first_group, int64_t last_group,
                                     const struct tmac_tables * tables);

// y[r] = sum_k W[r, k] x[k] for the rows of tiles [first_tile, last_tile); y is indexed by absolute row.
typedef void (*tmac_gemv_fn)(const struct tmac_matrix * w, const struct tmac_tables * tables, float * y,
                             int64_t first_tile, int64_t last_tile);

struct tmac_kernel {
    const char * name;
    const char * isa;
    const char * type_name;
    uint32_t type_id;      // the ggml type that it serves
    uint32_t cpu_features; // bits of tmac_cpu_features() that it needs
    int bits;
    int group; // 0: one scale for the whole tensor, which is not stored with it
    int has_zeros;
    enum tmac_precision precision;
    tmac_build_tables_fn build_tables;
    tmac_gemv_fn gemv;
};

// The catalog in priority order, generated.
extern const struct tmac_kernel tmac_kernels[];
extern const size_t tmac_kernel_count;

// What the CPU at hand can do, one bit per feature that the catalog names; generated with it.
uint32_t tmac_cpu_features(void);

// The kernel for a type and a precision on a CPU with these features: the first of the catalog that it can run. `forced`
// (may be NULL or empty) is the name of a kernel or of an instruction set; it must exist and run here. A kernel's name
// binds only the type it serves, and its own precision stands above the one asked for. Returns NULL and a sentence in
// `error` where nothing fits.
const struct tmac_kernel * tmac_select(uint32_t type_id, enum tmac_precision precision, uint32_t cpu_features,
                                       const char * forced, char * error, size_t error_size);

// Bytes of the tables of `cols` columns in one buffer, and the pointers into it (buffer aligned to 64 bytes).
size_t tmac_tables_size(enum tmac_precision precision, int64_t cols);
struct tmac_tables tmac_tables_at(void * buffer, enum tmac_precision precision, int64_t cols);

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
