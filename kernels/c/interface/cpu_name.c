// Which CPU this is, for tables of what was measured.
#include "tmac.h"

#include <stdio.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <string.h>

void tmac_cpu_name(char * name, size_t size) {
    unsigned eax, ebx, ecx, edx, maker[3];
    snprintf(name, size, "%s", "");
    if (!__get_cpuid(0, &eax, &maker[0], &maker[2], &maker[1]) || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) {
        return;
    }
    // Families above 15 and models above 15 have further bits elsewhere; only families 6 and 15 have such models.
    const unsigned base = eax >> 8 & 15, family = base == 15 ? base + (eax >> 20 & 255) : base;
    const unsigned model = (eax >> 4 & 15) | (base == 6 || base == 15 ? (eax >> 16 & 15) << 4 : 0);
    char text[sizeof maker + 1] = "";
    memcpy(text, maker, sizeof maker);
    snprintf(name, size, "%s %u %u", text, family, model);
}
#else
void tmac_cpu_name(char * name, size_t size) { snprintf(name, size, "%s", ""); }
#endif
