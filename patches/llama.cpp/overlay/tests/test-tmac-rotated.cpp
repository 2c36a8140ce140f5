// A view of a whole rotated weight has not the weight's mark, so a graph that multiplies one must be refused. Needs symbols
// of llama that a shared library does not export.
#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"

#include "../src/tmac-rotations.h"
#include "test-tmac.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>

static std::shared_ptr<const tmac_rotations> rotation_of(const ggml_tensor * weight) {
    const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(gguf_init_empty(), gguf_free);
    const char * name = weight->name;
    gguf_set_val_u32(file.get(), TMAC_ROTATION_VERSION_KEY, TMAC_ROTATION_VERSION);
    gguf_set_val_str(file.get(), TMAC_ROTATION_TRANSFORM_KEY, TMAC_ROTATION_TRANSFORM);
    gguf_set_val_str(file.get(), TMAC_ROTATION_AXIS_KEY, TMAC_ROTATION_AXIS);
    gguf_set_val_u32(file.get(), TMAC_ROTATION_BLOCK_KEY, 128);
    gguf_set_val_str(file.get(), TMAC_ROTATION_SIGN_MODE_KEY, TMAC_ROTATION_IDENTITY);
    gguf_set_arr_str(file.get(), TMAC_ROTATION_WEIGHTS_KEY, &name, 1);
    return tmac_rotations::read(file.get(), [&](const std::string &) { return weight; });
}

// What the check of a graph says that multiplies the weight, or a view of it; empty if it is served.
static std::string check(bool is_view) {
    tmac_graph graph;
    ggml_context * ctx = graph.ctx.get();
    ggml_tensor * w = ggml_set_name(ggml_new_tensor_2d(ctx, GGML_TYPE_F16, 128, 64), "a.weight");
    const auto rotations = rotation_of(w);
    rotations->mark(w);
    tmac_graph_rotations of_graph;
    ggml_tensor * x = of_graph.input(ctx, w, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 128, 3));
    try {
        of_graph.check(graph.graph_of(ggml_mul_mat(ctx, is_view ? ggml_view_tensor(ctx, w) : w, x)));
    } catch (const std::runtime_error & refused) {
        return refused.what();
    }
    return "";
}

bool test_rotated_views() {
    const std::string sound = check(false), view = check(true);
    const bool is_right = sound.empty() && view.find("whose graph does not rotate") != std::string::npos;
    printf("%s a view of a rotated weight: '%s', the weight: '%s'\n",
           is_right ? "refused:" : "NOT REFUSED:", view.c_str(), sound.c_str());
    return is_right;
}
