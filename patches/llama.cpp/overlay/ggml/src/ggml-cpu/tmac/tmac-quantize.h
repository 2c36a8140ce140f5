// Types that llama-quantize is asked for. C++ on public headers.
#pragma once

#include "tmac-types.h"

#include <cstdio>
#include <cstdlib>

// Ends the program for a type of ours: it would find out that it cannot write one only when it has read the model.
static inline void tmac_exit_if_unwritable(ggml_type type) {
    if (tmac_is_type(type)) {
        fprintf(stderr, "\n%s is a type that this program cannot write; tmac convert --quantize can\n\n",
                ggml_type_name(type));
        exit(1);
    }
}
