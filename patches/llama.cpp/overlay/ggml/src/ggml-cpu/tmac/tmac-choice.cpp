#include "tmac-choice.h"

#include "ggml-impl.h"
#include "kernels/tmac_format.h"
#include "tmac-precision.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace ggml::cpu::tmac {

static constexpr int type_count      = TMAC_LAST_TYPE_ID - TMAC_FIRST_TYPE_ID + 1;
static constexpr int precision_count = TMAC_FAST + 1;
using choices = std::array<std::array<choice, type_count>, precision_count>;

static choices choose(const char * forced) {
    choices result;
    for (int precision = 0; precision < precision_count; precision++) {
        for (int i = 0; i < type_count; i++) {
            char     error[200] = "";
            choice & chosen     = result[precision][i];
            chosen.kernel = tmac_select(TMAC_FIRST_TYPE_ID + i, (tmac_precision) precision, tmac_cpu_features(), forced,
                                        error, sizeof error);
            chosen.error  = error;
        }
    }
    return result;
}

// What TMAC_PRECISION asks for, for all weights; -1 where it asks for nothing.
struct wanted_precision {
    int         value = -1;
    std::string error;

    wanted_precision() {
        static const std::array<const char *, precision_count> names = { "rounded", "exact", "fast" };
        const char * wanted = std::getenv("TMAC_PRECISION");
        if (!wanted || !wanted[0]) {
            return;
        }
        const auto found = std::find(names.begin(), names.end(), std::string(wanted));
        value = (int) (found - names.begin());
        if (found == names.end()) {
            error = std::string("TMAC_PRECISION=") + wanted + ": expected rounded, exact or fast";
        }
    }
};

static const wanted_precision & wanted() {
    static const wanted_precision instance;
    return instance;
}

// TMAC_PRECISION's, else that of the weight's model.
static int precision_for(const ggml_tensor * weight) {
    return wanted().value >= 0 ? wanted().value : tmac_precision_of_weight(weight);
}

static const choice & choice_for(ggml_type type, int precision, bool reference) {
    static const choices usual  = choose(std::getenv("TMAC_KERNEL"));
    static const choices scalar = choose("scalar");
    static const choice  none   = { nullptr, wanted().error };
    return !wanted().error.empty() ? none : (reference ? scalar : usual)[precision][type - TMAC_FIRST_TYPE_ID];
}

const choice & choice_for(const ggml_tensor * weight, bool reference) {
    return choice_for(weight->type, precision_for(weight), reference);
}

// A kernel forced by name has its own precision; the plain-C one that stands in for it that of the weight.
bool may_be_exact(const ggml_tensor * weight) {
    const tmac_kernel * kernel = choice_for(weight).kernel;
    return precision_for(weight) == TMAC_EXACT || (kernel && kernel->precision == TMAC_EXACT);
}

class kernel_log {
  public:
    void note(const ggml_tensor * weight) {
        const service served = { weight->type, precision_for(weight) };
        std::lock_guard<std::mutex> lock(mutex);
        if (said.count(served) == 0) {
            unsaid[served].insert(weight->name);
            has_unsaid = true;
        }
    }

    void say(bool reference) {
        if (!has_unsaid.load(std::memory_order_relaxed)) {
            return;
        }
        std::lock_guard<std::mutex> lock(mutex);
        std::string line;
        for (const auto & [served, names] : unsaid) {
            const tmac_kernel * kernel = choice_for(served.first, served.second, reference).kernel;
            line += (line.empty() ? "" : "; ") + std::to_string(names.size()) + " x " + ggml_type_name(served.first) +
                    " by " + (kernel ? kernel->name : "no kernel");
            said.insert(served);
        }
        unsaid.clear();
        has_unsaid = false;
        if (std::getenv("TMAC_LOG")) {
            fprintf(stderr, "tmac: %s\n", line.c_str());
        } else {
            GGML_LOG_INFO("tmac: %s\n", line.c_str());
        }
    }

  private:
    using service = std::pair<ggml_type, int>;  // a type in a precision

    std::mutex                               mutex;
    std::map<service, std::set<std::string>> unsaid;
    std::set<service>                        said;
    std::atomic<bool>                        has_unsaid{ false };
};

static kernel_log & log() {
    static kernel_log instance;
    return instance;
}

void note_weight(const ggml_tensor * weight) {
    log().note(weight);
}

void say_kernels(bool reference) {
    log().say(reference);
}

}  // namespace ggml::cpu::tmac
