// The features of x86-64 for which not every compiler has a test. Tiles of AMX count as there only if this process may use
// them, for which Linux must be asked; on other systems they count as absent.
#include "x86_features.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { AVX_VNNI = 1 << 4 }; // of EAX of leaf 7, 1

int tmac_has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI);
}
#else
int tmac_has_avxvnni(void) { return 0; }
#endif

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 }; // of EDX of leaf 7
enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };

// All bits that are asked for, if the CPU has tiles and Linux grants them: once it did so, it does so again.
static int has_tiles(unsigned bits) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_TILE) && (d & bits) == bits &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#else
enum { AMX_BF16, AMX_TILE, AMX_INT8 };

static int has_tiles(unsigned bits) {
    (void) bits;
    return 0;
}
#endif

int tmac_has_amx_tile(void) { return has_tiles(AMX_TILE); }
int tmac_has_amx_int8(void) { return has_tiles(AMX_INT8); }
int tmac_has_amx_bf16(void) { return has_tiles(AMX_BF16); }
