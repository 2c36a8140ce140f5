// Rotates rows of activations, and rotates rows of an embedding back: blocks by a kernel, and what lies around them.
#include "tmac.h"

#include <string.h>

// Output column `col` and those behind it that are neighbours in x too: copies as many of `count` as there are.
static int64_t copy_run(const struct tmac_rotation * rotation, const float * x, int64_t col, int64_t count, float * y) {
    const int64_t head = rotation->head, in_head = col % head, part = col / head;
    const int64_t group = part / rotation->repeats, repeat = part % rotation->repeats;
    const int64_t length = count < head - in_head ? count : head - in_head;
    memcpy(y, x + (repeat * rotation->groups + group) * head + in_head, (size_t) length * sizeof(float));
    return length;
}

void tmac_rotate(const struct tmac_rotation * rotation, const struct tmac_rotation_kernel * kernel, const float * x,
                 int64_t first_block, int64_t last_block, float * y) {
    const int64_t size = rotation->block;
    for (int64_t first = first_block * size; first < last_block * size; first += size) {
        const float * from = x + first;
        if (rotation->repeats > 1) {
            for (int64_t done = 0; done < size;) {
                done += copy_run(rotation, x, first + done, size - done, y + first + done);
            }
            from = y + first;
        }
        const float * const signs = rotation->signs ? rotation->signs + first : NULL;
        kernel->transform(from, signs, NULL, rotation->scale, size, y + first);
    }
}

void tmac_rotate_back(const struct tmac_rotation * rotation, const struct tmac_rotation_kernel * kernel,
                      const float * x, int64_t first_block, int64_t last_block, float * y) {
    const int64_t size = rotation->block;
    for (int64_t first = first_block * size; first < last_block * size; first += size) {
        const float * const signs = rotation->signs ? rotation->signs + first : NULL;
        kernel->transform(x + first, NULL, signs, rotation->scale, size, y + first);
    }
}

const struct tmac_rotation_kernel * tmac_select_rotation(uint32_t cpu_features) {
    const struct tmac_rotation_kernel * kernel = tmac_rotation_kernels;
    while (kernel->cpu_features & ~cpu_features) {
        kernel++; // the last one, plain C, needs nothing
    }
    return kernel;
}
