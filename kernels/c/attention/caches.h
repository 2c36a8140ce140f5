// Values of K and V as floats. Needs the vocabulary of an instruction set.
//
// A row of a cache is a vector of one position and head. The types of blocks are ggml's (ggml/src/ggml-common.h): a
// block of 32 values begins with an fp16 scale, then
//   q8_0    32 signed bytes
//   q4_0    16 bytes: value j is the low, value 16 + j the high half of byte j; value = scale * (code - 8)
//   q4_1    an fp16 minimum, 16 bytes; value = scale * code + minimum
//   q5_0/1  as q4_0 and q4_1 (minus 16), with 4 bytes before the 16: bit j is the fifth bit of code j
//   iq4_nl  as q4_0, with the entry of a table instead of code - 8
#pragma once

#if !defined FLOATS
#error "attention/caches.h: include a vocabulary (isa/) before"
#endif

enum {
    CACHE_BLOCK = 32,
    BLOCK_VECTORS = CACHE_BLOCK / FLOATS,
    HALF_VECTORS = CACHE_BLOCK / 2 / FLOATS,
};

static const int8_t less_8[16] = { -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7 };
static const int8_t less_16[16] = { -16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1 };
static const int8_t nibbles_as_they_are[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
// The levels of iq4_nl (kvalues_iq4nl in ggml-common.h).
static const int8_t iq4_nl_levels[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

// The codes of a block; in `buffer` unless they lie in memory as they are.
TMAC_INLINE const int8_t * codes_of_block(const int type, const uint8_t * block, int8_t buffer[CACHE_BLOCK]) {
    switch (type) {
        case TMAC_CACHE_Q8_0: return (const int8_t *) (block + 2);
        case TMAC_CACHE_Q4_0: codes_of_nibbles(block + 2, less_8, buffer); break;
        case TMAC_CACHE_IQ4_NL: codes_of_nibbles(block + 2, iq4_nl_levels, buffer); break;
        case TMAC_CACHE_Q4_1: codes_of_nibbles(block + 4, nibbles_as_they_are, buffer); break;
        case TMAC_CACHE_Q5_0:
            codes_of_nibbles(block + 6, nibbles_as_they_are, buffer);
            add_fifth_bits(block + 2, 16, buffer);
            break;
        case TMAC_CACHE_Q5_1:
            codes_of_nibbles(block + 8, nibbles_as_they_are, buffer);
            add_fifth_bits(block + 4, 0, buffer);
            break;
        default: break;
    }
    return buffer;
}

TMAC_INLINE int is_blocked(const int type) { return type > TMAC_CACHE_BF16; }
TMAC_INLINE int has_minimum(const int type) { return type == TMAC_CACHE_Q4_1 || type == TMAC_CACHE_Q5_1; }

// The codes of a block, of which the value is `scale * code` or `scale * code + minimum`.
TMAC_INLINE void load_codes(const int type, const uint8_t * block, floats v[BLOCK_VECTORS]) {
#if defined HAS_FLOATS_OF_NIBBLES
    switch (type) {
        case TMAC_CACHE_Q4_0: floats_of_nibbles(block + 2, less_8, v); return;
        case TMAC_CACHE_IQ4_NL: floats_of_nibbles(block + 2, iq4_nl_levels, v); return;
        case TMAC_CACHE_Q4_1: floats_of_nibbles(block + 4, nibbles_as_they_are, v); return;
        case TMAC_CACHE_Q5_0:
            floats_of_nibbles(block + 6, less_16, v);
            add_16_where_set(block + 2, v);
            return;
        case TMAC_CACHE_Q5_1:
            floats_of_nibbles(block + 8, nibbles_as_they_are, v);
            add_16_where_set(block + 4, v);
            return;
        default: break;
    }
#endif
    int8_t buffer[CACHE_BLOCK];
    const int8_t * codes = codes_of_block(type, block, buffer);
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        v[i] = floats_of_codes(codes + i * FLOATS);
    }
}

// Values [32 * block, 32 * block + vectors * FLOATS) of a row: all 32 or, of a type without blocks, the first 16.
TMAC_INLINE void load_values(const int type, const uint8_t * row, int64_t block, const int vectors,
                             floats v[BLOCK_VECTORS]) {
    if (!is_blocked(type)) {
        const int value_bytes = type == TMAC_CACHE_F32 ? 4 : 2;
        const uint8_t * at = row + block * CACHE_BLOCK * value_bytes;
        for (int i = 0; i < vectors; i++, at += FLOATS * value_bytes) {
            v[i] = type == TMAC_CACHE_F32   ? load_floats((const float *) at)
                   : type == TMAC_CACHE_F16 ? floats_of_scales((const uint16_t *) at)
                                            : floats_of_bf16((const uint16_t *) at);
        }
        return;
    }
    const uint8_t * at = row + block * tmac_cache_block_bytes(type);
    const floats scale = broadcast_half(at), minimum = has_minimum(type) ? broadcast_half(at + 2) : broadcast(0);
    load_codes(type, at, v);
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        v[i] = has_minimum(type) ? multiply_add(v[i], scale, minimum) : multiply_floats(v[i], scale);
    }
}
