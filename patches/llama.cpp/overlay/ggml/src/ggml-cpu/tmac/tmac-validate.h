// --check-tensors for T-MAC's tensors, whose scales lie apart from the codes. C++ on public headers, for the loader.
#pragma once

#include "ggml.h"
#include "tmac-types.h"

#include <cstdint>
#include <cstdio>

// Whether bytes [offset, offset + size) of a tensor, which lie at `data`, are valid. For T-MAC's types: every scale is
// finite. A tensor holds ne[2] matrices one after the other, each in three regions: planes, scales, zeros.
static inline bool tmac_validate_data(const ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    if (!tmac_is_type(tensor->type)) {
        return ggml_validate_row_data(tensor->type, data, size);
    }
    const size_t block = ggml_blck_size(tensor->type);
    const size_t block_bytes = ggml_type_size(tensor->type);
    const size_t scale_bytes = tmac_scale_bytes(tensor->type);
    const size_t code_bytes = block_bytes - scale_bytes;
    const size_t blocks = (size_t) tensor->ne[0] * tensor->ne[1] / block;
    const size_t scale_count = scale_bytes ? blocks : 0;
    const size_t matrix_bytes = blocks * block_bytes;
    for (size_t matrix = size ? offset / matrix_bytes : 0; matrix * matrix_bytes < offset + size; matrix++) {
        const size_t scales_at = matrix * matrix_bytes + blocks * code_bytes;
        // The exponent of an fp16 number lies in its second byte, so a scale without its first byte can be checked too.
        const size_t first = offset > scales_at ? (offset - scales_at) / 2 : 0;
        for (size_t i = first; i < scale_count && scales_at + 2 * i + 1 < offset + size; i++) {
            if ((((const uint8_t *) data)[scales_at + 2 * i + 1 - offset] & 0x7C) == 0x7C) {
                fprintf(stderr, "tmac: scale %zu of matrix %zu of tensor '%s' of type %s is not finite\n", i, matrix,
                        tensor->name, ggml_type_name(tensor->type));
                return false;
            }
        }
    }
    return true;
}
