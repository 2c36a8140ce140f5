// The vocabulary of AVX-512 F, BW and VL: what templates do with a register of floats and with one of bytes. Gives the
// names that isa/avx2.h gives.
#pragma once

#include "interface/tmac.h"
#include "isa/x86_codes.h"

#include <immintrin.h>
#include <string.h>

#define FLOATS 16 // in a register
#define BYTES 64  // in a register

typedef __m512 floats;
typedef __m512i bytes;
typedef __m512i words, ints;

TMAC_INLINE void prefetch(const uint8_t * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }

TMAC_INLINE floats load_floats(const float * from) { return _mm512_loadu_ps(from); }
TMAC_INLINE void store_floats(float * to, floats values) { _mm512_storeu_ps(to, values); }
TMAC_INLINE floats broadcast(float value) { return _mm512_set1_ps(value); }
TMAC_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
TMAC_INLINE floats floats_of_ints(bytes values) { return _mm512_cvtepi32_ps(values); }
TMAC_INLINE floats floats_of_scales(const uint16_t * from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) from));
}
TMAC_INLINE floats floats_of_zeros(const uint8_t * from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) from)));
}
// The low or the high halves of bytes.
TMAC_INLINE floats floats_of_halves(const uint8_t * from, int high) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) from));
    return _mm512_cvtepi32_ps(high ? _mm512_srli_epi32(wide, 4) : _mm512_and_si512(wide, _mm512_set1_epi32(15)));
}

TMAC_INLINE bytes load_bytes(const uint8_t * from) { return _mm512_loadu_si512(from); }
TMAC_INLINE void store_bytes(uint8_t * to, bytes v) { _mm512_storeu_si512(to, v); }

// Broadcasts: a 16-bit word, a 32-bit word, 4 bytes of memory, 16 bytes of memory.
TMAC_INLINE bytes broadcast_word(int word) { return _mm512_set1_epi16((short) word); }
TMAC_INLINE bytes broadcast_int(int value) { return _mm512_set1_epi32(value); }
TMAC_INLINE bytes broadcast_4(const uint8_t * from) {
    int value;
    memcpy(&value, from, sizeof value);
    return _mm512_set1_epi32(value);
}
TMAC_INLINE bytes broadcast_16(const uint8_t * from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) from));
}

TMAC_INLINE bytes bits_and(bytes a, bytes b) { return _mm512_and_si512(a, b); }
TMAC_INLINE bytes bits_xor(bytes a, bytes b) { return _mm512_xor_si512(a, b); }
// Of each byte the bits of a where those of the mask are 1, else those of b.
TMAC_INLINE bytes select_bits(int mask, bytes a, bytes b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char) mask), a, b, 0xCA);
}
// Of 16-bit words, and of 32-bit ones.
TMAC_INLINE bytes shift_left(bytes v, int bits) { return _mm512_slli_epi16(v, bits); }
TMAC_INLINE bytes shift_right(bytes v, int bits) { return _mm512_srli_epi16(v, bits); }
TMAC_INLINE bytes shift_ints_left(bytes v, int bits) { return _mm512_slli_epi32(v, bits); }
TMAC_INLINE bytes shift_ints_right(bytes v, int bits) { return _mm512_srli_epi32(v, bits); }

// Within 128-bit lanes: a byte or a word of a, one of b, ... of the lower halves or of the higher ones.
TMAC_INLINE bytes interleave_low(bytes a, bytes b) { return _mm512_unpacklo_epi8(a, b); }
TMAC_INLINE bytes interleave_high(bytes a, bytes b) { return _mm512_unpackhi_epi8(a, b); }
TMAC_INLINE bytes interleave_low_words(bytes a, bytes b) { return _mm512_unpacklo_epi16(a, b); }
TMAC_INLINE bytes interleave_high_words(bytes a, bytes b) { return _mm512_unpackhi_epi16(a, b); }
TMAC_INLINE bytes swap_halves(bytes v) { return _mm512_shuffle_i64x2(v, v, 0x4E); }
// Lane l of v[i] becomes lane i of v[l]. Takes less time than to store single lanes, which with AVX2 is the faster way.
#define HAS_TRANSPOSED_LANES 1
TMAC_INLINE void transpose_lanes(bytes v[4]) {
    const bytes a = _mm512_shuffle_i64x2(v[0], v[1], 0x44), b = _mm512_shuffle_i64x2(v[0], v[1], 0xEE),
                c = _mm512_shuffle_i64x2(v[2], v[3], 0x44), d = _mm512_shuffle_i64x2(v[2], v[3], 0xEE);
    v[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    v[1] = _mm512_shuffle_i64x2(a, c, 0xDD);
    v[2] = _mm512_shuffle_i64x2(b, d, 0x88);
    v[3] = _mm512_shuffle_i64x2(b, d, 0xDD);
}

// Of each 128-bit lane: byte index[i] of the 16 of the table, where index[i] < 16.
TMAC_INLINE bytes look_up(bytes table, bytes index) { return _mm512_shuffle_epi8(table, index); }
// Of unsigned bytes, a half rounded up.
TMAC_INLINE bytes average(bytes a, bytes b) { return _mm512_avg_epu8(a, b); }
TMAC_INLINE bytes add_words(bytes a, bytes b) { return _mm512_add_epi16(a, b); }
TMAC_INLINE bytes add_ints(bytes a, bytes b) { return _mm512_add_epi32(a, b); }
// Sums of two products of neighbours: of unsigned bytes by signed ones in 16 bits, of signed words in 32.
TMAC_INLINE bytes multiply_pairs(bytes a, bytes b) { return _mm512_maddubs_epi16(a, b); }
TMAC_INLINE bytes multiply_words(bytes a, bytes b) { return _mm512_madd_epi16(a, b); }

// Adds multiply_pairs(a, b) to 16-bit sums, in place: GCC spills sums where many are alive. For the peaks of tools/bench.
TMAC_INLINE void add_pairs_to(bytes * sum, bytes a, bytes b) {
    bytes products;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(*sum), "=&v"(products) : "v"(a), "v"(b));
}
// The same of weights and of what is looked up.
TMAC_INLINE void add_look_ups_to(bytes * sum, bytes weights, bytes table, bytes index) {
    bytes found;
    __asm__("vpshufb %4, %3, %1\n\tvpmaddubsw %1, %2, %1\n\tvpaddw %1, %0, %0"
            : "+v"(*sum), "=&v"(found)
            : "v"(weights), "v"(table), "vm"(index));
}

// Adds a scale times integers in place. With intrinsics, GCC keeps both in several registers and spills them.
#define HAS_ADD_SCALED_INTS 1
TMAC_INLINE void add_scaled_ints(floats * to, bytes ints, const float * scale) {
    __asm__("vcvtdq2ps %1, %1\n\tvfmadd231ps %2%{1to16%}, %1, %0" : "+&v"(*to), "+v"(ints) : "m"(*scale));
}
// GCC would put a row of additions into another order, which needs more registers than there are: makes a value where
// it stands.
TMAC_INLINE void make_now(bytes * value) { __asm__("" : "+v"(*value)); }

// What attention does with floats. A NaN in b is the larger one.
TMAC_INLINE floats add_floats(floats a, floats b) { return _mm512_add_ps(a, b); }
TMAC_INLINE floats subtract_floats(floats a, floats b) { return _mm512_sub_ps(a, b); }
TMAC_INLINE floats multiply_floats(floats a, floats b) { return _mm512_mul_ps(a, b); }
TMAC_INLINE floats divide_floats(floats a, floats b) { return _mm512_div_ps(a, b); }
TMAC_INLINE floats larger_floats(floats a, floats b) { return _mm512_max_ps(a, b); }
TMAC_INLINE floats whole_floats(floats v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// v * 2^n for whole n within +-126.
TMAC_INLINE floats times_power_of_two(floats v, floats n) { return _mm512_scalef_ps(v, n); }
// v, but 0 where x < limit; a NaN is not less.
TMAC_INLINE floats zero_where_less(floats v, floats x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), v);
}
// Whether any lane is more than the limit; a NaN is.
TMAC_INLINE int any_above(floats v, float limit) {
    return _mm512_cmp_ps_mask(v, _mm512_set1_ps(limit), _CMP_NLE_UQ) != 0;
}
TMAC_INLINE float largest_of_floats(floats v) { return _mm512_reduce_max_ps(v); }
TMAC_INLINE float sum_of_floats(floats v) { return _mm512_reduce_add_ps(v); }

TMAC_INLINE floats floats_of_bf16(const uint16_t * from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TMAC_INLINE floats floats_of_codes(const int8_t * from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) from)));
}

// What attention does with signed 16-bit words, of which a register has 2 * FLOATS, and their sums in 32 bits.
TMAC_INLINE words load_words(const int16_t * from) { return _mm512_loadu_si512(from); }
TMAC_INLINE words words_of_codes(const int8_t * from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) from));
}
// FLOATS whole numbers nearest to v, within 16 bits.
TMAC_INLINE void store_words(int16_t * to, floats v) {
    _mm256_storeu_si256((__m256i *) to, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));
}
TMAC_INLINE ints no_ints(void) { return _mm512_setzero_si512(); }
// Each sum and two products of neighbours.
TMAC_INLINE ints add_word_products(ints sum, words a, words b) {
#if defined __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
// 32 codes of a and of b in turn, as add_weighted_pairs takes them: pairs[0] has columns 0 to 7 and 16 to 23.
TMAC_INLINE void pairs_of_codes(const int8_t * a, const int8_t * b, words pairs[2]) {
    const __m256i of_a = _mm256_loadu_si256((const __m256i *) a), of_b = _mm256_loadu_si256((const __m256i *) b);
    pairs[0] = _mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(of_a, of_b));
    pairs[1] = _mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(of_a, of_b));
}
// Adds weights[0] times the codes of a and weights[1] times those of b to the sums of 32 columns.
TMAC_INLINE void add_weighted_pairs(ints sums[2], const words pairs[2], const int16_t weights[2]) {
    int both;
    memcpy(&both, weights, sizeof both);
    sums[0] = add_word_products(sums[0], pairs[0], _mm512_set1_epi32(both));
    sums[1] = add_word_products(sums[1], pairs[1], _mm512_set1_epi32(both));
}
// Sums of add_weighted_pairs in the order of columns.
TMAC_INLINE void floats_of_columns(const ints sums[2], floats v[2]) {
    v[0] = floats_of_ints(_mm512_shuffle_i64x2(sums[0], sums[1], 0x44));
    v[1] = floats_of_ints(_mm512_shuffle_i64x2(sums[0], sums[1], 0xEE));
}

// Codes j and 16 + j, in v[0] and v[1], are the entries of the table at the low and the high half of byte j. A lookup
// takes the place of two conversions.
#define HAS_FLOATS_OF_NIBBLES
TMAC_INLINE void floats_of_nibbles(const uint8_t * from, const int8_t table[16], floats v[2]) {
    const floats entries = floats_of_codes(table);
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) from));
    v[0] = _mm512_permutexvar_ps(wide, entries); // by the lowest four bits of each lane
    v[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(wide, 4), entries);
}
// Adds 16 to float j of v[0] and v[1] together if bit j of the 4 bytes is 1.
TMAC_INLINE void add_16_where_set(const uint8_t * from, floats v[2]) {
    for (int i = 0; i < 2; i++) {
        uint16_t bits;
        memcpy(&bits, from + 2 * i, sizeof bits);
        v[i] = _mm512_mask_add_ps(v[i], bits, v[i], _mm512_set1_ps(16));
    }
}

// Lane i: the sum of the lanes of v[i].
TMAC_INLINE floats sums_of_registers(const floats v[FLOATS]) {
    floats pairs[8], fours[4], halves[2];
    // Register i holds v[i] and v[i + 8] in turn, then v[i], v[i + 4], v[i + 8], v[i + 12].
    for (int i = 0; i < 8; i++) {
        pairs[i] = add_floats(_mm512_unpacklo_ps(v[i], v[i + 8]), _mm512_unpackhi_ps(v[i], v[i + 8]));
    }
    for (int i = 0; i < 4; i++) {
        fours[i] = add_floats(_mm512_unpacklo_ps(pairs[i], pairs[i + 4]), _mm512_unpackhi_ps(pairs[i], pairs[i + 4]));
    }
    for (int i = 0; i < 2; i++) {
        halves[i] = add_floats(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                               _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xDD));
    }
    const floats sums =
        add_floats(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88), _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
    // Lane 4i + j is now the sum of v[i + 4j].
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(order, sums);
}

// Transposes a square: lane j of v[i] becomes lane i of v[j].
TMAC_INLINE void transpose_floats(floats v[FLOATS]) {
    floats t[FLOATS];
    for (int i = 0; i < FLOATS; i += 4) {
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1])),
                      b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1])),
                      c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3])),
                      d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // 128-bit lane q of t[4k + j] has column 4q + j of rows 4k to 4k + 3.
    for (int j = 0; j < 4; j++) {
        const floats a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xDD),
                     c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88),
                     d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xDD);
        v[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[8 + j] = _mm512_shuffle_f32x4(a, c, 0xDD);
        v[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[12 + j] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}

// The fp16 number at `from`, in every lane.
TMAC_INLINE floats broadcast_half(const uint8_t * from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short) half));
}

// For stride 1, 2, ... FLOATS / 2: lanes i and i + stride become their sum and their difference, where bit `stride` of i
// is 0.
TMAC_INLINE floats butterflies_in_register(floats v) {
    floats other = _mm512_permute_ps(v, 0xB1);
    v = _mm512_mask_sub_ps(add_floats(other, v), 0xAAAA, other, v);
    other = _mm512_permute_ps(v, 0x4E);
    v = _mm512_mask_sub_ps(add_floats(other, v), 0xCCCC, other, v);
    other = _mm512_shuffle_f32x4(v, v, 0xB1);
    v = _mm512_mask_sub_ps(add_floats(other, v), 0xF0F0, other, v);
    other = _mm512_shuffle_f32x4(v, v, 0x4E);
    return _mm512_mask_sub_ps(add_floats(other, v), 0xFF00, other, v);
}
