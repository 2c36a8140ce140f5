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
    const uint16_t * scales; // fp16
    const uint8_t * zeros;   // 4.4 fixed point; NULL for symmetric types
    int64_t rows;
    int64_t cols;
};

// Look-up tables of one activation vector x[cols]. With i's bit u standing for +x[4q+u] or -x[4q+u], entry i of
// quad q is the signed sum of its four activations, rounded to (entries[16q+i] - 128) * 2 * half_scale.
struct tmac_tables {
    uint8_t * entries;  // 16 bytes per 4 columns
    float * half_scale; // one per TMAC_TABLE_GROUP columns
    float * sum;        // sum of x over the same columns
};

// Tables of columns [32*first_group, 32*last_group) of x. Activations whose sums of four stay below 1e-35 in
// magnitude count as zero in the entries; a NaN, an infinity or an overflow makes `sum` and so every output row non-finite.
typedef void (*tmac_build_tables_fn)(const float * x, int64_t first_group, int64_t last_group,
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
    int group;
    int has_zeros;
    tmac_build_tables_fn build_tables;
    tmac_gemv_fn gemv;
};

// The catalog in priority order, generated.
extern const struct tmac_kernel tmac_kernels[];
extern const size_t tmac_kernel_count;

// What the CPU at hand can do, one bit per feature that the catalog names; generated with it.
uint32_t tmac_cpu_features(void);

// The kernel for a type on a CPU with these features: the first of the catalog that it can run. `forced` (may be NULL or
// empty) is the name of a kernel or of an instruction set; it must exist and run here, and a kernel's name binds only
// the type it serves. Returns NULL and a sentence in `error` where nothing fits.
const struct tmac_kernel * tmac_select(uint32_t type_id, uint32_t cpu_features, const char * forced, char * error,
                                       size_t error_size);

// Bytes of the tables of `cols` columns in one buffer, and the pointers into it (buffer aligned to 64 bytes).
size_t tmac_tables_size(int64_t cols);
struct tmac_tables tmac_tables_at(void * buffer, int64_t cols);

// The regions of a rows x cols matrix that lies at `data`.
struct tmac_matrix tmac_matrix_at(const struct tmac_kernel * kernel, const void * data, int64_t rows, int64_t cols);

#ifdef __cplusplus
}
#endif
