#include "tmac-rotation.h"

#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-log.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace ggml::cpu::tmac {

using rotate_fn = decltype(&tmac_rotate);

static const tmac_rotation_kernel * rotation_kernel() {
    static const tmac_rotation_kernel * const chosen = [] {
        const tmac_rotation_kernel * found = tmac_select_rotation(tmac_cpu_features());
        tmac_say(std::string("rotations by ") + found->name);
        return found;
    }();
    return chosen;
}

// Threads share the blocks of all rows.
static void rotate_rows(rotate_fn rotate, ggml_tensor * to, int ith, int nth, const tmac_rotation * rotation) {
    const ggml_tensor * x = to->src[0];
    GGML_ASSERT(x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && ggml_is_contiguous(to));
    GGML_ASSERT(x->ne[0] == rotation->width && ggml_are_same_shape(x, to));
    const int64_t blocks = rotation->width / rotation->block, all = blocks * ggml_nrows(x);
    const int64_t last = all * (ith + 1) / nth;
    for (int64_t i = all * ith / nth; i < last;) {
        const int64_t row = i / blocks, first = i % blocks, count = std::min(blocks - first, last - i);
        const int64_t i1 = row % x->ne[1], i2 = row / x->ne[1] % x->ne[2], i3 = row / x->ne[1] / x->ne[2];
        const char * from = (const char *) x->data + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
        rotate(rotation, rotation_kernel(), (const float *) from, first, first + count,
               (float *) ((char *) to->data + row * to->nb[1]));
        i += count;
    }
}

static void rotate(ggml_tensor * to, int ith, int nth, void * rotation) {
    rotate_rows(tmac_rotate, to, ith, nth, (const tmac_rotation *) rotation);
}

static void rotate_back(ggml_tensor * to, int ith, int nth, void * rotation) {
    rotate_rows(tmac_rotate_back, to, ith, nth, (const tmac_rotation *) rotation);
}

} // namespace ggml::cpu::tmac

void * ggml_cpu_tmac_get_proc_address(const char * name) {
    const ggml_custom_op_t rotate = ggml::cpu::tmac::rotate, rotate_back = ggml::cpu::tmac::rotate_back;
    if (std::strcmp(name, TMAC_ROTATE_PROC) == 0) {
        return (void *) rotate;
    }
    return std::strcmp(name, TMAC_ROTATE_BACK_PROC) == 0 ? (void *) rotate_back : nullptr;
}
