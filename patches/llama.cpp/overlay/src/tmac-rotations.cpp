#include "tmac-rotations.h"

#include "../ggml/src/ggml-cpu/tmac/tmac-rotation.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace {

[[noreturn]] void refuse(const std::string & what) { throw std::runtime_error("tmac: rotated weights: " + what); }

std::string quoted(const std::string & name) { return "'" + name + "'"; }

// Access to the keys of a file, which are refused if they have another type than expected.
class keys {
  public:
    explicit keys(const gguf_context * file) : file(file) {}

    bool has(const std::string & key) const { return gguf_find_key(file, key.c_str()) >= 0; }

    std::string text(const std::string & key) const { return gguf_get_val_str(file, at(key, GGUF_TYPE_STRING)); }

    uint32_t number(const std::string & key) const { return gguf_get_val_u32(file, at(key, GGUF_TYPE_UINT32)); }

    bool truth(const std::string & key) const { return has(key) && gguf_get_val_bool(file, at(key, GGUF_TYPE_BOOL)); }

    std::vector<std::string> texts(const std::string & key) const {
        const int64_t id = array(key, { GGUF_TYPE_STRING });
        std::vector<std::string> found;
        for (size_t i = 0; i < gguf_get_arr_n(file, id); i++) {
            found.emplace_back(gguf_get_arr_str(file, id, i));
        }
        return found;
    }

    std::vector<int64_t> numbers(const std::string & key) const {
        const int64_t id = array(key, { GGUF_TYPE_INT8, GGUF_TYPE_INT32, GGUF_TYPE_UINT32 });
        const void * const data = gguf_get_arr_data(file, id);
        const gguf_type type = gguf_get_arr_type(file, id);
        std::vector<int64_t> found(gguf_get_arr_n(file, id));
        for (size_t i = 0; i < found.size(); i++) {
            found[i] = type == GGUF_TYPE_INT8    ? ((const int8_t *) data)[i]
                       : type == GGUF_TYPE_INT32 ? ((const int32_t *) data)[i]
                                                 : (int64_t) ((const uint32_t *) data)[i];
        }
        return found;
    }

    // Refuses any other value of a text than `expected`.
    void expect(const std::string & key, const std::string & expected) const {
        if (text(key) != expected) {
            refuse("key " + quoted(key) + " is " + quoted(text(key)) + ", expected " + quoted(expected));
        }
    }

  private:
    int64_t at(const std::string & key, gguf_type type) const {
        const int64_t id = gguf_find_key(file, key.c_str());
        if (id < 0) {
            refuse("the file has no key " + quoted(key));
        }
        if (gguf_get_kv_type(file, id) != type) {
            refuse("key " + quoted(key) + " is of type " + gguf_type_name(gguf_get_kv_type(file, id)) + ", expected " +
                   gguf_type_name(type));
        }
        return id;
    }

    int64_t array(const std::string & key, const std::vector<gguf_type> & types) const {
        const int64_t id = at(key, GGUF_TYPE_ARRAY);
        const gguf_type type = gguf_get_arr_type(file, id);
        if (std::find(types.begin(), types.end(), type) == types.end()) {
            refuse("key " + quoted(key) + " is an array of " + gguf_type_name(type) + ", expected " +
                   gguf_type_name(types[0]));
        }
        return id;
    }

    const gguf_context * file;
};

// The order in which the graphs of an architecture have the input of a delta net's last matrix.
struct grouping {
    int64_t groups = 1, heads = 1;
};

class reader {
  public:
    reader(const gguf_context * file, const tmac_rotations::find_tensor & find) : of(file), find(find) {}

    std::shared_ptr<const tmac_rotations> read() {
        if (of.number(TMAC_ROTATION_VERSION_KEY) != TMAC_ROTATION_VERSION) {
            refuse("version " + std::to_string(of.number(TMAC_ROTATION_VERSION_KEY)) + ", this build reads version " +
                   std::to_string(TMAC_ROTATION_VERSION));
        }
        of.expect(TMAC_ROTATION_TRANSFORM_KEY, TMAC_ROTATION_TRANSFORM);
        of.expect(TMAC_ROTATION_AXIS_KEY, TMAC_ROTATION_AXIS);
        block = of.number(TMAC_ROTATION_BLOCK_KEY);
        if (block == 0 || (block & (block - 1)) != 0) {
            refuse("blocks of " + std::to_string(block) + " columns, expected a power of two");
        }
        read_signs();
        read_grouping();
        find_functions();
        for (const std::string & name : of.texts(TMAC_ROTATION_WEIGHTS_KEY)) {
            add(name);
        }
        if (of.has(TMAC_ROTATION_TABLES_KEY)) {
            for (const std::string & name : of.texts(TMAC_ROTATION_TABLES_KEY)) {
                if (add(name)->how.repeats > 1) {
                    refuse("tensor " + quoted(name) + ": rows of a matrix whose input is permuted cannot be read");
                }
            }
        }
        return result;
    }

  private:
    void read_signs() {
        const std::string mode = of.text(TMAC_ROTATION_SIGN_MODE_KEY);
        is_explicit = mode == TMAC_ROTATION_EXPLICIT;
        if (!is_explicit && mode != TMAC_ROTATION_IDENTITY) {
            refuse("key '" TMAC_ROTATION_SIGN_MODE_KEY "' is " + quoted(mode) +
                   ", expected '" TMAC_ROTATION_EXPLICIT "' or '" TMAC_ROTATION_IDENTITY "'");
        }
        if (!is_explicit) {
            for (const char * key : { TMAC_ROTATION_SIGN_WIDTHS_KEY, TMAC_ROTATION_SIGN_VALUES_KEY }) {
                if (of.has(key) && !of.numbers(key).empty()) {
                    refuse("key " + quoted(key) + " has values beside the signs '" TMAC_ROTATION_IDENTITY "'");
                }
            }
            return;
        }
        const std::vector<int64_t> widths = of.numbers(TMAC_ROTATION_SIGN_WIDTHS_KEY);
        const std::vector<int64_t> values = of.numbers(TMAC_ROTATION_SIGN_VALUES_KEY);
        size_t at = 0;
        for (const int64_t width : widths) {
            if (width <= 0 || (size_t) width > values.size() - at || result->signs.count(width)) {
                refuse("key '" TMAC_ROTATION_SIGN_WIDTHS_KEY "' does not fit the " + std::to_string(values.size()) +
                       " signs, at width " + std::to_string(width));
            }
            std::vector<float> & signs = result->signs[width];
            for (int64_t i = 0; i < width; i++) {
                const int64_t sign = values[at++];
                if (sign != 1 && sign != -1) {
                    refuse("key '" TMAC_ROTATION_SIGN_VALUES_KEY "' has the sign " + std::to_string(sign) +
                           ", expected 1 or -1");
                }
                signs.push_back((float) sign);
            }
        }
        if (at != values.size()) {
            refuse("the widths of '" TMAC_ROTATION_SIGN_WIDTHS_KEY "' add up to " + std::to_string(at) +
                   ", but there are " + std::to_string(values.size()) + " signs");
        }
    }

    void read_grouping() {
        if (!of.truth(TMAC_ROTATION_GROUPED_KEY)) {
            return;
        }
        const std::string architecture = of.text("general.architecture");
        const std::vector<std::string> tiled = TMAC_ROTATION_TILED;
        if (std::find(tiled.begin(), tiled.end(), architecture) == tiled.end()) {
            refuse("key '" TMAC_ROTATION_GROUPED_KEY "' in the architecture " + quoted(architecture) +
                   ", expected one with gated delta nets: " + tiled[0]);
        }
        grouped.groups = of.number(architecture + TMAC_ROTATION_GROUPS_KEY);
        grouped.heads = of.number(architecture + TMAC_ROTATION_HEADS_KEY);
        if (grouped.groups == 0 || grouped.heads == 0 || grouped.heads % grouped.groups != 0) {
            refuse(std::to_string(grouped.heads) + " value heads do not divide into " + std::to_string(grouped.groups) +
                   " groups");
        }
    }

    // Programs that build no graph, as llama-quantize, may have loaded no backend.
    void find_functions() {
        const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        const ggml_backend_reg_t reg = cpu ? ggml_backend_dev_backend_reg(cpu) : nullptr;
        const auto get = [&](const char * name) {
            return reg ? (ggml_custom_op_t) ggml_backend_reg_get_proc_address(reg, name) : nullptr;
        };
        rotate = get(TMAC_ROTATE_PROC);
        rotate_back = get(TMAC_ROTATE_BACK_PROC);
    }

    const tmac_weight_rotation * add(const std::string & name) {
        const ggml_tensor * weight = find(name);
        if (!weight) {
            refuse("tensor " + quoted(name) + " is listed, but the file has no such tensor");
        }
        if (const auto known = result->weights.find(name); known != result->weights.end()) {
            return known->second;
        }
        const int64_t width = weight->ne[0];
        if (ggml_n_dims(weight) < 2) {
            refuse("tensor " + quoted(name) + " is no matrix");
        }
        if (width % block != 0) {
            refuse("tensor " + quoted(name) + " has " + std::to_string(width) +
                   " columns, no multiple of the blocks of " + std::to_string(block));
        }
        const auto signs = result->signs.find(width);
        if (is_explicit && signs == result->signs.end()) {
            refuse("tensor " + quoted(name) + " has " + std::to_string(width) +
                   " columns, for which there are no signs");
        }
        tmac_rotation how = {
            width, block, 1, 1, 1, (float) (1 / std::sqrt((double) block)), is_explicit ? signs->second.data() : nullptr
        };
        const std::string suffix = TMAC_ROTATION_GROUPED_SUFFIX;
        const bool is_grouped =
            name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
        if (is_grouped && grouped.heads > grouped.groups) {
            if (width % grouped.heads != 0) {
                refuse("tensor " + quoted(name) + " has " + std::to_string(width) + " columns, no multiple of the " +
                       std::to_string(grouped.heads) + " value heads");
            }
            how.repeats = grouped.heads / grouped.groups;
            how.groups = grouped.groups;
            how.head = width / grouped.heads;
        }
        return result->weights[name] = kind_of(how);
    }

    // Weights that are rotated alike share the object, by which graphs see that they can share the rotated input.
    const tmac_weight_rotation * kind_of(const tmac_rotation & how) {
        for (const tmac_weight_rotation & kind : result->kinds) {
            if (kind.how.width == how.width && kind.how.repeats == how.repeats) {
                return &kind;
            }
        }
        result->kinds.push_back({ how, rotate, rotate_back });
        return &result->kinds.back();
    }

    const keys of;
    const tmac_rotations::find_tensor & find;
    std::shared_ptr<tmac_rotations> result = std::make_shared<tmac_rotations>();
    int64_t block = 0;
    bool is_explicit = false;
    grouping grouped;
    ggml_custom_op_t rotate = nullptr, rotate_back = nullptr;
};

// The op_params of a weight are unused, because it is no operation; tmac-precision.h has the first one.
constexpr size_t mark_at = 2 * sizeof(int32_t);

const tmac_weight_rotation * rotation_of(const ggml_tensor * weight) {
    const tmac_weight_rotation * found = nullptr;
    if (weight->op == GGML_OP_NONE) {
        std::memcpy(&found, (const char *) weight->op_params + mark_at, sizeof found);
    }
    return found;
}

ggml_tensor * add_node(ggml_context * ctx, ggml_tensor * x, const tmac_weight_rotation * rotation,
                       ggml_custom_op_t fun) {
    if (x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) || x->ne[0] != rotation->how.width) {
        refuse("node " + quoted(x->name) + " has rows of " + std::to_string(x->ne[0]) + " " + ggml_type_name(x->type) +
               ", expected " + std::to_string(rotation->how.width) + " f32 to rotate");
    }
    if (!fun) {
        refuse("the CPU backend has no functions to rotate activations");
    }
    return ggml_custom_4d(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2], x->ne[3], &x, 1, fun, GGML_N_TASKS_MAX,
                          (void *) rotation);
}

} // namespace

std::shared_ptr<const tmac_rotations> tmac_rotations::read(const gguf_context * file, const find_tensor & find) {
    const std::string maker = TMAC_ROTATION_MAKER;
    const std::vector<std::string> known = TMAC_ROTATION_KEYS;
    bool has_any = false;
    for (int64_t i = 0; i < gguf_get_n_kv(file); i++) {
        const std::string key = gguf_get_key(file, i);
        if (key.compare(0, maker.size(), maker) != 0) {
            continue;
        }
        has_any = true;
        if (std::find(known.begin(), known.end(), key) == known.end()) {
            refuse("key " + quoted(key) + " is unknown to this build, and may change what weights mean");
        }
    }
    return has_any ? reader(file, find).read() : nullptr;
}

void tmac_rotations::mark(ggml_tensor * weight) const {
    const auto found = weights.find(weight->name);
    if (found != weights.end()) {
        std::memcpy((char *) weight->op_params + mark_at, &found->second, sizeof found->second);
    }
}

ggml_tensor * tmac_graph_rotations::input(ggml_context * ctx, const ggml_tensor * w, ggml_tensor * x) {
    const tmac_weight_rotation * rotation = rotation_of(w);
    if (!rotation) {
        return x;
    }
    ggml_tensor *& rotated = inputs[{ x, rotation }];
    if (!rotated) {
        rotated = add_node(ctx, x, rotation, rotation->rotate);
        rotated_by[rotated] = rotation;
    }
    return rotated;
}

ggml_tensor * tmac_graph_rotations::rows(ggml_context * ctx, ggml_tensor * w, ggml_tensor * ids) {
    ggml_tensor * found = ggml_get_rows(ctx, w, ids);
    const tmac_weight_rotation * rotation = rotation_of(w);
    if (!rotation) {
        return found;
    }
    if (rotation->how.repeats > 1) {
        refuse("rows of " + quoted(w->name) +
               ", whose input is permuted, are read; this architecture is not supported");
    }
    ggml_tensor * back = add_node(ctx, found, rotation, rotation->rotate_back);
    read_rows[found] = back;
    return back;
}

// Whether a node that has a rotated weight as its source number `place` does with it what this class has prepared.
bool tmac_graph_rotations::serves(const ggml_tensor * node, int place, const tmac_weight_rotation * rotation) const {
    if (node->op == GGML_OP_GET_ROWS) {
        return place == 0 && read_rows.count(node) != 0;
    }
    const bool is_product = (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID) && place == 0;
    const auto input = is_product ? rotated_by.find(node->src[1]) : rotated_by.end();
    return input != rotated_by.end() && input->second == rotation;
}

void tmac_graph_rotations::check(ggml_cgraph * graph) const {
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        for (int place = 0; place < GGML_MAX_SRC; place++) {
            const ggml_tensor * from = node->src[place];
            if (!from) {
                continue;
            }
            const auto rows = read_rows.find(from);
            if (rows != read_rows.end() && rows->second != node) {
                refuse("node " + quoted(node->name) + " reads rows of " + quoted(from->src[0]->name) +
                       " that are not rotated back; this architecture is not supported");
            }
            // A view of a whole weight has not its mark.
            const tmac_weight_rotation * rotation = rotation_of(from->view_src ? from->view_src : from);
            if (rotation && (from->view_src || !serves(node, place, rotation))) {
                refuse("tensor " + quoted(from->name) + " is used by " + ggml_op_name(node->op) + " " +
                       quoted(node->name) + ", whose graph does not rotate; this architecture is not supported");
            }
        }
    }
}
