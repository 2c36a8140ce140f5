#include "tmac-obstacle.h"

#include "ggml-impl.h"
#include "tmac-choice.h"
#include "tmac-repacked.h"
#include "tmac-weight.h"

#include <algorithm>
#include <stdexcept>

namespace ggml::cpu::tmac {

static bool has_layout(const ggml_tensor * tensor) { return tensor && layout_type(tensor) != GGML_TYPE_COUNT; }

bool is_product(const ggml_tensor * op) {
    return (op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID) && has_layout(op->src[0]);
}

bool involves_tmac(const ggml_tensor * op) {
    return has_layout(op) || std::any_of(std::begin(op->src), std::end(op->src), has_layout);
}

// Of a product's operands: what is asked of every product whenever it is planned and computed, so it is cheap.
static std::string obstacle_of_operands(const ggml_tensor * op) {
    const ggml_tensor * weight = op->src[0];
    const ggml_tensor * x = op->src[1];
    const ggml_tensor * ids = op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr;
    if ((x->type != GGML_TYPE_F32 && x->type != GGML_TYPE_F16) || x->nb[0] != ggml_type_size(x->type) ||
        op->type != GGML_TYPE_F32 || op->nb[0] != sizeof(float)) {
        return "activations must be contiguous rows of f32 or f16, and the result f32";
    }
    if (ids && ids->type != GGML_TYPE_I32) {
        return "experts must be chosen by i32 numbers";
    }
    return tmac_weight_obstacle(weight, ids != nullptr);
}

static std::string obstacle_of_choice(const ggml_tensor * weight) {
    const std::string & error = choice_for(weight, 1).error;
    return error.empty() ? choice_for(weight, 2).error : error;
}

static std::string sentence_at_load(const ggml_tensor * op, const std::string & why) {
    return tmac_sentence(op->src[0], why + " (--no-repack leaves such weights to llama.cpp)");
}

// The sentence about an operation, of which `why` is empty if it has a T-MAC tensor elsewhere than a product may.
static std::string sentence(const ggml_tensor * op, const std::string & why) {
    const ggml_tensor * const * weight = std::find_if(std::begin(op->src), std::end(op->src), has_layout);
    const ggml_tensor * named = weight == std::end(op->src) ? op : *weight;
    const std::string hint =
        is_repacked(named) ? " (it was repacked when it was loaded; --no-repack leaves it as it is)" : "";
    return tmac_sentence(named, (why.empty() ? "such a weight must be the first operand of a product" : why) + hint);
}

std::string obstacle(const ggml_tensor * op) {
    if (!is_product(op)) {
        return sentence(op, tmac_use_obstacle(op->op));
    }
    std::string why = obstacle_of_operands(op);
    why = why.empty() ? obstacle_of_choice(op->src[0]) : why;
    return why.empty() ? why : sentence(op, why);
}

bool can_take(const ggml_tensor * op) {
    if (!obstacle_of_operands(op).empty()) {
        return false;
    }
    const std::string why = obstacle_of_choice(op->src[0]);
    if (!why.empty() && is_choice_forced()) {
        throw std::runtime_error(sentence_at_load(op, why));
    }
    return why.empty();
}

void require_operands(const ggml_tensor * op) {
    const std::string why = obstacle_of_operands(op);
    if (!why.empty()) {
        GGML_ABORT("%s", sentence(op, why).c_str());
    }
}

[[noreturn]] static void refuse(const ggml_tensor * op) { GGML_ABORT("%s", obstacle(op).c_str()); }

bool refusal::work_size(int, const ggml_tensor * op, size_t &) { refuse(op); }

bool refusal::compute_forward(ggml_compute_params *, ggml_tensor * op) { refuse(op); }

} // namespace ggml::cpu::tmac
