// Gives back the memory of a mapped file whose bytes were copied or repacked. C++ on public headers, for llama's loader.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

// The pages that lie wholly within `size` bytes at `data`, a part of a mapped file. They stay in the system's cache, and
// whoever reads them gets them again: other tensors may share them.
static inline void tmac_release_mapped(const void * data, size_t size) {
#if defined(__linux__) || defined(__APPLE__)
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t) data + page - 1) / page * page, last = ((uintptr_t) data + size) / page * page;
    if (first < last) {
        // With --mlock the pages may be locked: then the call fails, they stay, and memory holds such weights twice.
        (void) madvise((void *) first, last - first, MADV_DONTNEED);
    }
#else
    (void) data;
    (void) size;
#endif
}
