#include "tmac-choice.h"

#include "ggml-impl.h"
#include "kernels/interface/tmac_format.h"
#include "tmac-log.h"
#include "tmac-precision.h"
#include "tmac-repacked.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

void tmac_say(const std::string & line) {
    if (std::getenv("TMAC_LOG")) {
        fprintf(stderr, "tmac: %s\n", line.c_str());
    } else {
        GGML_LOG_INFO("tmac: %s\n", line.c_str());
    }
}

namespace ggml::cpu::tmac {

static constexpr int type_count = TMAC_END_TYPE_ID - TMAC_FIRST_TYPE_ID;
static constexpr int precision_count = TMAC_PRECISION_COUNT;
// Choices for 1, 2, ... tokens; the last one is for all larger numbers.
using choices = std::vector<choice>;

// From how many tokens on kernels serve on this CPU.
static const struct tmac_crossings * crossings() {
    static const struct tmac_crossings * const table = [] {
        char cpu[64];
        tmac_cpu_name(cpu, sizeof cpu);
        return tmac_crossings_for(cpu, tmac_cpu_features());
    }();
    return table;
}

// The choices of a type are made when it first occurs: a model uses few of the types.
class choice_table {
  public:
    explicit choice_table(const char * forced) : forced(forced) {}

    const choices & get(ggml_type type, int precision) {
        const int at = precision * type_count + type - TMAC_FIRST_TYPE_ID;
        std::call_once(once[at], [&] { table[at] = choose(type, (tmac_precision) precision); });
        return table[at];
    }

  private:
    choices choose(ggml_type type, tmac_precision precision) const {
        choices result(TMAC_MOST_TOKENS_TO_CROSS);
        for (size_t i = 0; i < result.size(); i++) {
            char error[200] = "";
            result[i].kernel =
                tmac_select(type, precision, i + 1, tmac_cpu_features(), crossings(), forced, error, sizeof error);
            result[i].error = error;
        }
        return result;
    }

    const char * forced;
    std::array<std::once_flag, precision_count * type_count> once;
    std::array<choices, precision_count * type_count> table;
};

// The precision that TMAC_PRECISION sets for all weights; -1 if it is not set.
struct wanted_precision {
    int value = -1;
    std::string error;

    wanted_precision() {
        const char * wanted = std::getenv("TMAC_PRECISION");
        if (!wanted || !wanted[0]) {
            return;
        }
        const char * const * const end = tmac_precision_names + precision_count;
        const char * const * const found = std::find(tmac_precision_names, end, std::string(wanted));
        value = (int) (found - tmac_precision_names);
        if (found == end) {
            error = std::string("TMAC_PRECISION=") + wanted + ": expected " + *tmac_precision_names;
            for (const char * const * name = tmac_precision_names + 1; name < end; name++) {
                error += std::string(name + 1 == end ? " or " : ", ") + *name;
            }
        }
    }
};

static const wanted_precision & wanted() {
    static const wanted_precision instance;
    return instance;
}

// The precision that TMAC_PRECISION sets, else that of the weight's model.
static int precision_for(const ggml_tensor * weight) {
    return wanted().value >= 0 ? wanted().value : tmac_precision_of_weight(weight);
}

static const choice & choice_for(ggml_type type, int precision, int64_t tokens, bool reference) {
    static choice_table usual(std::getenv("TMAC_KERNEL"));
    static choice_table scalar("scalar");
    static const choice none = { nullptr, wanted().error };
    if (!wanted().error.empty()) {
        return none;
    }
    const choices & all = (reference ? scalar : usual).get(type, precision);
    return all[std::min<int64_t>(tokens, all.size()) - 1];
}

const choice & choice_for(const ggml_tensor * weight, int64_t tokens, bool reference) {
    return choice_for(layout_type(weight), precision_for(weight), tokens, reference);
}

bool is_choice_forced() {
    const char * forced = std::getenv("TMAC_KERNEL");
    return (forced && forced[0]) || !wanted().error.empty();
}

// The kernels that serve a type, each with its least number of tokens.
static std::string kernels_of(ggml_type type, int precision, bool reference) {
    std::string names;
    const tmac_kernel * last = nullptr;
    for (int tokens = 1; tokens <= TMAC_MOST_TOKENS_TO_CROSS; tokens++) {
        const tmac_kernel * kernel = choice_for(type, precision, tokens, reference).kernel;
        if (tokens == 1) {
            names = kernel ? kernel->name : "no kernel";
        } else if (kernel != last) {
            names += ", from " + std::to_string(tokens) + " tokens " + (kernel ? kernel->name : "no kernel");
        }
        last = kernel;
    }
    return names;
}

class kernel_log {
  public:
    void note(const ggml_tensor * weight) {
        const service served = { weight->type, layout_type(weight), precision_for(weight) };
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
            const auto & [type, layout, precision] = served;
            line += (line.empty() ? "" : "; ") + std::to_string(names.size()) + " x " + ggml_type_name(type) + " by " +
                    kernels_of(layout, precision, reference);
            said.insert(served);
        }
        unsaid.clear();
        has_unsaid = false;
        tmac_say(line);
    }

  private:
    using service = std::tuple<ggml_type, ggml_type, int>; // the type, that of the layout, and the precision

    std::mutex mutex;
    std::map<service, std::set<std::string>> unsaid;
    std::set<service> said;
    std::atomic<bool> has_unsaid{ false };
};

static kernel_log & log() {
    static kernel_log instance;
    return instance;
}

void note_weight(const ggml_tensor * weight) { log().note(weight); }

void say_kernels(bool reference) { log().say(reference); }

} // namespace ggml::cpu::tmac
