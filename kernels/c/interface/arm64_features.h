// What an arm64 CPU can do, asked of the operating system: a program may not ask the CPU everywhere, and GCC 12 has no
// __builtin_cpu_supports on arm64.
#pragma once

#include "tmac.h"

#if !defined(__aarch64__)
// nothing is asked
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static int apple_says(const char * name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}

TMAC_INLINE int tmac_has_dotprod(void) { return apple_says("hw.optional.arm.FEAT_DotProd"); }
TMAC_INLINE int tmac_has_i8mm(void) { return apple_says("hw.optional.arm.FEAT_I8MM"); }

#elif defined(_WIN32)
#include <windows.h>

// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE, which older headers lack; no name is known for i8mm.
TMAC_INLINE int tmac_has_dotprod(void) { return IsProcessorFeaturePresent(43) != 0; }
TMAC_INLINE int tmac_has_i8mm(void) { return 0; }

#elif defined(__linux__)
#include <sys/auxv.h>

// HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers lack.
TMAC_INLINE int tmac_has_dotprod(void) { return getauxval(AT_HWCAP) >> 20 & 1; }
TMAC_INLINE int tmac_has_i8mm(void) { return getauxval(AT_HWCAP2) >> 13 & 1; }

#else
TMAC_INLINE int tmac_has_dotprod(void) { return 0; }
TMAC_INLINE int tmac_has_i8mm(void) { return 0; }
#endif
