#include "tmac-repacked.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "tmac-types.h"
#include "tmac-weight.h"
#include "tmac.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace ggml::cpu::tmac {

// Of stock blocks, that a thread takes at a time; fewer bytes than one such part are not worth another thread.
static constexpr int64_t part_bytes = 1024 * 1024;
// So many threads read and write as fast as the memory of most machines allows.
static constexpr int64_t most_threads = 16;

static bool is_in_our_buffer(const ggml_tensor * tensor) {
    const ggml_tensor * whole = tensor->view_src ? tensor->view_src : tensor;
    return whole->buffer && whole->buffer->buft == ggml_backend_cpu_tmac_buffer_type();
}

bool is_repacked(const ggml_tensor * tensor) { return is_in_our_buffer(tensor) && !tmac_is_type(tensor->type); }

ggml_type layout_type(const ggml_tensor * tensor) {
    if (tmac_is_type(tensor->type)) {
        return tensor->type;
    }
    if (!is_in_our_buffer(tensor)) {
        return GGML_TYPE_COUNT;
    }
    const ggml_tensor * whole = tensor->view_src ? tensor->view_src : tensor;
    const tmac_stock_type * stock = tmac_stock_type_of(whole->type);
    return stock ? (ggml_type) stock->type->id : GGML_TYPE_COUNT;
}

// What TMAC_REPACK says: nothing, or that all weights are served that can be, or none.
enum class wanted { usual, all, none };

static wanted wanted_by_user() {
    const char * value = std::getenv(TMAC_REPACK_VARIABLE);
    const std::string word = value ? value : "";
    if (!word.empty() && word != TMAC_REPACK_ALL && word != TMAC_REPACK_STOCK) {
        throw std::runtime_error("tmac: " TMAC_REPACK_VARIABLE "=" + word +
                                 ": expected " TMAC_REPACK_ALL " or " TMAC_REPACK_STOCK);
    }
    return word.empty() ? wanted::usual : word == TMAC_REPACK_ALL ? wanted::all : wanted::none;
}

bool is_to_repack(const ggml_tensor * weight) {
    const tmac_stock_type * stock = tmac_stock_type_of(weight->type);
    const wanted how = wanted_by_user();
    if (!stock || how == wanted::none || weight->ne[0] % stock->type->block_cols != 0) {
        return false;
    }
    return how == wanted::all || !tmac_is_left_to_stock(stock, tmac_cpu_features());
}

size_t matrix_bytes(const ggml_tensor * weight) {
    return ggml_row_size(layout_type(weight), weight->ne[0]) * weight->ne[1];
}

// Tiles of all matrices of a tensor (experts), one after the other.
struct repacking {
    const tmac_repacker * repacker;
    const char * from;
    char * to;
    int64_t rows, cols, matrices;
    size_t from_bytes, to_bytes; // of a matrix

    int64_t tiles() const { return rows / TMAC_TILE_ROWS; }

    int compute(int64_t first, int64_t last) const {
        int found = 0;
        for (int64_t at = first; at < last;) {
            const int64_t matrix = at / tiles(), tile = at % tiles(), count = std::min(last - at, tiles() - tile);
            found |=
                repacker->repack(from + matrix * from_bytes, to + matrix * to_bytes, rows, cols, tile, tile + count);
            at += count;
        }
        return found;
    }

    int compute_in_threads() const {
        const int64_t all = tiles() * matrices;
        const int64_t tile_bytes = std::max<int64_t>(1, from_bytes / tiles());
        const int64_t step = std::max<int64_t>(1, part_bytes / tile_bytes), parts = (all + step - 1) / step;
        std::atomic<int64_t> next{ 0 };
        std::atomic<int> found{ 0 };
        const auto work = [&] {
            for (int64_t part; (part = next++) < parts;) {
                found |= compute(part * step, std::min(all, (part + 1) * step));
            }
        };
        const int64_t threads = std::min({ (int64_t) std::thread::hardware_concurrency(), parts, most_threads });
        std::vector<std::thread> others;
        others.reserve(most_threads);
        try {
            while ((int64_t) others.size() + 1 < threads) {
                others.emplace_back(work);
            }
        } catch (const std::system_error &) {
            // The system gives no more threads; those that there are do all of the work.
        }
        work();
        for (std::thread & thread : others) {
            thread.join();
        }
        return found;
    }
};

[[noreturn]] static void refuse(const ggml_tensor * tensor, const std::string & why) {
    GGML_ABORT("%s\n", tmac_sentence(tensor, why).c_str());
}

static const tmac_stock_type * stock_type_of(const ggml_tensor * tensor) {
    const tmac_stock_type * stock = tmac_stock_type_of(tensor->type);
    if (!stock) {
        refuse(tensor, "no T-MAC type has the same values, so the buffer of repacked weights cannot hold it");
    }
    return stock;
}

static void require_whole(const ggml_tensor * tensor, size_t offset, size_t size) {
    if (offset != 0 || size != ggml_nbytes(tensor)) {
        refuse(tensor,
               "it is repacked when it is set, so it must be set as a whole: " + std::to_string(ggml_nbytes(tensor)) +
                   " bytes, found " + std::to_string(size) + " from byte " + std::to_string(offset) + " on");
    }
}

static void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    require_whole(tensor, offset, size);
    const tmac_stock_type * stock = stock_type_of(tensor);
    const repacking all = { tmac_select_repacker(stock, tmac_cpu_features()),
                            (const char *) data,
                            (char *) tensor->data,
                            tensor->ne[1],
                            tensor->ne[0],
                            tensor->ne[2],
                            ggml_row_size(tensor->type, tensor->ne[0]) * tensor->ne[1],
                            matrix_bytes(tensor) };
    if (all.compute_in_threads() & TMAC_REPACK_INEXACT) {
        throw std::runtime_error(tmac_sentence(tensor, std::string("it has a weight that no weight of type ") +
                                                           stock->type->name + " equals; " TMAC_REPACKED_HINT));
    }
}

// Programs that make a model of a header set its weights so. The buffer lasts as long as one tensor is repacked.
static void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset,
                          size_t size) {
    require_whole(tensor, offset, size);
    const std::vector<uint8_t> filled(size, value);
    set_tensor(buffer, tensor, filled.data(), offset, size);
}

static void get_tensor(ggml_backend_buffer_t, const ggml_tensor * tensor, void *, size_t, size_t) {
    refuse(tensor, TMAC_REPACKED_UNREADABLE);
}

static const char * get_name(ggml_backend_buffer_type_t) { return TMAC_REPACKED_BUFFER; }

static size_t get_alignment(ggml_backend_buffer_type_t) { return TMAC_ALIGNMENT; }

static size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    return ggml_row_size((ggml_type) stock_type_of(tensor)->type->id, tensor->ne[0]) * ggml_nrows(tensor);
}

static ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buffer_type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (!buffer) {
        return nullptr;
    }
    buffer->buft = buffer_type;
    buffer->iface.set_tensor = set_tensor;
    buffer->iface.get_tensor = get_tensor;
    buffer->iface.memset_tensor = memset_tensor;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

} // namespace ggml::cpu::tmac

ggml_backend_buffer_type_i ggml_backend_cpu_tmac_buffer_type_interface(void) {
    return {
        /* .get_name       = */ ggml::cpu::tmac::get_name,
        /* .alloc_buffer   = */ ggml::cpu::tmac::alloc_buffer,
        /* .get_alignment  = */ ggml::cpu::tmac::get_alignment,
        /* .get_max_size   = */ nullptr,
        /* .get_alloc_size = */ ggml::cpu::tmac::get_alloc_size,
        /* .is_host        = */ nullptr,
    };
}
