// What a model's type is called, in llama-bench's table and in logs: by bits and group, such as tmac_w2g64z.
#pragma once

#include "tmac-types.h"

#include <map>
#include <string>

// `weights`: of a model, by name. The T-MAC type of most of them; empty if none has one.
template <typename Weights>
static std::string tmac_type_of_most(const Weights & weights) {
    std::map<ggml_type, int64_t> counts;
    for (const auto & entry : weights) {
        const ggml_tensor * tensor = entry.second.tensor;
        if (tmac_is_type(tensor->type)) {
            counts[tensor->type] += ggml_nelements(tensor);
        }
    }
    const char * most = "";
    int64_t largest = 0;
    for (const auto & count : counts) {
        if (count.second > largest) {
            largest = count.second;
            most = ggml_type_name(count.first);
        }
    }
    return most;
}
