// The vocabulary of AMX: that of AVX-512, its float and bit instructions that only CPUs with AMX are asked for, and
// tiles.
//
// A tile has up to 16 rows of 64 bytes. Of the sums of a block of tokens, tile 2a+h has half h of a row tile's rows for
// half a of the tokens; tiles 4+a are activations, 6+h weights (gemm/amx_block.h).
#pragma once

#include "isa/avx512_vbmi.h"

enum { TILE_BYTES = 1024, TILE_TOKENS = 16, TILE_ROW_BYTES = 64 };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

// Not the intrinsics: those of gcc before 13.3 do not read all of it.
TMAC_INLINE void load_tile_config(const struct tile_config * config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(*config));
}

TMAC_INLINE struct tile_config tile_config_now(void) {
    struct tile_config config;
    __asm__ volatile("sttilecfg %0" : "=m"(config));
    return config;
}

// Compilers do not know that a tile is loaded from memory.
TMAC_INLINE void finish_stores(void) { __asm__ volatile("" ::: "memory"); }

// `tokens` in each half; `step_bytes` of each token's activations are multiplied at a time.
TMAC_INLINE void configure_tiles(int tokens, int step_bytes) {
    struct tile_config config = { .palette = 1 };
    for (int i = 0; i < 8; i++) {
        const int is_activations = i == 4 || i == 5, is_weights = i >= 6;
        config.rows[i] = (uint8_t) (is_weights ? step_bytes / 4 : tokens);
        config.row_bytes[i] = (uint16_t) (is_activations ? step_bytes : TILE_ROW_BYTES);
    }
    load_tile_config(&config);
}
