// Whether the CPU has AMX and this process may use its tiles, for which Linux must be asked; elsewhere it counts as
// absent.
#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 }; // of EDX of leaf 7
enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };

// All bits that are asked for, if the CPU has tiles and Linux grants them: once it did so, it does so again.
static int has(unsigned bits) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_TILE) && (d & bits) == bits &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#else
enum { AMX_BF16, AMX_TILE, AMX_INT8 };

static int has(unsigned bits) {
    (void) bits;
    return 0;
}
#endif

int tmac_has_amx_tile(void) { return has(AMX_TILE); }
int tmac_has_amx_int8(void) { return has(AMX_INT8); }
int tmac_has_amx_bf16(void) { return has(AMX_BF16); }
