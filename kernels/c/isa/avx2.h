// The vocabulary of AVX2: what templates do with a register of floats and with one of bytes. Gives the names that
// isa/avx512.h gives, so that gemv/shuffle.h, gemm/tables_x86.h and gemm/int8_x86.h are written once for both.
#pragma once

#include "interface/tmac.h"
#include "isa/x86_codes.h"

#include <immintrin.h>
#include <string.h>

#define FLOATS 8 // in a register
#define BYTES 32 // in a register

typedef __m256 floats;
typedef __m256i bytes;
typedef __m256i words, ints;

TMAC_INLINE void prefetch(const uint8_t * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }

TMAC_INLINE floats load_floats(const float * from) { return _mm256_loadu_ps(from); }
TMAC_INLINE void store_floats(float * to, floats values) { _mm256_storeu_ps(to, values); }
TMAC_INLINE floats broadcast(float value) { return _mm256_set1_ps(value); }
TMAC_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
TMAC_INLINE floats floats_of_ints(bytes values) { return _mm256_cvtepi32_ps(values); }
TMAC_INLINE floats floats_of_scales(const uint16_t * from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) from));
}
TMAC_INLINE floats floats_of_zeros(const uint8_t * from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) from)));
}
// The low or the high halves of bytes.
TMAC_INLINE floats floats_of_halves(const uint8_t * from, int high) {
    const __m128i pairs = _mm_loadl_epi64((const __m128i *) from), low = _mm_set1_epi8(15);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_and_si128(high ? _mm_srli_epi16(pairs, 4) : pairs, low)));
}

TMAC_INLINE bytes load_bytes(const uint8_t * from) { return _mm256_loadu_si256((const __m256i *) from); }
TMAC_INLINE void store_bytes(uint8_t * to, bytes v) { _mm256_storeu_si256((__m256i *) to, v); }
// Each 128-bit lane `stride` bytes behind the one before.
TMAC_INLINE void store_lanes(uint8_t * to, int stride, bytes v) {
    _mm_storeu_si128((__m128i *) to, _mm256_castsi256_si128(v));
    _mm_storeu_si128((__m128i *) (to + stride), _mm256_extracti128_si256(v, 1));
}

// Broadcasts: a 16-bit word, a 32-bit word, 4 bytes of memory, 16 bytes of memory.
TMAC_INLINE bytes broadcast_word(int word) { return _mm256_set1_epi16((short) word); }
TMAC_INLINE bytes broadcast_int(int value) { return _mm256_set1_epi32(value); }
TMAC_INLINE bytes broadcast_4(const uint8_t * from) {
    int value;
    memcpy(&value, from, sizeof value);
    return _mm256_set1_epi32(value);
}
TMAC_INLINE bytes broadcast_16(const uint8_t * from) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) from));
}

TMAC_INLINE bytes bits_and(bytes a, bytes b) { return _mm256_and_si256(a, b); }
TMAC_INLINE bytes bits_xor(bytes a, bytes b) { return _mm256_xor_si256(a, b); }
// Of each byte the bits of a where those of the mask are 1, else those of b.
TMAC_INLINE bytes select_bits(int mask, bytes a, bytes b) {
    return _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_set1_epi8((char) mask)));
}
// Of 16-bit words, and of 32-bit ones.
TMAC_INLINE bytes shift_left(bytes v, int bits) { return _mm256_slli_epi16(v, bits); }
TMAC_INLINE bytes shift_right(bytes v, int bits) { return _mm256_srli_epi16(v, bits); }
TMAC_INLINE bytes shift_ints_left(bytes v, int bits) { return _mm256_slli_epi32(v, bits); }
TMAC_INLINE bytes shift_ints_right(bytes v, int bits) { return _mm256_srli_epi32(v, bits); }

// Within 128-bit lanes: a byte or a word of a, one of b, ... of the lower halves or of the higher ones.
TMAC_INLINE bytes interleave_low(bytes a, bytes b) { return _mm256_unpacklo_epi8(a, b); }
TMAC_INLINE bytes interleave_high(bytes a, bytes b) { return _mm256_unpackhi_epi8(a, b); }
TMAC_INLINE bytes interleave_low_words(bytes a, bytes b) { return _mm256_unpacklo_epi16(a, b); }
TMAC_INLINE bytes interleave_high_words(bytes a, bytes b) { return _mm256_unpackhi_epi16(a, b); }
TMAC_INLINE bytes swap_halves(bytes v) { return _mm256_permute2x128_si256(v, v, 1); }

// Of each 128-bit lane: byte index[i] of the 16 of the table, where index[i] < 16.
TMAC_INLINE bytes look_up(bytes table, bytes index) { return _mm256_shuffle_epi8(table, index); }
// Of unsigned bytes, a half rounded up.
TMAC_INLINE bytes average(bytes a, bytes b) { return _mm256_avg_epu8(a, b); }
TMAC_INLINE bytes add_words(bytes a, bytes b) { return _mm256_add_epi16(a, b); }
TMAC_INLINE bytes add_ints(bytes a, bytes b) { return _mm256_add_epi32(a, b); }
// Sums of two products of neighbours: of unsigned bytes by signed ones in 16 bits, of signed words in 32.
TMAC_INLINE bytes multiply_pairs(bytes a, bytes b) { return _mm256_maddubs_epi16(a, b); }
TMAC_INLINE bytes multiply_words(bytes a, bytes b) { return _mm256_madd_epi16(a, b); }

// Adds multiply_pairs(a, b) to 16-bit sums, in place: GCC spills sums where many are alive. For the peaks of tools/bench.
TMAC_INLINE void add_pairs_to(bytes * sum, bytes a, bytes b) {
    bytes products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(*sum), "=&x"(products) : "x"(a), "x"(b));
}
// The same of weights and of what is looked up.
TMAC_INLINE void add_look_ups_to(bytes * sum, bytes weights, bytes table, bytes index) {
    bytes found;
    __asm__("vpshufb %4, %3, %1\n\tvpmaddubsw %1, %2, %1\n\tvpaddw %1, %0, %0"
            : "+x"(*sum), "=&x"(found)
            : "x"(weights), "x"(table), "xm"(index));
}

// GCC would put a row of additions into another order, which needs more registers than there are: makes a value where
// it stands.
TMAC_INLINE void make_now(bytes * value) { __asm__("" : "+x"(*value)); }

// What attention does with floats. A NaN in b is the larger one.
TMAC_INLINE floats add_floats(floats a, floats b) { return _mm256_add_ps(a, b); }
TMAC_INLINE floats subtract_floats(floats a, floats b) { return _mm256_sub_ps(a, b); }
TMAC_INLINE floats multiply_floats(floats a, floats b) { return _mm256_mul_ps(a, b); }
TMAC_INLINE floats divide_floats(floats a, floats b) { return _mm256_div_ps(a, b); }
TMAC_INLINE floats larger_floats(floats a, floats b) { return _mm256_max_ps(a, b); }
TMAC_INLINE floats whole_floats(floats v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// v * 2^n for whole n, where v and the product are normal numbers; a NaN stays one.
TMAC_INLINE floats times_power_of_two(floats v, floats n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
// v, but 0 where x < limit; a NaN is not less.
TMAC_INLINE floats zero_where_less(floats v, floats x, float limit) {
    return _mm256_and_ps(v, _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_NLT_UQ));
}
// Whether any lane is more than the limit; a NaN is.
TMAC_INLINE int any_above(floats v, float limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(limit), _CMP_NLE_UQ)) != 0;
}
TMAC_INLINE float largest_of_floats(floats v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
TMAC_INLINE float sum_of_floats(floats v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

TMAC_INLINE floats floats_of_bf16(const uint16_t * from) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TMAC_INLINE floats floats_of_codes(const int8_t * from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) from)));
}

// What attention does with signed 16-bit words, of which a register has 2 * FLOATS, and their sums in 32 bits.
TMAC_INLINE words load_words(const int16_t * from) { return _mm256_loadu_si256((const __m256i *) from); }
TMAC_INLINE words words_of_codes(const int8_t * from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) from));
}
// FLOATS whole numbers nearest to v, within 16 bits.
TMAC_INLINE void store_words(int16_t * to, floats v) {
    const __m256i whole = _mm256_cvtps_epi32(v);
    const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
    _mm_storeu_si128((__m128i *) to, _mm_packs_epi32(low, high));
}
TMAC_INLINE ints no_ints(void) { return _mm256_setzero_si256(); }
// Each sum and two products of neighbours.
TMAC_INLINE ints add_word_products(ints sum, words a, words b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
// 32 codes of a and of b in turn, as add_weighted_pairs takes them.
TMAC_INLINE void pairs_of_codes(const int8_t * a, const int8_t * b, words pairs[4]) {
    const __m256i of_a = _mm256_loadu_si256((const __m256i *) a), of_b = _mm256_loadu_si256((const __m256i *) b);
    // Columns 0 to 7 and 16 to 23, 8 to 15 and 24 to 31.
    const __m256i low = _mm256_unpacklo_epi8(of_a, of_b), high = _mm256_unpackhi_epi8(of_a, of_b);
    pairs[0] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(low));
    pairs[1] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(high));
    pairs[2] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(low, 1));
    pairs[3] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(high, 1));
}
// Adds weights[0] times the codes of a and weights[1] times those of b to the sums of 32 columns.
TMAC_INLINE void add_weighted_pairs(ints sums[4], const words pairs[4], const int16_t weights[2]) {
    int both;
    memcpy(&both, weights, sizeof both);
    for (int i = 0; i < 4; i++) {
        sums[i] = add_word_products(sums[i], pairs[i], _mm256_set1_epi32(both));
    }
}
// Sums of add_weighted_pairs in the order of columns.
TMAC_INLINE void floats_of_columns(const ints sums[4], floats v[4]) {
    for (int i = 0; i < 4; i++) {
        v[i] = floats_of_ints(sums[i]);
    }
}

// Lane i: the sum of the lanes of v[i].
TMAC_INLINE floats sums_of_registers(const floats v[FLOATS]) {
    const floats a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3])),
                 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return add_floats(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

// Transposes a square: lane j of v[i] becomes lane i of v[j].
TMAC_INLINE void transpose_floats(floats v[FLOATS]) {
    floats t[FLOATS];
    for (int i = 0; i < FLOATS; i += 4) {
        const floats a = _mm256_unpacklo_ps(v[i], v[i + 1]), b = _mm256_unpackhi_ps(v[i], v[i + 1]),
                     c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        v[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}

// The fp16 number at `from`, in every lane.
TMAC_INLINE floats broadcast_half(const uint8_t * from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return _mm256_cvtph_ps(_mm_set1_epi16((short) half));
}

// For stride 1, 2, ... FLOATS / 2: lanes i and i + stride become their sum and their difference, where bit `stride` of i
// is 0.
TMAC_INLINE floats butterflies_in_register(floats v) {
    floats other = _mm256_permute_ps(v, 0xB1);
    v = _mm256_blend_ps(add_floats(other, v), subtract_floats(other, v), 0xAA);
    other = _mm256_permute_ps(v, 0x4E);
    v = _mm256_blend_ps(add_floats(other, v), subtract_floats(other, v), 0xCC);
    other = _mm256_permute2f128_ps(v, v, 1);
    return _mm256_blend_ps(add_floats(other, v), subtract_floats(other, v), 0xF0);
}
