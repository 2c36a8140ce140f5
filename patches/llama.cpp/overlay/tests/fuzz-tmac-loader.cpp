// libFuzzer: bytes as a model file, opened by llama.cpp's loader with everything checked. tools/fuzz/loader.py builds and
// runs it. Mutations fall on the header, because tensor data is only copied.
#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t most);

// Where the data of tensors begins in files that begin like the seeds. Behind it only one mutation of sixteen falls.
static constexpr size_t header_bytes = 4096;

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t most, unsigned seed) {
    const size_t header = seed % 16 && size > header_bytes ? header_bytes : size;
    if (header == size) {
        return LLVMFuzzerMutate(data, size, most);
    }
    static uint8_t rest[1 << 20];
    const size_t rest_bytes = size - header < sizeof rest ? size - header : sizeof rest;
    memcpy(rest, data + header, rest_bytes);
    const size_t changed = LLVMFuzzerMutate(data, header, most - rest_bytes);
    memcpy(data + changed, rest, rest_bytes);
    return changed + rest_bytes;
}

// The bytes as a file in memory, because the loader wants a name. It goes with the process, however that ends.
class memory_file {
  public:
    memory_file(const uint8_t * data, size_t size) : file(memfd_create("tmac-fuzz", MFD_CLOEXEC)) {
        if (file < 0 || write(file, data, size) != (ssize_t) size) {
            perror("memfd_create");
            abort();
        }
    }

    ~memory_file() { close(file); }

    std::string path() const { return "/proc/self/fd/" + std::to_string(file); }

  private:
    int file;
};

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const memory_file file(data, size);
    llama_model_params params = llama_model_default_params();
    params.load_mode = size % 2 ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    params.check_tensors = size % 4 < 2;
    llama_model_free(llama_model_load_from_file(file.path().c_str(), params));
    return 0;
}
