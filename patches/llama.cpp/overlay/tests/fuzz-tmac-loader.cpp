// libFuzzer: bytes as a model file, opened by llama.cpp's loader with everything checked. tools/fuzz/loader.py builds and
// runs it. Mutations fall on the header, because tensor data is only copied.
#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
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

// The bytes as a file in memory: the loader wants a name.
static std::string write_file(const uint8_t * data, size_t size) {
    static const std::string path = "/dev/shm/tmac-fuzz-" + std::to_string(getpid()) + ".gguf";
    const int file = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t) size) {
        perror(path.c_str());
        abort();
    }
    close(file);
    return path;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    const std::string path = write_file(data, size);
    llama_model_params params = llama_model_default_params();
    params.load_mode = size % 2 ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    params.check_tensors = size % 4 < 2;
    llama_model_free(llama_model_load_from_file(path.c_str(), params));
    unlink(path.c_str());
    return 0;
}
