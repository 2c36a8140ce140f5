// --check-tensors for T-MAC's tensors, whose scales lie apart from the codes. C++ on public headers, for the loader.
#pragma once

#include "ggml.h"
#include "tmac-types.h"

#include <cstdint>
#include <cstdio>

// The fp16 numbers of a T-MAC matrix, scales and minima, of `blocks` ggml blocks: `runs` runs of `count` numbers, the first of which begins
// behind the codes, `stride` bytes from one to the next.
struct tmac_halves {
    size_t runs, count, stride;
};

static inline tmac_halves tmac_halves_of(int type, size_t blocks) {
    const tmac_grid grid = tmac_grid_of(type);
    const size_t scale_bytes = tmac_scale_bytes(type);
    if (grid == TMAC_GRID_LEVELS || grid == TMAC_GRID_LEVELS_MINIMA) {
        const size_t numbers = grid == TMAC_GRID_LEVELS ? TMAC_TILE_ROWS : 2 * TMAC_TILE_ROWS;
        return { blocks / TMAC_TILE_ROWS, numbers, scale_bytes * TMAC_TILE_ROWS };
    }
    return { 1, grid == TMAC_GRID_MINIMA ? 2 * blocks : scale_bytes ? blocks : 0, 0 };
}

// Whether bytes [offset, offset + size) of a tensor, which lie at `data`, are valid. For T-MAC's types: all scales and
// minima are finite. A tensor holds ne[2] matrices one after the other, each with its codes first.
static inline bool tmac_validate_data(const ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    if (!tmac_is_type(tensor->type)) {
        return ggml_validate_row_data(tensor->type, data, size);
    }
    const size_t blocks = (size_t) tensor->ne[0] * tensor->ne[1] / ggml_blck_size(tensor->type);
    const size_t block_bytes = ggml_type_size(tensor->type), matrix_bytes = blocks * block_bytes;
    const tmac_halves halves = tmac_halves_of(tensor->type, blocks);
    for (size_t matrix = size ? offset / matrix_bytes : 0; matrix * matrix_bytes < offset + size; matrix++) {
        const size_t begin = matrix * matrix_bytes + blocks * (block_bytes - tmac_scale_bytes(tensor->type));
        for (size_t run = 0; run < halves.runs; run++) {
            const size_t at = begin + run * halves.stride;
            // The exponent of an fp16 number lies in its second byte, so one without its first byte can be checked too.
            const size_t first = offset > at ? (offset - at) / 2 : 0;
            for (size_t i = first; i < halves.count && at + 2 * i + 1 < offset + size; i++) {
                if ((((const uint8_t *) data)[at + 2 * i + 1 - offset] & 0x7C) == 0x7C) {
                    fprintf(stderr, "tmac: scale %zu of matrix %zu of tensor '%s' of type %s is not finite\n",
                            run * halves.count + i, matrix, tensor->name, ggml_type_name(tensor->type));
                    return false;
                }
            }
        }
    }
    return true;
}
