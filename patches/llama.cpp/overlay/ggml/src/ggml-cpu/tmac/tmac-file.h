// What ggml's GGUF reader checks. A file in it is a container: what its tensors mean is checked by who loads a model
// (tmac-model.h), because tools that split, merge and copy files go through the reader too.
#pragma once

#include "ggml-impl.h"

#include <stdbool.h>
#include <stddef.h>

// Returns false, with a message, for a type number that is not defined: the table of types is sparse.
static inline bool tmac_can_read_type(int type, const char * tensor) {
    if (ggml_type_name((enum ggml_type) type) == NULL) {
        GGML_LOG_ERROR("tmac: tensor '%s' has type %d, which this build does not know\n", tensor, type);
        return false;
    }
    return true;
}
