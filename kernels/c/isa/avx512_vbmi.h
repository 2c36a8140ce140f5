// The vocabulary of AVX-512 VBMI and VNNI: that of isa/avx512.h, lookups in 64 bytes, and dot products of bytes.
//
// A plane line (weights/planes.h) is transposed once, so that four neighbouring bytes are the four quads of one row;
// `nibble | 16 * quad` then looks up in the tables of four quads, which fill one register.
#pragma once

#include "isa/avx512.h"

#define HAS_DOT_PRODUCTS 1
#define HAS_LOOK_UPS_OF_64 1

// Adds to each 32-bit sum four products of unsigned bytes a by signed bytes b.
TMAC_INLINE bytes add_dot_products(bytes sum, bytes a, bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
// The same in place. With the intrinsic, GCC copies sums between registers and spills them where many are alive.
TMAC_INLINE void add_dot_products_to(bytes * sum, bytes a, bytes b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

// Byte index[i] of the 64 of the table, where index[i] < 64.
TMAC_INLINE bytes look_up_64(bytes table, bytes index) { return _mm512_permutexvar_epi8(index, table); }

// Adds to two registers of sums what their indices find in four tables, times `weight`. In one piece, because GCC otherwise
// keeps so many results of lookups that it spills sums.
TMAC_INLINE void add_look_ups_of_64(bytes sums[2], bytes weight, bytes table, const bytes index[2]) {
    bytes found;
    __asm__("vpermb %[table], %[low], %[found]\n\tvpdpbusd %[found], %[weight], %[first]\n\t"
            "vpermb %[table], %[high], %[found]\n\tvpdpbusd %[found], %[weight], %[second]"
            : [first] "+&v"(sums[0]), [second] "+v"(sums[1]), [found] "=&v"(found)
            : [weight] "v"(weight), [table] "v"(table), [low] "v"(index[0]), [high] "v"(index[1]));
}

struct index_constants {
    bytes transpose;  // byte 4r+l <- byte 16l+r
    bytes quad_table; // byte 4r+l: 16l, where the quad's table starts in the register
};

TMAC_INLINE struct index_constants index_constants(void) {
    uint8_t transpose[BYTES], quad_table[BYTES];
    for (int r = 0; r < 16; r++) {
        for (int l = 0; l < 4; l++) {
            transpose[4 * r + l] = (uint8_t) (16 * l + r);
            quad_table[4 * r + l] = (uint8_t) (16 * l);
        }
    }
    const struct index_constants constants = { load_bytes(transpose), load_bytes(quad_table) };
    return constants;
}

// The indices of rows 0..15 and 16..31 of a plane line.
TMAC_INLINE void indices_of_line(const struct index_constants constants, const uint8_t * line, bytes index[2]) {
    const bytes low_nibble = _mm512_set1_epi8(15);
    const bytes q = _mm512_permutexvar_epi8(constants.transpose, load_bytes(line));
    // 0xEA: (q & low_nibble) | quad_table
    index[0] = _mm512_ternarylogic_epi32(q, low_nibble, constants.quad_table, 0xEA);
    index[1] = _mm512_ternarylogic_epi32(shift_right(q, 4), low_nibble, constants.quad_table, 0xEA);
}
