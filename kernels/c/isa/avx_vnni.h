// The vocabulary of AVX-VNNI: that of isa/avx2.h, and dot products of bytes.
#pragma once

#include "isa/avx2.h"

#define HAS_DOT_PRODUCTS 1

// Adds to each 32-bit sum four products of unsigned bytes a by signed bytes b, in place: with the intrinsic, GCC copies
// sums between registers and spills them where many are alive.
TMAC_INLINE void add_dot_products_to(bytes * sum, bytes a, bytes b) {
    // Without {vex}, assemblers take the encoding of AVX-512 VNNI, which these CPUs lack.
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sum) : "x"(a), "x"(b));
}

// Sums of products below 2^22 that start with the bits of the float 1.5 * 2^23 are the bits of that number plus the sum, so
// that a subtraction takes the place of a conversion, which would need the two ports of the dot products.
#define PRODUCTS_ORIGIN 0x4B400000
TMAC_INLINE floats floats_of_products_from_origin(bytes sum) {
    return _mm256_sub_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(_mm256_set1_epi32(PRODUCTS_ORIGIN)));
}
