#pragma once

#include "ggml-impl.h"
#include "kernels/interface/tmac.h"
#include "tmac-log.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

namespace ggml::cpu::tmac {

// The kernel that serves all operations of a kind, which `variable` may choose; NULL if it says that llama.cpp's own code
// does. Any other value that names no kernel of this CPU ends the process with a sentence.
template <typename Kernel>
const Kernel * kernel_or_stock(const char * variable,
                               const Kernel * (*select)(uint32_t, const char *, char *, size_t) ) {
    const char * wanted = std::getenv(variable);
    if (wanted && std::strcmp(wanted, "stock") == 0) {
        return nullptr;
    }
    char error[200] = "";
    const Kernel * found = select(tmac_cpu_features(), wanted, error, sizeof error);
    if (!found) {
        GGML_ABORT("tmac: %s; expected stock, an instruction set or a kernel of `tmac kernels list`\n", error);
    }
    return found;
}

// Says once for each shape who computes `what`: the kernel, or llama.cpp if our kernels lack something.
inline void say_who_serves(const char * what, const std::string & shape, const char * missing, const char * kernel) {
    static std::mutex mutex;
    static std::set<std::string> said;
    const std::string who = missing ? std::string("llama.cpp, because our kernels lack ") + missing : kernel;
    const std::string line = std::string(what) + " by " + who + " (" + shape + ")";
    const std::lock_guard<std::mutex> lock(mutex);
    if (said.insert(line).second) {
        tmac_say(line);
    }
}

} // namespace ggml::cpu::tmac
