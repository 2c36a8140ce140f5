// Rotated weights: what a file says of them (prism.hadamard.*), and the nodes that a graph needs for them. The loader
// marks such a weight. Products with it get a node that rotates their input, one for all weights with the same input;
// rows that are read from it get a node that rotates them back. So weights of every type are served, stock ones too, and
// whatever else a graph does with such a weight is refused.
#pragma once

#include "../ggml/src/ggml-cpu/tmac/kernels/interface/tmac.h"
#include "ggml.h"
#include "gguf.h"

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct tmac_weight_rotation {
    tmac_rotation how; // first: the userdata of a node is a pointer to it
    ggml_custom_op_t rotate;
    ggml_custom_op_t rotate_back;
};

// The rotations of a model's weights. They must live as long as its tensors.
struct tmac_rotations {
    using find_tensor = std::function<const ggml_tensor *(const std::string & name)>;

    // Reads the keys; `find` knows the tensors of all files of the model. NULL for a model without such keys. Throws if
    // anything is not understood.
    static std::shared_ptr<const tmac_rotations> read(const gguf_context * file, const find_tensor & find);

    // Lets graphs know the rotation of a tensor, by its name.
    void mark(ggml_tensor * weight) const;

    std::map<int64_t, std::vector<float>> signs; // by width
    std::list<tmac_weight_rotation> kinds;
    std::map<std::string, const tmac_weight_rotation *> weights;
};

// What one graph has of rotations.
class tmac_graph_rotations {
  public:
    // What a product with the weight `w` multiplies: x, or x rotated.
    ggml_tensor * input(ggml_context * ctx, const ggml_tensor * w, ggml_tensor * x);
    // Rows of the table `w`, as they were before it was rotated.
    ggml_tensor * rows(ggml_context * ctx, ggml_tensor * w, ggml_tensor * ids);
    // Throws if any node computes with a rotated weight in another way.
    void check(ggml_cgraph * graph) const;

  private:
    bool serves(const ggml_tensor * node, int place, const tmac_weight_rotation * rotation) const;

    std::map<std::pair<const ggml_tensor *, const tmac_weight_rotation *>, ggml_tensor *> inputs;
    std::map<const ggml_tensor *, const tmac_weight_rotation *> rotated_by; // the same, by node
    std::map<const ggml_tensor *, const ggml_tensor *> read_rows;           // rows of a table -> the same, rotated back
};
